"""How work on a machine ends without success, in words and for programs. Pure."""

from __future__ import annotations

from typing import Any, Final

from obt_agent.errors import AgentError, Scalar
from obt_agent.protocol.errors import CODE_OF_KIND, ErrorData, WireError
from obt_agent.protocol.remedies import remedy
from obt_server.storage import MOST_REPORTED

MAX_REASON_CHARS: Final = 500
_MAX_DETAILS: Final = 8
_MAX_DETAIL_CHARS: Final = 500
_RETRY_HELPS: Final = frozenset(
    {
        "ollama_unavailable",
        "stream_incomplete",
        "busy",
        "timeout",
        "link_lost",
        "agent_offline",
        "storage_failed",
        "storage_full",
        "storage_low",
        "interrupted",
        "lost",
    }
)
"""Kinds of errors after which the same may succeed later, whatever the error itself says."""
_PASSING: Final = (
    "timeout",
    "timed out",
    "no such host",
    "connection re",
    "eof",
    "no space left",
    "max retries exceeded",
    "server misbehaving",
    "unreachable",
    "tls handshake",
    "status 5",
)
"""In Ollama's words of an error that passes: networks, registries, and disks that somebody makes room on."""

Changes = dict[str, Any]
"""Fields of a rollout's target or a campaign's cell that change."""


def kept_error(error: AgentError | WireError) -> WireError:
    """Return an error as it is kept of each machine: short, whatever the machine said."""
    if isinstance(error, WireError):
        code, message, data = error.code, error.message, error.data
    else:
        code, message = CODE_OF_KIND.get(error.kind, -32603), error.message
        data = ErrorData(kind=error.kind, retryable=error.retryable, detail=error.detail)
    if data is not None:
        detail: dict[str, Scalar] = {
            name[:64]: _kept(value) for name, value in list(data.detail.items())[:_MAX_DETAILS]
        }
        data = ErrorData(kind=data.kind[:64], retryable=data.retryable, detail=detail)
    return WireError(code=code, message=message[:MAX_REASON_CHARS], data=data)


def _kept(value: Scalar) -> Scalar:
    if isinstance(value, str):
        return value[:_MAX_DETAIL_CHARS]
    # More than 64 bits cannot be stored: the machine may say any number.
    return value if isinstance(value, float) or value is None or abs(value) <= MOST_REPORTED else None


def kind_of(error: WireError | None) -> str:
    """The stable word of an error."""
    return "internal" if error is None or error.data is None else error.data.kind


def by_error(error: AgentError | WireError, method: str, model: str, at: float) -> Changes:
    """What ended with an error: refused by the machine's owner or a check there, or failed.

    Args:
        error: what the machine said.
        method: the command that was asked for.
        model: on which model.
        at: when.
    """
    kept = kept_error(error)
    kind = kind_of(kept)
    detail = {} if kept.data is None else kept.data.detail
    key = detail.get("policy_key")
    policy_key = key if isinstance(key, str) else None
    line = detail.get("remedy")
    if policy_key is not None and not isinstance(line, str):
        # An older agent names the key alone.
        known: dict[str, Scalar] = {"command": method, "model": model}
        line = remedy(policy_key, known | detail)
    refused = kind in ("not_permitted", "storage_low")
    return ended("refused" if refused else "failed", kept.message, at) | {
        "error": kept,
        "policy_key": policy_key,
        "remedy": line,
        "retry_helps": _retry_helps(kind, kept),
    }


def _retry_helps(kind: str, error: WireError) -> bool:
    if kind in _RETRY_HELPS or (error.data is not None and error.data.retryable):
        return True
    # Ollama has one kind for everything that goes wrong at a registry; its words tell which.
    text = error.message.lower()
    return kind == "ollama_error" and any(word in text for word in _PASSING)


def by_job_state(state: str, error: WireError | None, method: str, model: str, at: float) -> Changes:
    """What ended because its job did, without success."""
    match state:
        case "cancelled":
            return ended("cancelled", None, at)
        case "lost":
            return failed("lost", "The machine does not know the job any more: its store was replaced.", at)
        case "interrupted" if error is None:
            return failed("interrupted", "The machine was stopped, and gave the job up.", at)
        case _ if error is not None:
            return by_error(error, method, model, at)
        case _:
            return failed("internal", "It failed, and the machine did not say why.", at)


def ended(state: str, reason: str | None, at: float) -> Changes:
    """The fields that every end has."""
    return {
        "state": state,
        "reason": None if reason is None else reason[:MAX_REASON_CHARS],
        "waiting_for": None,
        "finished_at": at,
        "cancelling": False,
    }


def failed(kind: str, message: str, at: float) -> Changes:
    """What failed for a reason of the server's own words."""
    data = ErrorData(kind=kind, retryable=kind in _RETRY_HELPS)
    error = WireError(code=CODE_OF_KIND.get(kind, -32603), message=message, data=data)
    return ended("failed", message, at) | {"error": error, "retry_helps": kind in _RETRY_HELPS}


def waits(waiting_for: str, reason: str) -> Changes:
    """What waits for something else than its turn."""
    return {"waiting_for": waiting_for, "reason": reason}
