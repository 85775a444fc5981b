"""The job service: two queues, one job at a time in each, and a final for each whatever happens.

Benchmarks wait for no transfer: a pull that runs gives way to them (see ``transfer_run``). The one exception
is a benchmark of a model that an earlier job is still fetching or making.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import itertools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Final, Literal, TypeVar

import msgspec
import structlog

from obt_agent.errors import Busy, DeadlineExceeded, InvalidParams, JobNotFound, LinkLost, StorageFailed
from obt_agent.jobs.progress import ProgressPublisher
from obt_agent.jobs.result_size import TRANSFER_BYTES, benchmark_bytes
from obt_agent.jobs.runner import JobRunner, LivePoint
from obt_agent.jobs.store import JobStore, NewJob, StoredJob
from obt_agent.jobs.store.rows import fingerprint
from obt_agent.jobs.store.upload import Uploader
from obt_agent.jobs.worker import JobTimings, JobWorker, QueuedJob
from obt_agent.ollama.names import same_model
from obt_agent.policy import Policy
from obt_agent.protocol import limits
from obt_agent.protocol.commands import (
    BenchmarkStatusResult,
    CreateModelParams,
    PullModelParams,
    RunBenchmarkParams,
)
from obt_agent.protocol.jobs import JobKind, JobStarted, JobState, JobSummary
from obt_agent.session import Session
from obt_agent.system.clocks import uptime_s
from obt_agent.timer_grid import until_tick

log = structlog.get_logger(__name__)

T = TypeVar("T")

# When a refused start may try again: a job takes minutes, but another may just be ending.
BUSY_RETRY_MS: Final = 10_000
SESSION_CHECK_S: Final = 1.0
# For starts and cancellations that are being stored when the agent stops.
CLOSE_WITHIN_S: Final = 10.0


class JobService:
    """Jobs: their start, state, cancellation and live series, and what is sent to the server about them.

    Args:
        store: the jobs, open.
        runners: by kind of job.
        policy: what the owner allows.
        uploader: sends the finals.
        clock: Unix seconds by this machine's clock.
        local_time: for quiet hours.
        timings: of the worker.
    """

    def __init__(
        self,
        store: JobStore,
        runners: Mapping[JobKind, JobRunner],
        policy: Policy,
        *,
        uploader: Uploader | None = None,
        clock: Callable[[], float] = time.time,
        local_time: Callable[[], dt.datetime] = lambda: dt.datetime.now().astimezone(),
        timings: JobTimings = JobTimings(),  # noqa: B008 - frozen
    ) -> None:
        self.store = store
        self.uploader = uploader or Uploader(store)
        self._runners = runners
        self._policy = policy
        self._clock = clock
        # Unix seconds by the server's clock when this machine's uptime was 0; None before the first session.
        self._server_boot_time: float | None = None
        self._progress = ProgressPublisher()
        make = functools.partial(
            JobWorker,
            store,
            runners,
            policy,
            self._progress,
            now=self._now,
            local_time=local_time,
            timings=timings,
        )
        self._benchmarks, self._transfers = make(), make()
        # A benchmark may wait for a transfer, never the other way round: that gives way while it runs.
        self._benchmarks.held = self._held
        self._transfers.on_change = self._benchmarks.check
        # Numbers of jobs, in the order in which they came to this process.
        self._numbers = itertools.count()
        # Starts and cancellations under way; they end even if their command is cancelled.
        self._tasks: set[asyncio.Task[Any]] = set()
        # Jobs that are being stored, and not counted by the store yet: many starts at once keep the limit.
        self._being_accepted = 0

    async def run(self) -> None:
        """Resume what an earlier process left, then run jobs for ever.

        Cancelling it is the checkpoint of the running jobs: the next process goes on with them.
        """
        for job in await self._benchmarks.until_stored("open jobs", self.store.open_jobs):
            if job.kind is not None:
                self._put(job.job_id, job.kind, job.model)
                log.info("job.resumed", job_id=job.job_id, state=job.state, starts=job.starts)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._benchmarks.run(), name="benchmarks")
            group.create_task(self._transfers.run(), name="transfers")

    def _queue_of(self, kind: JobKind) -> JobWorker:
        return self._benchmarks if kind == "benchmark" else self._transfers

    def _put(self, job_id: str, kind: JobKind, model: str | None) -> int:
        return self._queue_of(kind).put(QueuedJob(job_id, kind, model, next(self._numbers)))

    def _held(self, benchmark: QueuedJob) -> str | None:
        """Say which earlier transfer a benchmark waits for: its model is on its way."""
        for other in self._transfers.entries():
            earlier = other.number < benchmark.number
            if earlier and other.model and benchmark.model and same_model(other.model, benchmark.model):
                return str(other)
        return None

    async def report(self, session: Session, server_time: float | None) -> None:
        """Send progress and finals over one session, until it ends or this is cancelled.

        Args:
            session: the admitted session.
            server_time: Unix seconds by the server's clock just now; the reference for ``not_after`` and for
                the age of tombstones.
        """
        if server_time is not None:
            self._server_boot_time = server_time - uptime_s()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.uploader.run(session, server_time), name="result upload")
                group.create_task(self._progress.publish(session), name="job progress")
                group.create_task(_until_over(session), name="job session's end")
        except* LinkLost:
            log.debug("jobs.session_ended", session=session.number)

    async def close(self) -> None:
        """Wait until what is being stored is stored; bounded. The worker's task is ended by its owner."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_WITHIN_S)

    def _now(self) -> float:
        # By the server's clock, once it is known: a correction of this machine's clock then changes nothing.
        if self._server_boot_time is None:
            return self._clock()
        return self._server_boot_time + uptime_s()

    async def unsettled(self) -> tuple[JobSummary, ...]:
        """Return the jobs that are open, or finished and not acknowledged; oldest first."""
        return tuple(self._summary(job) for job in await self.store.unsettled())

    def _summary(self, job: StoredJob) -> JobSummary:
        return msgspec.structs.replace(
            job.summary(),
            position=None if job.kind is None else self._queue_of(job.kind).position(job.job_id),
            progress=None if job.terminal else self._progress.get(job.job_id),
        )

    # Starts.

    async def start_benchmark(self, params: RunBenchmarkParams) -> JobStarted:
        """Store a benchmark and queue it; the plan is allowed (see ``Policy.check_plan``).

        Raises:
            JobConflict, StorageFailed, Busy (too many jobs), InvalidParams, DeadlineExceeded (``not_after``)
        """
        return await self._start("benchmark", params, params.plan.model_name, benchmark_bytes(params.plan))

    async def start_pull(self, params: PullModelParams) -> JobStarted:
        """Store a pull and queue it. Raises as ``start_benchmark``."""
        return await self._start("pull", params, params.model, TRANSFER_BYTES)

    async def start_create(self, params: CreateModelParams) -> JobStarted:
        """Store a create and queue it. Raises as ``start_benchmark``."""
        return await self._start("create", params, params.model, TRANSFER_BYTES)

    async def _start(
        self,
        kind: JobKind,
        params: RunBenchmarkParams | PullModelParams | CreateModelParams,
        model: str,
        reserve_bytes: int,
    ) -> JobStarted:
        job = NewJob(
            job_id=params.job_id,
            kind=kind,
            model=model,
            params=msgspec.json.encode(params),
            fingerprint=fingerprint(kind, params),
            not_after=params.not_after,
            reserve_bytes=reserve_bytes,
        )
        return await self._shielded(self._accept(job), f"start of {job.job_id}")

    async def _accept(self, job: NewJob) -> JobStarted:
        stored = await self._stored(job)
        if stored is not None:
            position = self._queue_of(job.kind).position(job.job_id)
            return JobStarted(job_id=job.job_id, state=stored.state, position=position)
        position = self._put(job.job_id, job.kind, job.model)
        log.info("job.accepted", job_id=job.job_id, kind=job.kind, model=job.model, position=position)
        try:
            await self.store.queue(job.job_id)
        # It is stored and in the queue, which is what was asked for.
        except StorageFailed as error:
            log.warning("job.still_accepted", job_id=job.job_id, reason=error.message)
            return JobStarted(job_id=job.job_id, state="accepted", position=position)
        return JobStarted(job_id=job.job_id, state="queued", position=position)

    async def _stored(self, job: NewJob) -> StoredJob | None:
        """Store a job; return it as stored when it is known or cancelled already, and not to be queued."""
        known = await self.store.get(job.job_id) is not None
        if not known:
            self._check_not_after(job.not_after)
        self._being_accepted += 1
        try:
            # A repeat of a known start takes no place among the open jobs.
            if not known:
                self._check_open_jobs()
            stored = await self.store.accept(job)
        finally:
            self._being_accepted -= 1
        if stored is None or stored.kind is not None:
            return stored
        ending = self._runners[job.kind].ending(job.as_stored(self._clock()), (), "cancelled", None)
        return await self.store.accept_cancelled(job, ending.text)

    def _check_open_jobs(self) -> None:
        most = self._policy.config.max_jobs
        if self.store.counts.open + self._being_accepted > most:
            raise Busy(
                f"{most} jobs are open, the most that the host's owner allows.",
                retry_after_ms=BUSY_RETRY_MS,
                policy_key="policy.max_jobs",
                allowed=most,
            )

    def _check_not_after(self, not_after: float | None) -> None:
        if not_after is None:
            return
        ahead_s = not_after - self._now()
        if ahead_s > limits.MAX_NOT_AFTER_S:
            raise InvalidParams(
                f"params.not_after: {ahead_s:.0f} s ahead; at most {limits.MAX_NOT_AFTER_S:.0f} s (7 days).",
                field="params.not_after",
            )
        if ahead_s < 0:
            raise DeadlineExceeded(
                f"params.not_after passed {-ahead_s:.0f} s ago; start the job with a later one.",
                retryable=False,
                waited_for="the start",
            )

    # State, cancellation, live series.

    async def status(self, job_id: str, *, include_result: bool = True) -> BenchmarkStatusResult:
        """Return a job, and the result so far: the final one, or from the records of a running job.

        Raises:
            JobNotFound
        """
        job = await self._known(job_id)
        result = await self._result_so_far(job) if include_result else None
        return BenchmarkStatusResult(
            job=self._summary(job), result=None if result is None else msgspec.Raw(result)
        )

    async def _known(self, job_id: str) -> StoredJob:
        job = await self.store.get(job_id)
        if job is None or job.kind is None:
            raise JobNotFound(f"No job {job_id!r} is stored here.")
        return job

    async def _result_so_far(self, job: StoredJob) -> bytes | None:
        if job.terminal:
            final = await self.store.result(job.job_id)
            return None if final is None else final.text
        records = await self.store.records(job.job_id)
        if not records or job.kind is None:
            return None
        return self._runners[job.kind].ending(job, records, "interrupted", None).text

    async def cancel(self, job_id: str) -> Literal["cancelling", "unknown"] | JobState:
        """Cancel a job in any state; an unknown one is remembered: a late start will not run."""
        return await self._shielded(self._cancel(job_id), f"cancellation of {job_id}")

    async def _cancel(self, job_id: str) -> Literal["cancelling", "unknown"] | JobState:
        job = await self.store.cancel(job_id)
        if job is None or job.kind is None:
            return "unknown"
        if job.terminal:
            return job.state
        queue = self._queue_of(job.kind)
        if queue.stop(job_id, "cancelled"):
            return "cancelling"
        queue.remove(job_id)
        records = await self.store.records(job_id)
        await queue.finish(job, self._runners[job.kind].ending(job, records, "cancelled", None))
        return "cancelled"

    async def live(self, job_id: str, *, after: int | None = None) -> AsyncIterator[LivePoint]:
        """Yield the live series of a job, from when it runs to its end.

        Raises:
            JobNotFound
        """
        while not (job := await self._known(job_id)).terminal:
            generation = self.store.generation
            current = None if job.kind is None else self._queue_of(job.kind).current
            if current is not None and current.job_id == job_id and current.execution is not None:
                async for point in current.execution.live(after):
                    yield point
                return
            await self.store.wait_changed(generation)

    async def _shielded(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """Do something to its end, even when its command is cancelled."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)


async def _until_over(session: Session) -> None:
    """Raise ``LinkLost`` when the session has ended: tasks that wait for a change would not notice it."""
    while session.alive:  # noqa: ASYNC110 - a session's end is no event up here, and a second is soon enough
        await asyncio.sleep(until_tick(SESSION_CHECK_S))
    raise LinkLost("The session ended.")
