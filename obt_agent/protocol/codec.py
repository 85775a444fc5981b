"""Frames to messages and back. Pure: bytes in, values out; every refusal brings its answer.

A frame is checked in this order, so that the cost of refusing it is bounded: size, UTF-8, depth, JSON, shape.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from obt_agent.errors import InvalidParams, ProtocolError
from obt_agent.json_depth import deeper_than
from obt_agent.protocol import limits
from obt_agent.protocol.envelope import ErrorResponse, Message, Notification, Request, RequestId, Response
from obt_agent.protocol.errors import CODE_OF_KIND, ErrorData, WireError

T = TypeVar("T")

_SHOWN_CHARS: Final = 200
"""Of the library's words, which may quote a value of the peer's at any length."""
# JSON-RPC lets them be left out; every method here takes an object.
_NO_PARAMS: Final = msgspec.Raw(b"{}")


class FrameError(ProtocolError):
    """A frame that is no message.

    ``id`` is the request's id where it could be read, else None; ``wire`` is the error object to answer with.
    ``kind`` in ``wire`` is ``parse_error``, ``invalid_request``, ``invalid_params`` or ``too_large``.
    """

    def __init__(
        self, message: str, *, kind: str = "invalid_request", request_id: RequestId | None = None
    ) -> None:
        super().__init__(message)
        self.id = request_id
        self.wire = WireError(code=CODE_OF_KIND[kind], message=message, data=ErrorData(kind=kind))


class _RawFrame(msgspec.Struct):
    """Every field still JSON, so that a wrong one is reported with the id beside it."""

    jsonrpc: msgspec.Raw = msgspec.Raw(b"")
    id: msgspec.Raw = msgspec.Raw(b"")
    method: msgspec.Raw = msgspec.Raw(b"")
    params: msgspec.Raw = _NO_PARAMS
    result: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"")


_FRAMES: Final = msgspec.json.Decoder(_RawFrame)
_ENCODER: Final = msgspec.json.Encoder()


def decode(frame: str | bytes, *, max_bytes: int = limits.MAX_FRAME_BYTES) -> Message:
    """Parse one text frame of at most ``max_bytes`` UTF-8 bytes.

    Raises:
        FrameError: it is too large, no UTF-8, no JSON, too deep, a batch, or no JSON-RPC 2.0 message.
    """
    # Before the parser: depth costs it stack, and a batch would be one frame that is many.
    data = _checked_bytes(frame, max_bytes)
    if data.lstrip()[:1] == b"[":
        raise FrameError("Batches are not part of obt.v1: send one object a frame.")
    try:
        parts = _FRAMES.decode(data)
    except msgspec.ValidationError as error:
        raise FrameError("A frame must hold one JSON-RPC 2.0 object.") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise FrameError(f"The frame is not JSON: {error}.", kind="parse_error") from error
    return _message(parts)


def _checked_bytes(frame: str | bytes, max_bytes: int) -> bytes:
    # Lone surrogates pass here and fail below, with the position in the answer.
    data = frame.encode("utf-8", "surrogatepass") if isinstance(frame, str) else frame
    if len(data) > max_bytes:
        raise FrameError(f"The frame has {len(data)} bytes; at most {max_bytes} are taken.", kind="too_large")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FrameError(f"The frame is not UTF-8 at byte {error.start}.", kind="parse_error") from error
    try:
        check_depth(data)
    except ProtocolError as error:
        raise FrameError(error.message, kind="invalid_request") from error
    return data


def check_depth(data: bytes, limit: int = limits.MAX_DEPTH) -> None:
    """Refuse JSON text that nests deeper than ``limit`` arrays and objects.

    Raises:
        ProtocolError: it is deeper.
    """
    if deeper_than(data, limit):
        raise ProtocolError(f"JSON may nest at most {limit} levels deep here.")


def _message(parts: _RawFrame) -> Message:
    request_id = _read_id(parts.id)
    if bytes(parts.jsonrpc) != b'"2.0"':
        raise FrameError('"jsonrpc" must be "2.0".', request_id=request_id)
    # Lengths by memoryview: ``bytes`` would copy up to a mebibyte to see that it is there.
    if memoryview(parts.method).nbytes:
        return _call(parts, request_id)
    if memoryview(parts.error).nbytes:
        return ErrorResponse(id=request_id, error=_read_error(parts.error))
    if memoryview(parts.result).nbytes and request_id is not None:
        return Response(id=request_id, result=parts.result)
    raise FrameError('A message has "method", or "id" with "result" or "error".', request_id=request_id)


def _call(parts: _RawFrame, request_id: RequestId | None) -> Request | Notification:
    try:
        method = msgspec.json.decode(parts.method, type=str)
    except msgspec.MsgspecError as error:
        raise FrameError('"method" must be a string.', request_id=request_id) from error
    # By its first byte: the whole is decoded once, as the method's own type.
    if bytes(memoryview(parts.params)[:1]) != b"{":
        raise FrameError('"params" must be an object.', kind="invalid_params", request_id=request_id)
    if not bytes(parts.id):
        return Notification(method=method, params=parts.params)
    # JSON-RPC 2.0 allows it and advises against it: its answer looks like one to a frame that was unreadable.
    if request_id is None:
        raise FrameError("A request's id must not be null.")
    return Request(id=request_id, method=method, params=parts.params)


def _read_id(raw: msgspec.Raw) -> RequestId | None:
    text = bytes(raw)
    if text in (b"", b"null"):
        return None
    try:
        value: RequestId = msgspec.json.decode(text, type=int | str)
    except msgspec.MsgspecError as error:
        raise FrameError('"id" must be an integer or a string.') from error
    if not valid_id(value):
        raise FrameError(
            f'"id" must be 0 to {limits.MAX_ID}, or 1 to {limits.MAX_ID_CHARS} ASCII characters.'
        )
    return value


def valid_id(value: RequestId) -> bool:
    """Whether a request may carry this id."""
    if isinstance(value, str):
        return 0 < len(value) <= limits.MAX_ID_CHARS and value.isascii()
    return 0 <= value <= limits.MAX_ID


def _read_error(raw: msgspec.Raw) -> WireError:
    """A request must end even when the peer's error object is malformed."""
    try:
        return msgspec.json.decode(raw, type=WireError)
    except msgspec.MsgspecError:
        return WireError(
            code=CODE_OF_KIND["internal"], message="The peer answered with a malformed error object."
        )


