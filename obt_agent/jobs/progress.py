"""Progress of open jobs, sent to the server at most twice a second a job; what is late is dropped."""

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
        # The last state and progress of each open job.
        self._last: dict[str, tuple[JobState, JobProgress]] = {}
        # Set when ``_last`` has something that may not have been sent.
        self._changed = asyncio.Event()

    def get(self, job_id: str) -> JobProgress | None:
        """Return the last progress of a job."""
        return self._last[job_id][1] if job_id in self._last else None

    def note(self, job_id: str, progress: JobProgress, state: JobState = "running") -> None:
        """Note a job's progress; it replaces what was noted before, and not sent yet."""
        if self._last.get(job_id) == (state, progress):
            return
        self._last[job_id] = state, progress
        self._changed.set()

    def forget(self, job_id: str) -> None:
        """Drop a job that is over."""
        self._last.pop(job_id, None)

    async def publish(self, session: Session) -> None:
        """Send what changes to one session, until cancelled.

        Raises:
            LinkLost: the session ended.
        """
        sent: dict[str, tuple[JobState, JobProgress]] = {}
        while True:
            for job_id, (state, progress) in self._last.items():
                if sent.get(job_id) != (state, progress):
                    params = JobProgressParams(job_id=job_id, state=state, progress=progress)
                    session.notify("job.progress", params, droppable=True)
            sent = dict(self._last)
            await asyncio.sleep(self._interval_s)
            self._changed.clear()
            if sent == self._last:
                await self._changed.wait()
