"""Errors on the wire: kinds, JSON-RPC codes, and the way to and from exceptions."""

from __future__ import annotations

from typing import Final

import msgspec

from obt_agent import errors
from obt_agent.protocol.remedies import with_remedy
from obt_agent.wire_types import Int64

CODE_OF_KIND: Final[dict[str, int]] = {
    "parse_error": -32700,
    "invalid_request": -32600,
    "unknown_method": -32601,
    "invalid_params": -32602,
    "internal": -32603,
    "ollama_unavailable": -32001,
    "model_not_found": -32002,
    "busy": -32003,
    "cancelled": -32004,
    "not_permitted": -32005,
    "timeout": -32006,
    "ollama_error": -32007,
    "too_large": -32008,
    "job_not_found": -32009,
    "unsupported": -32010,
    "stream_incomplete": -32011,
    "job_conflict": -32012,
    "storage_full": -32013,
    "link_lost": -32014,
    "storage_failed": -32015,
    "storage_low": -32016,
    "digest_differs": -32017,
}
KIND_OF_CODE: Final[dict[int, str]] = {code: kind for kind, code in CODE_OF_KIND.items()}

# Only kinds of the wire: a server must not be able to raise a ``ConfigError`` here, which ends the process.
_CLASS_OF_KIND: Final[dict[str, type[errors.AgentError]]] = {
    cls.kind: cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, errors.AgentError) and cls.kind in CODE_OF_KIND
}


class StreamEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How far a stream had come when it ended.

    ``next_seq`` is the ``seq`` that the next ``stream.data`` would have had: how many there were. ``dropped``
    counts samples of a live series that a newer one replaced for want of credit; 0 for every other stream.
    """

    next_seq: Int64
    dropped: Int64 = 0


class ErrorData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``error.data``: the stable word, whether to try again, and scalars for programs."""

    kind: str
    retryable: bool = False
    retry_after_ms: Int64 | None = None
    detail: dict[str, str | Int64 | float | bool | None] = {}
    stream: StreamEnd | None = None


class WireError(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A JSON-RPC error object."""

    code: Int64
    message: str
    data: ErrorData | None = None


def to_wire(error: BaseException, stream: StreamEnd | None = None) -> WireError:
    """Turn an exception into an error object; anything unforeseen becomes ``internal`` without its text.

    No traceback and no text of a foreign exception crosses the wire: it might hold a secret.
    """
    if isinstance(error, errors.AgentError) and error.kind in CODE_OF_KIND:
        data = ErrorData(
            kind=error.kind,
            retryable=error.retryable,
            retry_after_ms=error.retry_after_ms,
            detail=with_remedy(error.detail),
            stream=stream,
        )
        return WireError(code=CODE_OF_KIND[error.kind], message=error.message, data=data)
    message = "The agent failed in an unforeseen way; its log (journalctl -u obt-agent) has the details."
    return WireError(
        code=CODE_OF_KIND["internal"], message=message, data=ErrorData(kind="internal", stream=stream)
    )


def from_wire(error: WireError) -> errors.AgentError:
    """The exception that a received error object stands for (``AgentError`` itself for unknown codes)."""
    data = error.data
    # The word counts; the number is for clients of JSON-RPC that read no more than that.
    kind = data.kind if data is not None else KIND_OF_CODE.get(error.code, "internal")
    cls = _CLASS_OF_KIND.get(kind, errors.AgentError)
    if data is None:
        return cls(error.message)
    detail = {key: value for key, value in data.detail.items() if key not in _RESERVED}
    return cls(error.message, retryable=data.retryable, retry_after_ms=data.retry_after_ms, **detail)


# Arguments of the error's own: a server's detail of such a name would be taken for them.
_RESERVED: Final = frozenset({"message", "retryable", "retry_after_ms", "self"})
