"""How a target ends: from an error or a job's final to its state, in words and for programs. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from obt_agent.errors import AgentError
from obt_server.hub.storage import JobRecord
from obt_server.machine_jobs import failures
from obt_server.machine_jobs.failures import Changes, ended
from obt_server.rollout_storage import Rollout, RolloutTarget
from obt_server.rollouts.permissions import METHOD_OF_ACTION
from obt_server.storage import Reported


class _Room(msgspec.Struct, frozen=True):
    """What is read of any result."""

    free_bytes: Reported | None = None


class _TransferEnd(msgspec.Struct, frozen=True):
    """What is read of a transfer's result; an older agent says less."""

    completed_bytes: Reported | None = None
    total_bytes: Reported | None = None
    digest: str | None = None
    digest_before: str | None = None


class _DeletionEnd(msgspec.Struct, frozen=True):
    """What is read of a deletion's result; an older agent says nothing."""

    freed_bytes: Reported | None = None
    was_loaded: bool | None = None


def by_error(error: AgentError, rollout: Rollout, at: float) -> Changes:
    """A target that ended with an error: refused by the machine's owner or a check there, or failed."""
    return failures.by_error(error, METHOD_OF_ACTION[rollout.action], rollout.model, at)


def by_job(job: JobRecord, result: bytes | None, rollout: Rollout, at: float) -> Changes:
    """A target whose job has ended; ``result`` is the job's own, where it is stored."""
    transfer = _decoded(result, _TransferEnd) or _TransferEnd()
    moved: Changes = {"completed_bytes": transfer.completed_bytes, "total_bytes": transfer.total_bytes}
    if transfer.digest_before is not None:
        moved["digest_before"] = transfer.digest_before
    if job.state == "completed":
        return moved | ended("done", None, at) | {"digest_after": transfer.digest}
    method = METHOD_OF_ACTION[rollout.action]
    return moved | failures.by_job_state(job.state, job.error, method, rollout.model, at)


def fresh(target: RolloutTarget) -> Changes:
    """A target as before its first attempt, but for the number of the attempt."""
    blank = RolloutTarget(agent_id=target.agent_id, agent_name=target.agent_name, attempt=target.attempt + 1)
    return msgspec.structs.asdict(blank)


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
    except (msgspec.MsgspecError, RecursionError):
        return None
