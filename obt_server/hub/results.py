"""A job's result as it was sent: joined, unpacked within bounds, and held against its hash. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from typing import Final, Literal

import msgspec

from obt_agent.errors import InvalidParams, TooLarge
from obt_agent.protocol.errors import ErrorData, WireError
from obt_agent.protocol.jobs import JobFinishedParams, JobPartParams
from obt_server.hub.texts import storable

MAX_NAME_CHARS: Final = 512
MAX_DIGEST_CHARS: Final = 128
MAX_ERROR_BYTES: Final = 8192
MAX_RATIO: Final = 128
"""Of a result to its gzip. Results of benchmarks have 5 to 30; gzip itself can reach 1,032."""
FREE_UNPACKED_BYTES: Final = 4 << 20
"""Unpacked at any ratio: a short result may repeat itself much."""
_GZIP: Final = 16 + zlib.MAX_WBITS


class _PlanEnvironment(msgspec.Struct, frozen=True):
    model: str | None = None
    model_digest: str | None = None


class _ResultHead(msgspec.Struct, frozen=True):
    environment: _PlanEnvironment = _PlanEnvironment()


def part_bytes(part: JobPartParams) -> bytes:
    """What a piece holds: UTF-8 of its text, or the gzipped bytes.

    Raises:
        InvalidParams: the base64 is wrong.
    """
    if part.encoding == "identity":
        return part.data.encode()
    try:
        return base64.b64decode(part.data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidParams("params.data: not base64.", field="params.data") from error


def read(
    final: JobFinishedParams, parts: bytes, most_bytes: int
) -> tuple[bytes, str | None, str | None] | None:
    """Return the result's JSON text, and the name and digest of the model that it says it measured.

    None when the pieces are incomplete or differ from the final's hash: ask again. A name or digest longer
    than any that Ollama gives, or that cannot be stored, is None.

    Raises:
        TooLarge: it is over ``most_bytes``, or packed more tightly than results are.
        InvalidParams: an inline result differs from its own hash, or the text is not JSON.
    """
    if final.bytes > most_bytes:
        raise TooLarge(f"A result of {final.bytes} bytes is over the {most_bytes} that are taken.")
    # Before a byte of it is unpacked.
    if final.result is None and final.encoding == "gzip":
        _check_ratio(final.bytes, len(parts))
    text = final.result.encode() if final.result is not None else unpack(parts, final.encoding, final.bytes)
    if text is None or len(text) != final.bytes or hashlib.sha256(text).hexdigest() != final.sha256:
        # The same text would come again, and differ again; of pieces some may be missing.
        if final.result is not None:
            raise InvalidParams("params.sha256: the inline result has another size or sha256.")
        return None
    return text, *_model_of(text)


def _check_ratio(size: int, packed: int) -> None:
    if packed and size > FREE_UNPACKED_BYTES + MAX_RATIO * packed:
        raise TooLarge(
            f"{packed} bytes of gzip would become {size}: at most {MAX_RATIO} times as many are unpacked."
        )


def unpack(parts: bytes, encoding: Literal["identity", "gzip"], expected: int) -> bytes | None:
    """At most one byte more than expected is unpacked: enough to see that it differs."""
    if encoding == "identity":
        return parts
    unpacker = zlib.decompressobj(_GZIP)
    try:
        text = unpacker.decompress(parts, expected + 1)
    except zlib.error:
        return None
    return text if unpacker.eof else None


def _model_of(text: bytes) -> tuple[str | None, str | None]:
    """One pass over the text, which may be long: it checks that it is JSON, and finds the model."""
    try:
        # The parser passes over what it does not read, whether it is UTF-8 or not.
        text.decode()
        environment = msgspec.json.decode(text, type=_ResultHead).environment
    except msgspec.ValidationError:
        _must_be_json(text)  # JSON of another shape is kept as it is
        return None, None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidParams("params.result: not JSON.") from error
    return _short(environment.model, MAX_NAME_CHARS), _short(environment.model_digest, MAX_DIGEST_CHARS)


def _must_be_json(text: bytes) -> None:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except msgspec.MsgspecError as error:
        raise InvalidParams("params.result: not JSON.") from error


def _short(text: str | None, most: int) -> str | None:
    return text if text is not None and storable(text, most) else None


def kept_error(error: WireError | None) -> WireError | None:
    """The error of a final as it is stored: a long message is cut, and details that are long go."""
    if error is None or len(msgspec.json.encode(error)) <= MAX_ERROR_BYTES:
        return error
    data = error.data
    if data is not None:
        data = ErrorData(kind=data.kind[:64], retryable=data.retryable)
    return WireError(code=error.code, message=error.message[:1000], data=data)
