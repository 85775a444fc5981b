"""What one agent may make the server keep. An enrolled agent that turns hostile must not fill the disk.

A refusal is an answer (``storage_full``): the agent keeps its result, says so in its log, and sends it again
every 15 minutes, so that nothing is lost while an operator makes room.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from obt_agent.errors import StorageFull
from obt_server.store.column_types import whole_sum
from obt_server.store.tables import JobRow, ResultRow

UNASKED_PARAMS: Final = b"{}"
"""Parameters of a job that this storage never started; those of a started one hold its id."""
ROW_BYTES: Final = 512
"""What a row costs beside its content: many small ones fill a disk as well."""


@dataclass(frozen=True, kw_only=True)
class AgentQuota:
    """Bounds for each agent.

    Args:
        result_bytes: of all results kept, those set aside in a conflict included.
        unasked_jobs: results of jobs that this server does not know: it lost its database, or the agent
            invents them.
        unasked_bytes: of those results.
        conflicts: different results of one job that are set aside; further ones are answered alike and not
            kept, for the agent keeps them.
        model_versions: digests remembered that are no longer installed; the oldest go.
        model_bytes: of what is remembered of those; what is installed is bounded by the list that an agent
            may send (``HubSettings.max_sync_bytes``).
        model_changes: changes of its models that are remembered; the oldest go.
    """

    result_bytes: int = 8 << 30
    unasked_jobs: int = 2_000
    unasked_bytes: int = 1 << 30
    conflicts: int = 3
    model_versions: int = 20_000
    model_bytes: int = 16 << 20
    model_changes: int = 2_000

    def check_unasked(self, db: Session, agent_id: str, more: int) -> None:
        """Whether one more result that nobody asked for is taken.

        Raises:
            StorageFull: too many are kept, or too much.
        """
        # Counted anew each time: a counter of its own could drift from what is there.
        held, count = db.execute(
            select(whole_sum(JobRow.bytes), func.count()).where(
                JobRow.agent_id == agent_id, JobRow.params == UNASKED_PARAMS
            )
        ).one()
        if count >= self.unasked_jobs:
            _refuse(f"{count} results of jobs that it did not start", "unasked_jobs", self.unasked_jobs)
        if (held or 0) + more > self.unasked_bytes:
            _refuse(f"{held or 0} bytes of jobs that it did not start", "unasked_bytes", self.unasked_bytes)

    def check_results(self, db: Session, agent_id: str, more: int) -> None:
        """Whether a result of ``more`` bytes is taken.

        Raises:
            StorageFull: too much is kept.
        """
        # Texts that were set aside in a conflict count too: they fill the same disk.
        held = results_bytes(db, agent_id)
        if held + more > self.result_bytes:
            _refuse(f"{held} bytes of its results", "result_bytes", self.result_bytes)

    def keeps_conflict(self, db: Session, agent_id: str, job_id: str, more: int) -> bool:
        """Whether another different result of a job is set aside."""
        kept = db.scalar(
            select(func.count()).where(
                ResultRow.agent_id == agent_id, ResultRow.job_id == job_id, ResultRow.accepted.is_(False)
            )
        )
        room = results_bytes(db, agent_id) + more <= self.result_bytes
        return (kept or 0) < self.conflicts and room


def results_bytes(db: Session, agent_id: str) -> int:
    """What the results of an agent take."""
    size = func.coalesce(whole_sum(func.length(ResultRow.text) + ROW_BYTES), 0)
    return db.scalar(select(size).where(ResultRow.agent_id == agent_id)) or 0


def _refuse(what: str, bound: str, most: int) -> None:
    raise StorageFull(
        f"The server keeps {what} of this agent, and takes no more: an operator deletes some (DELETE "
        "/benchmarks/JOB), or raises the bound of the server's storage. The agent keeps the result.",
        bound=bound,
        most=most,
    )
