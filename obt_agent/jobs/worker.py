"""The queue of jobs and the one that runs: from ``queued`` to a stored final."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

import msgspec
import structlog

from obt_agent.errors import AgentError, Cancelled, DeadlineExceeded, StorageFailed
from obt_agent.jobs.progress import ProgressPublisher
from obt_agent.jobs.runner import Cause, Execution, JobOutcome, JobRunner
from obt_agent.jobs.store import JobStore, StoredJob
from obt_agent.policy import Policy
from obt_agent.protocol.errors import to_wire
from obt_agent.protocol.jobs import JobKind, JobProgress

log = structlog.get_logger(__name__)

T = TypeVar("T")

LOOK_AGAIN_S: Final = 60.0
"""Quiet hours are looked at again at least this often: clocks and time zones change."""
CHECKPOINT_S: Final = 5.0
_WAITING_FOR_CHARS: Final = 200
_UNFORESEEN: Final = "The job failed in an unforeseen way; the agent's log has the details."


@dataclass(frozen=True)
class WorkerSettings:
    """How patient the worker is.

    A stopped job gets ``stop_within_s`` seconds to give what it has. A job that began ``max_starts`` times
    and took the agent down each time is ended. A final that cannot be written is tried again after
    ``retry_s`` seconds, doubling up to ``retry_max_s``.
    """

    stop_within_s: float = 15.0
    max_starts: int = 3
    retry_s: float = 1.0
    retry_max_s: float = 60.0


class QueuedJob(NamedTuple):
    """A job in the queue."""

    job_id: str
    kind: JobKind
    model: str | None

    def __str__(self) -> str:
        """For those who wait behind it."""
        return f"{self.kind} of {self.model or 'a model'} (job {self.job_id})"


@dataclass
class RunningJob:
    """The job that runs. ``execution`` is None while it is being prepared."""

    entry: QueuedJob
    execution: Execution | None = None
    cause: Cause | None = None
    task: asyncio.Task[JobOutcome] | None = None
    stopping: asyncio.TimerHandle | None = None
    began: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def job_id(self) -> str:
        """Its id."""
        return self.entry.job_id

    def why_stopped(self) -> Cause:
        """The cause; ``interrupted`` when nobody gave one."""
        return self.cause or "interrupted"

    def stop(self, cause: Cause, within_s: float) -> None:
        """Stop it; when it does not give what it has in time, it is cut off."""
        if self.cause is not None:
            return
        self.cause = cause
        if self.execution is not None:
            self.execution.stop(cause)
        if self.task is not None:
            self.stopping = asyncio.get_running_loop().call_later(within_s, self.task.cancel)


class JobWorker:
    """Runs the jobs of a queue, one at a time.

    Args:
        outbox: the store.
        runners: by kind.
        policy: for quiet hours.
        board: where progress goes.
        now: Unix seconds by the best clock there is.
        local_time: for quiet hours.
        settings: see ``WorkerSettings``.
    """

    def __init__(
        self,
        outbox: JobStore,
        runners: Mapping[JobKind, JobRunner],
        policy: Policy,
        board: ProgressPublisher,
        *,
        now: Callable[[], float],
        local_time: Callable[[], dt.datetime],
        settings: WorkerSettings,
    ) -> None:
        self._outbox = outbox
        self._runners = runners
        self._policy = policy
        self._board = board
        self._now = now
        self._local_time = local_time
        self._settings = settings
        self._queue: deque[QueuedJob] = deque()
        self._woken = asyncio.Event()
        self.current: RunningJob | None = None

    def put(self, job_id: str, kind: JobKind, model: str | None = None) -> int:
        """Queue a job; gives how many are before it."""
        position = len(self._queue) + (self.current is not None)
        self._queue.append(QueuedJob(job_id, kind, model))
        self._woken.set()
        self._say_who_waits()
        return position

    def position(self, job_id: str) -> int | None:
        """How many jobs are before a queued one; None when it is not queued."""
        ahead = int(self.current is not None)
        return next((n + ahead for n, entry in enumerate(self._queue) if entry.job_id == job_id), None)

    def remove(self, job_id: str) -> None:
        """Take a job out of the queue."""
        self._queue = deque(entry for entry in self._queue if entry.job_id != job_id)
        self._say_who_waits()

    def _say_who_waits(self) -> None:
        """Note for every queued job its place, and for what it waits."""
        quiet = self._policy.quiet_wait_s(self._local_time()) > 0
        before = [] if self.current is None else [self.current.entry]
        for entry in self._queue:
            waits_for = _waits_for(entry, before, quiet=quiet)
            if waits_for is not None:
                progress = JobProgress(phase="queued", position=len(before), waiting_for=waits_for)
                self._board.note(entry.job_id, progress, "queued")
            before = [*before, entry]

    def stop(self, job_id: str, cause: Cause) -> bool:
        """Stop the running job if it is this one."""
        if self.current is None or self.current.job_id != job_id:
            return False
        self.current.stop(cause, self._settings.stop_within_s)
        return True

    async def run(self) -> None:
        """Take up what an earlier process left, then run jobs for ever.

        Cancelling it is the checkpoint: the running job's connection to Ollama closes, its records are in the
        store, it has no final, and the next process goes on with it.
        """
        for job in await self._patiently("open jobs", self._outbox.open_jobs):
            if job.kind is not None:
                self.put(job.job_id, job.kind, job.model)
                log.info("job.taken_up", job_id=job.job_id, state=job.state, starts=job.starts)
        while True:
            self.current = RunningJob(await self._next())
            self._say_who_waits()
            try:
                await self._run_one(self.current)
            finally:
                self.current = None

    async def _next(self) -> QueuedJob:
        """The first job that may run now."""
        while True:
            self._woken.clear()
            quiet_s = self._policy.quiet_wait_s(self._local_time())
            for entry in self._queue:
                if quiet_s == 0 or entry.kind != "benchmark":
                    self._queue.remove(entry)
                    return entry
            self._say_who_waits()
            await self._woken_within(min(quiet_s, LOOK_AGAIN_S) if self._queue else None)

    async def _woken_within(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _run_one(self, current: RunningJob) -> None:
        job = await self._patiently(current.job_id, lambda: self._outbox.get(current.job_id))
        if job is None or job.terminal or job.kind is None:
            self._board.forget(current.job_id)
            return
        runner = self._runners[job.kind]
        records = await self._records(job)
        try:
            ending = self._ended_before(current, job, runner, records)
            if ending is None:
                ending = await self._attempt(current, job, runner, records)
        except Exception:
            log.exception("job.has_no_ending", job_id=job.job_id)
            ending = _bare_ending(job)
        await self.finish(job, ending)

    async def _records(self, job: StoredJob) -> list[bytes]:
        return await self._patiently(job.job_id, lambda: self._outbox.records(job.job_id))

    def _ended_before(
        self, current: RunningJob, job: StoredJob, runner: JobRunner, records: list[bytes]
    ) -> JobOutcome | None:
        """The ending of a job that is not to run (again)."""
        if current.cause is not None:
            return runner.ending(job, records, current.cause, None)
        if job.starts == 0 and job.not_after is not None and self._now() > job.not_after:
            late = DeadlineExceeded("The job could not start before its not_after.", waited_for="its turn")
            return runner.ending(job, records, "failed", late)
        if job.starts >= self._settings.max_starts:
            often = Cancelled(f"The agent ended {job.starts} times while this job ran; it is not run again.")
            return runner.ending(job, records, "interrupted", often)
        return None

    async def _attempt(
        self, current: RunningJob, job: StoredJob, runner: JobRunner, records: list[bytes]
    ) -> JobOutcome:
        """Run the job; whatever it raises becomes its ending, but for the cancellation of the worker."""
        try:
            await self._outbox.start(job.job_id)
            self._board.note(job.job_id, JobProgress(phase="starting"))
            log.info("job.started", job_id=job.job_id, kind=job.kind, starts=job.starts + 1)
            return await self._executed(current, job, runner, records)
        except AgentError as error:
            return await self._out_of_records(job, runner, error)
        except Exception:
            log.exception("job.failed_unforeseen", job_id=job.job_id)
            return await self._out_of_records(job, runner, AgentError(_UNFORESEEN))

    async def _out_of_records(self, job: StoredJob, runner: JobRunner, error: AgentError) -> JobOutcome:
        return runner.ending(job, await self._records(job), "failed", error)

    async def _executed(
        self, current: RunningJob, job: StoredJob, runner: JobRunner, records: list[bytes]
    ) -> JobOutcome:
        current.execution = runner.begin(job, records, lambda p: self._board.note(job.job_id, p))
        if current.cause is not None:
            return runner.ending(job, records, current.cause, None)
        current.task = asyncio.create_task(current.execution.execute(), name=f"job {job.job_id}")
        current.began.set()
        try:
            await asyncio.wait([current.task])
        except asyncio.CancelledError:
            await _end(current.task)
            raise
        finally:
            if current.stopping is not None:
                current.stopping.cancel()
        if current.task.cancelled():
            log.error("job.cut_off", job_id=job.job_id)
            left = await self._records(job)
            return runner.ending(job, left, current.why_stopped(), None)
        return current.task.result()

    async def finish(self, job: StoredJob, ending: JobOutcome) -> None:
        """Store the final, however long the disk takes to have room for it."""
        error = None if ending.error is None else to_wire(ending.error)

        async def store() -> None:
            stored = await self._outbox.finish(job.job_id, ending.state, ending.text, error)
            if not stored and await self._outbox.get(job.job_id) is None:  # a damaged store took it along
                await self._outbox.restore(job)
                await self._outbox.finish(job.job_id, ending.state, ending.text, error)

        await self._patiently(job.job_id, store)
        self._board.forget(job.job_id)
        log.info("job.finished", job_id=job.job_id, kind=job.kind, state=ending.state, bytes=len(ending.text))

    async def _patiently(self, what: str, use: Callable[[], Awaitable[T]]) -> T:
        """Use the store, again and again while it cannot be used: the queue waits, and nothing is lost."""
        wait_s = self._settings.retry_s
        while True:
            try:
                return await use()
            except StorageFailed as error:
                log.error("job.store_fails", job_id=what, reason=error.message, again_in_s=wait_s)  # noqa: TRY400 - the message says it all
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, self._settings.retry_max_s)


def _bare_ending(job: StoredJob) -> JobOutcome:
    """For a job of which not even a result can be made: it must not end the agent, nor come back for ever."""
    text = msgspec.json.encode({"id": job.job_id, "status": "failed", "error": _UNFORESEEN})
    return JobOutcome(state="failed", text=text, error=AgentError(_UNFORESEEN))


def _waits_for(entry: QueuedJob, before: Sequence[QueuedJob], *, quiet: bool) -> str | None:
    """In words, what a queued job waits for; None when its turn has come."""
    if quiet and entry.kind == "benchmark":
        return "the end of quiet hours (policy.quiet_hours)"
    if not before:
        return None
    others = f" and {len(before) - 1} more" if len(before) > 1 else ""
    return f"{before[0]}"[:_WAITING_FOR_CHARS] + others


async def _end(task: asyncio.Task[JobOutcome]) -> None:
    """Cancel a run and give it a moment to close its connections."""
    task.cancel()
    await asyncio.wait([task], timeout=CHECKPOINT_S)
