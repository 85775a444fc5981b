"""Progress of open jobs, told to the server at most twice a second a job; what is late is dropped."""

from __future__ import annotations

import asyncio
from typing import Final

from obt_agent.protocol.jobs import JobProgress, JobProgressParams, JobState
from obt_agent.session import Session

INTERVAL_S: Final = 0.5


class ProgressPublisher:
    """The last progress of each job that runs or waits for its turn.

    Args:
        interval_s: least seconds between two notifications of a job.
    """

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._last: dict[str, tuple[JobState, JobProgress]] = {}
        self._version = 0
        self._changed = asyncio.Event()

    def get(self, job_id: str) -> JobProgress | None:
        """The last progress of a job."""
        return self._last[job_id][1] if job_id in self._last else None

    def note(self, job_id: str, progress: JobProgress, state: JobState = "running") -> None:
        """A job came on; what was noted before, and not told yet, is not told any more."""
        if self._last.get(job_id) == (state, progress):
            return
        self._last[job_id] = state, progress
        self._version += 1
        self._changed.set()

    def forget(self, job_id: str) -> None:
        """The job is over."""
        self._last.pop(job_id, None)

    async def tell(self, peer: Session) -> None:
        """Send what changes to one session, until cancelled.

        Raises:
            LinkLost: the session ended.
        """
        told: dict[str, tuple[JobState, JobProgress]] = {}
        while True:
            for job_id, (state, progress) in self._last.items():
                if told.get(job_id) != (state, progress):
                    params = JobProgressParams(job_id=job_id, state=state, progress=progress)
                    peer.notify("job.progress", params, droppable=True)
            told = dict(self._last)
            await asyncio.sleep(self._interval_s)
            self._changed.clear()
            if told == self._last:
                await self._changed.wait()
