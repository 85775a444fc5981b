"""What the job service needs of a kind of job: a ``JobRunner``, and an ``Execution`` for each run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from obt_agent.errors import AgentError
from obt_agent.jobs.store import StoredJob
from obt_agent.protocol.jobs import JobProgress, JobState

Cause = Literal["cancelled", "interrupted"]
OnProgress = Callable[[JobProgress], None]


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """How a job ended: a terminal state, its result as JSON text, and the error if it failed."""

    state: JobState
    text: bytes
    error: AgentError | None = None


@dataclass(frozen=True, slots=True)
class LivePoint:
    """One sample of a running job's live series; ``t_us`` counts from the start of the run.

    ``behind`` says that newer ones exist already: the reader is still filling in what came before.
    """

    n: int
    t_us: int
    missed: int
    sample: msgspec.Struct
    behind: bool


class Execution(Protocol):
    """One run of one job."""

    async def execute(self) -> JobOutcome:
        """Run to the end; every foreseen ending is a value.

        Cancelling the task is a checkpoint: connections close, and nothing is said.
        """

    def stop(self, cause: Cause) -> None:
        """Stop at once and keep what there is; ``execute`` then returns soon."""

    def live(self, after: int | None, /) -> AsyncIterator[LivePoint]:
        """The live series, from the sample after number ``after``; ends with the run."""


class JobRunner(Protocol):
    """One kind of job."""

    def begin(self, job: StoredJob, records: Sequence[bytes], on_progress: OnProgress, /) -> Execution:
        """Prepare a run; ``records`` are those of earlier runs of the job, which did not come to its end.

        Raises:
            AgentError: it cannot run (the policy or the agent changed since it was stored).
        """

    def ending(
        self, job: StoredJob, records: Sequence[bytes], state: JobState, error: AgentError | None, /
    ) -> JobOutcome:
        """An ending without a run: what the records hold, in this state."""
