"""Messages of an exchange as bytes. Pure.

Each begins with what it is, the exchange's token, the process that serves it (zeros while the caller does not
know it) and a number. The rest depends on what it is.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from obt_agent import errors
from obt_agent.errors import AgentError, ProtocolError, Scalar
from obt_agent.protocol.errors import CODE_OF_KIND

TOKEN_BYTES: Final = 16
NOBODY: Final = bytes(TOKEN_BYTES)
"""In the place of a process that is not known."""
_HEADER: Final = struct.Struct(">B16s16sI")
_OPEN: Final = struct.Struct(">QQ")
_TOTAL: Final = struct.Struct(">Q")
_PART: Final = struct.Struct(">BQ")
_LENGTH: Final = struct.Struct(">I")
_ALIVE: Final = struct.Struct(">16sIQ")
_SIGNS_IN_MESSAGE: Final = 16_384
LENGTH_BYTES: Final = _LENGTH.size
"""Before each item of a message."""
OVERHEAD_BYTES: Final = 128
"""More than what stands around a piece of text in any of them."""


class Kind(enum.IntEnum):
    """What a message is. Of the caller: OPEN to CANCEL; of who serves: GRANT to ERROR."""

    OPEN = 1
    BODY = 2
    CREDIT = 3
    CANCEL = 4
    CALLER_ALIVE = 5
    GRANT = 6
    ITEMS = 7
    PART = 8
    FINAL = 9
    ERROR = 10
    SERVER_ALIVE = 11
    MARK = 12


OF_CALLERS: Final = frozenset({Kind.BODY, Kind.CREDIT, Kind.CANCEL, Kind.CALLER_ALIVE})
"""What a process takes for the exchanges that it serves; an OPEN comes to a subject that it serves."""


class Whole(enum.IntEnum):
    """What pieces make together."""

    ITEM = 0
    FINAL = 1


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message taken apart; ``rest`` is what its kind says.

    Args:
        kind: what it is.
        token: whose.
        server: the process that serves it, or zeros.
        seq: its number among the data of its direction.
        rest: what follows.
    """

    kind: Kind
    token: bytes
    server: bytes
    seq: int
    rest: memoryview


@dataclass(frozen=True, slots=True)
class Sign:
    """That an exchange is alive.

    Args:
        token: which.
        seq: of the next data that will come.
        granted: bytes that the other side may have sent since the beginning.
    """

    token: bytes
    seq: int
    granted: int


def pack(
    kind: Kind, token: bytes, rest: bytes = b"", *, server: bytes = NOBODY, seq: int = 0, head: bytes = b""
) -> bytes:
    """Return a message: ``head`` and ``rest`` follow what all have."""
    return b"".join((_HEADER.pack(kind, token, server, seq), head, rest))


def unpack(data: bytes) -> Envelope:
    """Take a message apart. Raises ProtocolError where it is none."""
    try:
        kind, token, server, seq = _HEADER.unpack_from(data)
        return Envelope(Kind(kind), token, server, seq, memoryview(data)[_HEADER.size :])
    except (struct.error, ValueError) as error:
        raise ProtocolError("A message of the bus is no message of an exchange.") from error


def unpacked(data: bytes) -> Envelope | None:
    """Take a message apart; None where it is none."""
    try:
        return unpack(data)
    except ProtocolError:
        return None


def open_head(credit: int, total: int) -> bytes:
    """Return what precedes the body's first piece: credit for items, and the body's bytes."""
    return _OPEN.pack(credit, total)


def read_open(rest: memoryview) -> tuple[int, int, memoryview]:
    """Return credit, the body's bytes, and its first piece."""
    credit, total = _unpack_from(_OPEN, rest)
    return credit, total, rest[_OPEN.size :]


def total(count: int) -> bytes:
    """Return a number of bytes since the beginning, for GRANT and CREDIT."""
    return _TOTAL.pack(count)


def read_total(rest: memoryview) -> int:
    """Return it."""
    return int(_unpack_from(_TOTAL, rest)[0])


