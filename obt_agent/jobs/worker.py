"""A queue of jobs, and the one of them that runs: from ``queued`` to a stored final."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

import msgspec
import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential

from obt_agent.errors import AgentError, Cancelled, DeadlineExceeded, StorageFailed
from obt_agent.jobs.progress import ProgressPublisher
from obt_agent.jobs.runner import Cause, Execution, JobOutcome, JobRunner
from obt_agent.jobs.store import JobStore, StoredJob
from obt_agent.policy import Policy
from obt_agent.protocol.errors import to_wire
from obt_agent.protocol.jobs import JobKind, JobProgress

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Quiet hours are checked again at least this often: clocks and time zones change.
QUIET_CHECK_S: Final = 60.0
# How long a run has to close its connections when the agent stops.
CHECKPOINT_S: Final = 5.0
# A job that began this often and took the agent down each time is not run again. A transfer may outlive many
# restarts: a large one takes days.
MAX_STARTS: Final = 3
MAX_TRANSFER_STARTS: Final = 100
_WAITING_FOR_CHARS: Final = 200
_UNFORESEEN: Final = "The job failed in an unforeseen way; the agent's log has the details."


class QueuedJob(NamedTuple):
    """A job in the queue."""

    job_id: str
    kind: JobKind
    model: str | None
    # The order in which jobs came, over all queues.
    number: int = 0

    def __str__(self) -> str:
        return f"{self.kind} of {self.model or 'a model'} (job {self.job_id})"


@dataclass(frozen=True)
class JobTimings:
    """Deadlines and intervals of the worker, in seconds."""

    # How long a stopped job has to return what it measured, before its task is cancelled.
    stop_within_s: float = 15.0
    # The store is used again after the first of these, doubling up to the second.
    store_retry_s: tuple[float, float] = (1.0, 60.0)


@dataclass
class RunningJob:
    """The job that runs."""

    entry: QueuedJob
    # None while the run is being prepared.
    execution: Execution | None = None
    # Why it was stopped; None while it may go on.
    cause: Cause | None = None
    task: asyncio.Task[JobOutcome] | None = None
    # Cancels ``task`` when a stop takes too long.
    cutoff: asyncio.TimerHandle | None = None

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.entry.job_id

    def stop_cause(self) -> Cause:
        """Return why it was stopped; ``interrupted`` when nobody said why."""
        return self.cause or "interrupted"

    def stop(self, cause: Cause, within_s: float) -> None:
        """Stop it; when it does not return what it has within ``within_s``, it is cancelled."""
        if self.cause is not None:
            return
        self.cause = cause
        if self.execution is not None:
            self.execution.stop(cause)
        if self.task is not None:
            self.cutoff = asyncio.get_running_loop().call_later(within_s, self.task.cancel)


class JobWorker:
    """Runs the jobs of a queue, one at a time.

    Args:
        store: the jobs.
        runners: by kind.
        policy: for quiet hours.
        progress: where progress goes.
        now: Unix seconds by the best clock there is.
        local_time: for quiet hours.
        timings: deadlines and intervals.
    """

    def __init__(
        self,
        store: JobStore,
        runners: Mapping[JobKind, JobRunner],
        policy: Policy,
        progress: ProgressPublisher,
        *,
        now: Callable[[], float],
        local_time: Callable[[], dt.datetime],
        timings: JobTimings,
    ) -> None:
        self._store = store
        self._runners = runners
        self._policy = policy
        self._progress = progress
        self._now = now
        self._local_time = local_time
        self._timings = timings
        # Says in words for what a job waits whose turn has come; None when it may run.
        self.held: Callable[[QueuedJob], str | None] = lambda _: None
        # Called after the queue or the running job has changed.
        self.on_change: Callable[[], None] = lambda: None
        # Jobs that wait for their turn, first come, first served; one in quiet hours or held is passed over.
        self._queue: deque[QueuedJob] = deque()
        # Set when a job was queued, for ``_next`` to check the queue again.
        self._queued = asyncio.Event()
        # The job that runs or is being prepared.
        self.current: RunningJob | None = None

    def put(self, entry: QueuedJob) -> int:
        """Queue a job; return how many are before it."""
        position = len(self._queue) + (self.current is not None)
        self._queue.append(entry)
        self._changed()
        return position

    def check(self) -> None:
        """Look at the queue again: something for which a job of it waited may be over."""
        self._queued.set()
        self._note_positions()

    def _changed(self) -> None:
        self.check()
        self.on_change()

    def entries(self) -> tuple[QueuedJob, ...]:
        """Return the job that runs, if one does, and those that wait."""
        return (*(() if self.current is None else (self.current.entry,)), *self._queue)

    def position(self, job_id: str) -> int | None:
        """Return how many jobs are before a queued one; None when it is not queued."""
        ahead = int(self.current is not None)
        return next((n + ahead for n, entry in enumerate(self._queue) if entry.job_id == job_id), None)

    def remove(self, job_id: str) -> None:
        """Take a job out of the queue."""
        self._queue = deque(entry for entry in self._queue if entry.job_id != job_id)
        self._changed()

    def _note_positions(self) -> None:
        """Note for every queued job its position, and for what it waits."""
        quiet = self._policy.quiet_wait_s(self._local_time()) > 0
        before = [] if self.current is None else [self.current.entry]
        for entry in self._queue:
            waits_for = _waits_for(entry, before, self.held(entry), quiet=quiet)
            if waits_for is not None:
                progress = JobProgress(phase="queued", position=len(before), waiting_for=waits_for)
                self._progress.note(entry.job_id, progress, "queued")
            before = [*before, entry]

    def stop(self, job_id: str, cause: Cause) -> bool:
        """Stop the running job if it is this one."""
        if self.current is None or self.current.job_id != job_id:
            return False
        self.current.stop(cause, self._timings.stop_within_s)
        return True

    async def run(self) -> None:
        """Run jobs for ever.

        Cancelling it is the checkpoint: the running job's connection to Ollama closes, its records are in the
        store, it has no final, and the next process goes on with it.
        """
        while True:
            self.current = RunningJob(await self._next())
            self._changed()
            try:
                await self._run_one(self.current)
            finally:
                self.current = None
                self.on_change()

    async def _next(self) -> QueuedJob:
        """Wait for a job that may run now, and take it out of the queue."""
        while True:
            self._queued.clear()
            quiet_s = self._policy.quiet_wait_s(self._local_time())
            for entry in self._queue:
                if (quiet_s == 0 or entry.kind != "benchmark") and self.held(entry) is None:
                    self._queue.remove(entry)
                    return entry
            self._note_positions()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(
                    min(quiet_s or QUIET_CHECK_S, QUIET_CHECK_S) if self._queue else None
                ):
                    await self._queued.wait()

    async def _run_one(self, current: RunningJob) -> None:
        job = await self.until_stored(current.job_id, lambda: self._store.get(current.job_id))
        if job is None or job.terminal or job.kind is None:
            self._progress.forget(current.job_id)
            return
        runner = self._runners[job.kind]
        records = await self._records(job)
        try:
            ending = self._ending_without_run(current, job, runner, records)
            if ending is None:
                ending = await self._attempt(current, job, runner, records)
        except Exception:
            log.exception("job.result_failed", job_id=job.job_id)
            # Not even a result can be made. The job must neither end the agent nor come back for ever.
            text = msgspec.json.encode({"id": job.job_id, "status": "failed", "error": _UNFORESEEN})
            ending = JobOutcome(state="failed", text=text, error=AgentError(_UNFORESEEN))
        await self.finish(job, ending)

    async def _records(self, job: StoredJob) -> list[bytes]:
        return await self.until_stored(job.job_id, lambda: self._store.records(job.job_id))

    def _ending_without_run(
        self, current: RunningJob, job: StoredJob, runner: JobRunner, records: list[bytes]
    ) -> JobOutcome | None:
        """Return the ending of a job that is not to run (again); None when it is to run."""
        if current.cause is not None:
            return runner.ending(job, records, current.cause, None)
        if job.starts == 0 and job.not_after is not None and self._now() > job.not_after:
            late = DeadlineExceeded("The job could not start before its not_after.", waited_for="its turn")
            return runner.ending(job, records, "failed", late)
        if job.starts >= (MAX_STARTS if job.kind == "benchmark" else MAX_TRANSFER_STARTS):
            often = Cancelled(f"The agent ended {job.starts} times while this job ran; it is not run again.")
            return runner.ending(job, records, "interrupted", often)
        return None

    async def _attempt(
        self, current: RunningJob, job: StoredJob, runner: JobRunner, records: list[bytes]
    ) -> JobOutcome:
        """Run the job. Whatever it raises becomes its ending, except the cancellation of the worker."""
        try:
            await self._store.start(job.job_id)
            self._progress.note(job.job_id, JobProgress(phase="starting"))
            log.info("job.started", job_id=job.job_id, kind=job.kind, starts=job.starts + 1)
            return await self._execute(current, job, runner, records)
        except AgentError as raised:
            error = raised
        except Exception:
            log.exception("job.failed_unforeseen", job_id=job.job_id)
            error = AgentError(_UNFORESEEN)
        return runner.ending(job, await self._records(job), "failed", error)

    async def _execute(
        self, current: RunningJob, job: StoredJob, runner: JobRunner, records: list[bytes]
    ) -> JobOutcome:
        current.execution = runner.begin(job, records, lambda p: self._progress.note(job.job_id, p))
        if current.cause is not None:
            return runner.ending(job, records, current.cause, None)
        current.task = asyncio.create_task(current.execution.execute(), name=f"job {job.job_id}")
        try:
            await asyncio.wait([current.task])
        except asyncio.CancelledError:
            # The agent stops: no final is stored, so that the next process goes on with this job.
            current.task.cancel()
            await asyncio.wait([current.task], timeout=CHECKPOINT_S)
            if current.stop_cause() == "cancelled":
                await self._store_cancelled(job, runner)
            raise
        finally:
            if current.cutoff is not None:
                current.cutoff.cancel()
        if current.task.cancelled():
            log.error("job.cut_off", job_id=job.job_id)
            return runner.ending(job, await self._records(job), current.stop_cause(), None)
        return current.task.result()

    async def _store_cancelled(self, job: StoredJob, runner: JobRunner) -> None:
        """Store the final of a job that was cancelled, and had not stopped when the agent did.

        Whoever was told that it is being cancelled does not expect the next process to go on with it.
        """
        try:
            records = await self._store.records(job.job_id)
            ending = runner.ending(job, records, "cancelled", None)
            await self._store.finish(job.job_id, ending.state, ending.text, None)
        except Exception:
            log.exception("job.cancellation_not_stored", job_id=job.job_id)

    async def finish(self, job: StoredJob, ending: JobOutcome) -> None:
        """Store the final, however long the disk takes to have space for it."""
        error = None if ending.error is None else to_wire(ending.error)

        async def store() -> None:
            stored = await self._store.finish(job.job_id, ending.state, ending.text, error)
            if not stored and await self._store.get(job.job_id) is None:  # lost with a damaged store
                await self._store.restore(job)
                await self._store.finish(job.job_id, ending.state, ending.text, error)

        await self.until_stored(job.job_id, store)
        self._progress.forget(job.job_id)
        log.info("job.finished", job_id=job.job_id, kind=job.kind, state=ending.state, bytes=len(ending.text))

    async def until_stored(self, what: str, use: Callable[[], Awaitable[T]]) -> T:
        """Use the store, again and again while it cannot be used: the queue waits, and nothing is lost."""

        def note(state: RetryCallState) -> None:
            error = None if state.outcome is None else state.outcome.exception()
            log.error("job.store_fails", job_id=what, reason=str(error), again_in_s=state.upcoming_sleep)

        first_s, longest_s = self._timings.store_retry_s
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(StorageFailed),
            wait=wait_exponential(multiplier=first_s, max=longest_s),
            before_sleep=note,
        )

        # tenacity awaits only what is declared with ``async def``, which a lambda is not.
        async def call() -> T:
            return await use()

        return await retrying(call)


def _waits_for(entry: QueuedJob, before: Sequence[QueuedJob], held: str | None, *, quiet: bool) -> str | None:
    """Return in words what a queued job waits for; None when its turn has come."""
    if quiet and entry.kind == "benchmark":
        return "the end of quiet hours (policy.quiet_hours)"
    if not before:
        return held
    others = f" and {len(before) - 1} more" if len(before) > 1 else ""
    return f"{before[0]}"[:_WAITING_FOR_CHARS] + others