# One for each type: making a decoder costs more than most messages do.
_DECODERS: Final[dict[Any, msgspec.json.Decoder[Any]]] = {}


def _decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    if type_ not in _DECODERS:
        _DECODERS[type_] = msgspec.json.Decoder(type_)
    return _DECODERS[type_]


def convert(raw: msgspec.Raw | bytes, type_: type[T], *, where: str = "params") -> T:
    """Turn JSON into a value of ``type_``; unknown fields are ignored.

    Raises:
        InvalidParams: a field is missing or wrong; the message names its path below ``where``.
    """
    try:
        value: T = _decoder(type_).decode(raw)
    except (msgspec.MsgspecError, RecursionError) as error:
        # The library's words end in the path, as "- at `$.a.b`".
        text = str(error)
        problem, _, path = text.partition(" - at `$")
        field = where + path.rstrip("`")
        raise InvalidParams(f"{field}: {problem[:_SHOWN_CHARS]}.", field=field) from error
    return value


def encode_request(request_id: RequestId, method: str, params: msgspec.Struct | msgspec.Raw) -> bytes:
    """The frame of a request."""
    return _ENCODER.encode({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})


def encode_notification(method: str, params: msgspec.Struct | msgspec.Raw) -> bytes:
    """The frame of a notification."""
    return _ENCODER.encode({"jsonrpc": "2.0", "method": method, "params": params})


def encode_result(request_id: RequestId, result: msgspec.Struct | msgspec.Raw | dict[str, Any]) -> bytes:
    """The frame of a successful answer."""
    return _ENCODER.encode({"jsonrpc": "2.0", "id": request_id, "result": result})


def encode_error(request_id: RequestId | None, error: WireError) -> bytes:
    """The frame of a failed answer; ``id`` is None when the request's id could not be read."""
    return _ENCODER.encode({"jsonrpc": "2.0", "id": request_id, "error": error})