def items(texts: Sequence[bytes]) -> bytes:
    """Return items for one message."""
    return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))


def read_items(rest: memoryview) -> list[bytes]:
    """Return them. Raises ProtocolError where their lengths do not fit."""
    found = []
    at = 0
    while at < len(rest):
        (length,) = _unpack_from(_LENGTH, rest[at:])
        at += _LENGTH.size
        if at + length > len(rest):
            raise ProtocolError("An item is cut off.")
        found.append(bytes(rest[at : at + length]))
        at += length
    return found


def part_head(whole: Whole, size: int) -> bytes:
    """Return what precedes a piece: of what, and the bytes of all its pieces."""
    return _PART.pack(whole, size)


def read_part(rest: memoryview) -> tuple[Whole, int, memoryview]:
    """Return it, and the piece."""
    whole, size = _unpack_from(_PART, rest)
    try:
        return Whole(whole), size, rest[_PART.size :]
    except ValueError as error:
        raise ProtocolError("A piece is of nothing that is known.") from error


def signs(alive: Sequence[Sign]) -> bytes:
    """Return the signs of many exchanges."""
    return b"".join(_ALIVE.pack(one.token, one.seq, one.granted) for one in alive)


def sign_lists(alive: Sequence[Sign], max_payload: int) -> Iterator[bytes]:
    """Yield the signs of many exchanges, in lists that fit into a message of ``max_payload`` bytes each."""
    most = max(1, min(_SIGNS_IN_MESSAGE, (max_payload - OVERHEAD_BYTES) // _ALIVE.size))
    for at in range(0, len(alive), most):
        yield signs(alive[at : at + most])


def read_signs(rest: memoryview) -> Iterator[Sign]:
    """Yield them."""
    try:
        for token, seq, granted in _ALIVE.iter_unpack(rest):
            yield Sign(token, seq, granted)
    except struct.error as error:
        raise ProtocolError("A list of exchanges is cut off.") from error


def _unpack_from(form: struct.Struct, rest: memoryview) -> tuple[int, ...]:
    try:
        return form.unpack_from(rest)
    except struct.error as error:
        raise ProtocolError("A message of an exchange is cut off.") from error


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as it crosses the bus."""

    kind: str
    message: str
    retryable: bool = False
    retry_after_ms: int | None = None
    detail: dict[str, Scalar] = {}


class ErrorTypes:
    """Errors as bytes, and back as errors of the same class.

    Args:
        more: classes beside those of ``obt_agent.errors`` that have a word on the wire.
    """

    def __init__(self, more: Sequence[type[AgentError]] = ()) -> None:
        # Not all of them: ConfigError, for instance, would end the process that it is raised in.
        known = [
            cls
            for cls in vars(errors).values()
            if isinstance(cls, type) and issubclass(cls, AgentError) and cls.kind in CODE_OF_KIND
        ]
        self._classes = {cls.kind: cls for cls in (*known, *more)}

    def encode(self, error: BaseException) -> bytes:
        """Return an error as bytes; an unforeseen one becomes ``internal`` without its text."""
        if not isinstance(error, AgentError):
            message = "Another server process failed in an unforeseen way; its log has the details."
            return msgspec.json.encode(Failure(kind="internal", message=message))
        return msgspec.json.encode(
            Failure(
                kind=error.kind,
                message=error.message,
                retryable=error.retryable,
                retry_after_ms=error.retry_after_ms,
                detail=error.detail,
            )
        )

    def decode(self, data: memoryview) -> AgentError:
        """Return the error; ``AgentError`` itself where its class is not known here."""
        try:
            failure = msgspec.json.decode(data, type=Failure)
        except msgspec.DecodeError as error:
            raise ProtocolError("An error of another server process cannot be read.") from error
        cls = self._classes.get(failure.kind, AgentError)
        answer = cls(failure.message, retryable=failure.retryable, retry_after_ms=failure.retry_after_ms)
        # Not as arguments: a detail may have the name of one.
        answer.detail.update(failure.detail)
        return answer
