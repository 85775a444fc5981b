"""One job on one machine: the start, whatever happens to the link, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from obt_agent.errors import AgentError, Busy, DeadlineExceeded, JobNotFound, LinkLost
from obt_agent.protocol.jobs import JobProgress
from obt_agent.protocol.limits import MAX_NOT_AFTER_S
from obt_server.hub import AgentOffline, Hub, OutOfReach
from obt_server.hub.storage import ENDED_STATES, HubStorage, JobChange, JobRecord
from obt_server.machine_jobs import failures
from obt_server.machine_jobs.failures import Changes
from obt_server.machine_jobs.settings import MachineJobSettings
from obt_server.replica_storage import LeaseLost
from obt_server.storage import StorageUnavailable

_CLOCKS_S: Final = 3600.0
"""Off the protocol's bound on ``not_after``, for clocks that differ."""
_HELD_BACK: Final = frozenset({"queued", "waiting"})
"""Phases of a job's progress in which it does not move: others are before it, or a benchmark runs."""


class Postponed(Exception):
    """The machine was not asked, or did not do it: it is asked again.

    Args:
        reason: in words.
        again_in_s: seconds until the next try, where no event announces it.
        next_attempt: whether the machine refused this attempt, so that its job's id is used up.
    """

    def __init__(self, reason: str, *, again_in_s: float | None = None, next_attempt: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.again_in_s = again_in_s
        self.next_attempt = next_attempt


class AlreadyEnded(Exception):
    """What the work was for has ended by somebody else's doing: there is nothing more to store of it."""


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """The job that is wanted. ``params`` is called for each start; ``attempt`` counts from 1."""

    agent_id: str
    job_id: str
    method: str
    params: Callable[[], dict[str, Any]]
    attempt: int


@dataclass(frozen=True)
class JobEnd:
    """How an attempt ended: with its job, with the machine's refusal of the start, or before it was sent."""

    job: JobRecord | None = None
    error: AgentError | None = None


class JobAttempt:
    """One job on one machine. Its id is stored by the caller before ``run``, and is the same after a restart.

    Args:
        hub: the live agents.
        storage: where the hub keeps jobs.
        settings: numbers.
        request: the job.
        note: stores what people see of a job that has not ended.
    """

    def __init__(
        self,
        hub: Hub,
        storage: HubStorage,
        settings: MachineJobSettings,
        request: JobRequest,
        note: Callable[[Changes], Awaitable[None]],
    ) -> None:
        self._hub, self._storage, self._settings = hub, storage, settings
        self._request = request
        self._agent_id = request.agent_id
        self._note = note
        # Set when something may have changed: the job, the machine's link, or what people want.
        self._wake = asyncio.Event()
        self._cancelling = False
        # The session in which the machine said that it stops: asked there again, it would say the same.
        self._stops_in: int | None = None
        # Loop time from which a start that was not answered is sent again.
        self._start_due = 0.0

    def wake(self) -> None:
        """Look again at once: an event says that something changed."""
        self._wake.set()

    def cancel(self) -> None:
        """End the job as soon as the machine can be asked to."""
        self._cancelling = True
        self._wake.set()

    async def run(self) -> JobEnd:
        """Return how it ended.

        Raises:
            Postponed: the machine is to be asked again.
        """
        while True:
            job = await self._storage.job(self._agent_id, self._request.job_id)
            # An agent's word that it is complete comes before its result, and is no end.
            if job is not None and _ended(job):
                if failures.kind_of(job.error) == "busy" and job.sha256 is None:
                    raise self._busy(None)
                return JobEnd(job=job)
            if self._cancelling:
                if job is None:
                    return JobEnd()
                await self._cancel_job(job)
            elif job is None or job.state == "starting":
                error = await self._start_job(job)
                if error is not None:
                    return JobEnd(error=error)
            await self._note(self._seen(job))
            await self._wait()

    async def _start_job(self, job: JobRecord | None) -> AgentError | None:
        """Send the start, unless one was sent a moment ago; return the machine's refusal, if it refused."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._start_due:
            return None
        self._start_due = loop.time() + self._settings.start_again_s
        params = {"job_id": self._request.job_id, **self._request.params()}
        try:
            await self._hub.start_job(self._agent_id, self._request.method, params)
        except AgentOffline as error:
            # The hub stored nothing, or has it and sends it itself when the machine is back.
            if job is None:
                raise Postponed("The machine is offline.") from error
        except (LinkLost, OutOfReach, StorageUnavailable):
            # It may have arrived, or be stored: it is repeated with the same id, here or by the hub when the
            # machine is back.
            self._start_due = 0.0
        except DeadlineExceeded as error:
            # Its own deadline, or the machine's word that ``not_after`` has passed.
            if not error.retryable:
                return error
        # Nothing was sent, and nothing is stored of it: the term of this leader is over.
        except LeaseLost:
            raise
        except Busy as error:
            raise self._busy(error) from error
        except AgentError as error:
            return error
        return None

    def _busy(self, error: Busy | None) -> Postponed:
        """The machine has as much to do as it takes: later, under another id, for this one is used up."""
        shortest, longest = self._settings.busy_retry_s
        wait_s = min(longest, shortest * 2 ** min(self._request.attempt - 1, 10))
        if error is not None and error.retry_after_ms is not None:
            wait_s = min(longest, max(wait_s, error.retry_after_ms / 1000))
        return Postponed("The machine has as much work as it takes.", again_in_s=wait_s, next_attempt=True)

    def _session(self) -> int | None:
        presence = self._hub.presence(self._agent_id)
        return None if presence is None else presence.session

    async def _cancel_job(self, job: JobRecord) -> None:
        session = self._session()
        if session is not None and session == self._stops_in:
            return
        try:
            answer = await self._hub.cancel_job(self._agent_id, job.job_id)
        except (AgentOffline, LinkLost, DeadlineExceeded, OutOfReach, StorageUnavailable):
            return  # asked again when the machine is back
        except JobNotFound:
            state = "unknown"
        else:
            state = answer.state
            # Reached before it was seen here: the session is the one that is seen first.
            self._stops_in = session or self._session()
        if state == "unknown":
            # The agent remembers it, and will not run a start that comes late; nor is one sent any more.
            change = JobChange(state="cancelled", finished_at=time.time())
            await self._storage.change_job(self._agent_id, job.job_id, change)
            self._wake.set()

    def _seen(self, job: JobRecord | None) -> Changes:
        """What a person sees of a job that has not ended."""
        presence = self._hub.presence(self._agent_id)
        if self._cancelling:
            ask = "The machine is asked to stop." if presence else "It stops when the machine is back."
            return {"reason": ask}
        if job is None or job.state == "starting":
            return {"state": "starting", "waiting_for": None}
        if presence is None:
            return {"reason": "The machine is offline; it goes on, and says how far it is when it is back."}
        said = presence.progress.get(job.job_id)
        progress = None if said is None else said.progress
        if job.state in ("accepted", "queued") or held_back(progress):
            why = (progress and progress.waiting_for) or "the jobs of the machine that are before it"
            reason = f"It waits for {why}."[: failures.MAX_REASON_CHARS]
            return {"state": "waiting", "waiting_for": "job", "reason": reason}
        return {"state": "running", "waiting_for": None, "reason": None}

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.poll_s):
                await self._wake.wait()
        self._wake.clear()


def _ended(job: JobRecord) -> bool:
    return job.state in ENDED_STATES and (job.state != "completed" or job.sha256 is not None)


def latest_start(until: float | None) -> float:
    """The ``not_after`` of a start: ``until``, or as late as the protocol takes where an operator cancels."""
    latest = time.time() + MAX_NOT_AFTER_S - _CLOCKS_S
    return latest if until is None else max(time.time() + 1, min(latest, until))


def held_back(progress: JobProgress | None) -> bool:
    """Whether a job stands still for other work of its machine."""
    return progress is not None and progress.phase in _HELD_BACK
