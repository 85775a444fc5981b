"""How a target ends: from an error or a job's final to its state, in words and for programs. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from obt_agent.errors import AgentError, Scalar
from obt_agent.protocol.errors import CODE_OF_KIND, ErrorData, WireError
from obt_agent.protocol.remedies import remedy
from obt_server.hub.storage import JobRecord
from obt_server.rollout_storage import Rollout, RolloutTarget, WaitingFor
from obt_server.rollouts.permissions import METHOD_OF_ACTION

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


class _Room(msgspec.Struct, frozen=True):
    """What is read of any result."""

    free_bytes: int | None = None


Changes = dict[str, Any]
"""Fields of a ``RolloutTarget`` that change."""


class _TransferEnd(msgspec.Struct, frozen=True):
    """What is read of a transfer's result; an older agent says less."""

    completed_bytes: int | None = None
    total_bytes: int | None = None
    digest: str | None = None
    digest_before: str | None = None


class _DeletionEnd(msgspec.Struct, frozen=True):
    """What is read of a deletion's result; an older agent says nothing."""

    freed_bytes: int | None = None
    was_loaded: bool | None = None


def kept_error(error: AgentError | WireError) -> WireError:
    """Return an error as it is kept of each machine: short, whatever the machine said."""
    if isinstance(error, WireError):
        code, message, data = error.code, error.message, error.data
    else:
        code, message = CODE_OF_KIND.get(error.kind, -32603), error.message
        data = ErrorData(kind=error.kind, retryable=error.retryable, detail=error.detail)
    if data is not None:
        detail: dict[str, Scalar] = {
            name[:64]: value[:_MAX_DETAIL_CHARS] if isinstance(value, str) else value
            for name, value in list(data.detail.items())[:_MAX_DETAILS]
        }
        data = ErrorData(kind=data.kind[:64], retryable=data.retryable, detail=detail)
    return WireError(code=code, message=message[:MAX_REASON_CHARS], data=data)


def kind_of(error: WireError | None) -> str:
    """The stable word of an error."""
    return "internal" if error is None or error.data is None else error.data.kind


def by_error(error: AgentError | WireError, rollout: Rollout, at: float) -> Changes:
    """A target that ended with an error: refused by the machine's owner or a check there, or failed."""
    kept = kept_error(error)
    kind = kind_of(kept)
    detail = {} if kept.data is None else kept.data.detail
    key = detail.get("policy_key")
    policy_key = key if isinstance(key, str) else None
    line = detail.get("remedy")
    if policy_key is not None and not isinstance(line, str):
        # An older agent names the key alone.
        known: dict[str, Scalar] = {"command": METHOD_OF_ACTION[rollout.action], "model": rollout.model}
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


def ended(state: str, reason: str | None, at: float) -> Changes:
    """The fields that every end has."""
    return {
        "state": state,
        "reason": None if reason is None else reason[:MAX_REASON_CHARS],
        "waiting_for": None,
        "finished_at": at,
        "cancelling": False,
    }


def by_job(job: JobRecord, result: bytes | None, rollout: Rollout, at: float) -> Changes:
    """A target whose job has ended; ``result`` is the job's own, where it is stored."""
    transfer = _decoded(result, _TransferEnd) or _TransferEnd()
    moved: Changes = {"completed_bytes": transfer.completed_bytes, "total_bytes": transfer.total_bytes}
    if transfer.digest_before is not None:
        moved["digest_before"] = transfer.digest_before
    match job.state:
        case "completed":
            return moved | ended("done", None, at) | {"digest_after": transfer.digest}
        case "cancelled":
            return moved | ended("cancelled", None, at)
        case "lost":
            why = "The machine does not know the job any more: its store was replaced."
            return moved | failed("lost", why, at)
        case "interrupted" if job.error is None:
            return moved | failed("interrupted", "The machine was stopped, and gave the job up.", at)
        case _ if job.error is not None:
            return moved | by_error(job.error, rollout, at)
        case _:
            return moved | failed("internal", "It failed, and the machine did not say why.", at)


def waits(waiting_for: WaitingFor, reason: str) -> Changes:
    """A target that waits for something else than its turn."""
    return {"waiting_for": waiting_for, "reason": reason}


def fresh(target: RolloutTarget) -> Changes:
    """A target as before its first attempt, but for the number of the attempt."""
    blank = RolloutTarget(agent_id=target.agent_id, agent_name=target.agent_name, attempt=target.attempt + 1)
    return msgspec.structs.asdict(blank)


def failed(kind: str, message: str, at: float) -> Changes:
    """A target that failed for a reason of the server's own words."""
    data = ErrorData(kind=kind, retryable=kind in _RETRY_HELPS)
    error = WireError(code=CODE_OF_KIND.get(kind, -32603), message=message, data=data)
    return ended("failed", message, at) | {"error": error, "retry_helps": kind in _RETRY_HELPS}


def free_bytes(result: bytes | None) -> int | None:
    """What a result says of the room on the disk of Ollama's models afterwards."""
    room = _decoded(result, _Room)
    return None if room is None else room.free_bytes


def by_deletion(result: bytes, at: float) -> Changes:
    """A target whose model was deleted."""
    deletion = _decoded(result, _DeletionEnd) or _DeletionEnd()
    reason = "It was loaded, and was unloaded for it." if deletion.was_loaded else None
    return ended("done", reason, at) | {"digest_after": None, "freed_bytes": deletion.freed_bytes}


def _decoded(text: bytes | None, kind: Any) -> Any:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=kind)
    # An agent's own words in another shape: the state does not depend on them.
    except msgspec.MsgspecError:
        return None
