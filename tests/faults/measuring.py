"""Runs of three records, which go on after those of an earlier process: for tests of kills between them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from obt_agent.errors import AgentError
from obt_agent.jobs.runner import Cause, JobOutcome, LivePoint, OnProgress
from obt_agent.jobs.store import JobStore, StoredJob
from obt_agent.protocol.jobs import TERMINAL_STATES, JobState

RECORDS = 3

Pad = Callable[[str], str]
"""What a result holds besides its records, by the job's id: it decides its size."""


class Measuring:
    """One run."""

    def __init__(self, outbox: JobStore, job_id: str, restored: int, pad: Pad) -> None:
        self._outbox = outbox
        self._job_id = job_id
        self._restored = restored
        self._pad = pad

    async def execute(self) -> JobOutcome:
        for number in range(self._restored, RECORDS):
            await self._outbox.add_record(self._job_id, str(number).encode())
        records = [record.decode() for record in await self._outbox.records(self._job_id)]
        text = msgspec.json.encode({"records": records, "pad": self._pad(self._job_id)})
        return JobOutcome(state="completed", text=text)

    def stop(self, cause: Cause) -> None:
        """Three records are quickly done."""

    async def live(self, _after: int | None) -> AsyncIterator[LivePoint]:
        nothing: tuple[LivePoint, ...] = ()
        for point in nothing:
            yield point


class MeasuringRunner:
    """Makes such runs, never of a job that has its final."""

    def __init__(self, outbox: JobStore, pad: Pad) -> None:
        self._outbox = outbox
        self._pad = pad

    def begin(self, job: StoredJob, records: Sequence[bytes], _on_progress: OnProgress) -> Measuring:
        assert job.state not in TERMINAL_STATES, f"{job.job_id} ran again after its final"
        return Measuring(self._outbox, job.job_id, len(records), self._pad)

    def ending(
        self, job: StoredJob, _records: Sequence[bytes], state: JobState, error: AgentError | None
    ) -> JobOutcome:
        return JobOutcome(state=state, text=msgspec.json.encode({"starts": job.starts}), error=error)
