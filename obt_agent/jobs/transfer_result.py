"""The result of a pull or a create."""

from __future__ import annotations

import msgspec

from obt_agent.errors import AgentError
from obt_agent.jobs.runner import JobOutcome
from obt_agent.jobs.store import StoredJob
from obt_agent.protocol.errors import WireError, to_wire
from obt_agent.protocol.jobs import JobKind, JobState


class TransferResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Result of a pull or a create. Times are seconds.

    ``digest_before`` and ``digest`` are those of the name before and afterwards, as Ollama lists them; null
    where it had or has none. ``free_bytes`` is what the disk of Ollama's models has free afterwards.
    """

    job_id: str
    kind: JobKind
    model: str
    state: JobState
    completed_bytes: int | None = None
    total_bytes: int | None = None
    duration_s: float | None = None
    digest_before: str | None = None
    digest: str | None = None
    free_bytes: int | None = None
    error: WireError | None = None


def ending(
    job: StoredJob, state: JobState, error: AgentError | None, **seen: float | str | None
) -> JobOutcome:
    """Return how a transfer ended; ``seen`` are further fields of its result."""
    result = TransferResult(
        job_id=job.job_id,
        kind=job.kind or "pull",
        model=job.model or "",
        state=state,
        error=None if error is None else to_wire(error),
    )
    text = msgspec.json.encode(msgspec.structs.replace(result, **seen))
    return JobOutcome(state=state, text=text, error=error)
