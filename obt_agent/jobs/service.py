"""The job service: one queue, one job at a time, and a final for each whatever happens.

Jobs run one after the other, also of different kinds: a pull beside a benchmark would spoil its figures.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

import msgspec
import structlog

from obt_agent.errors import Busy, DeadlineExceeded, InvalidParams, JobNotFound, LinkLost, StorageFailed
from obt_agent.jobs.generation_gate import GenerationGate
from obt_agent.jobs.progress import ProgressPublisher
from obt_agent.jobs.result_size import TRANSFER_BYTES, benchmark_bytes
from obt_agent.jobs.runner import JobRunner, LivePoint
from obt_agent.jobs.store import JobStore, NewJob, StoredJob
from obt_agent.jobs.store.rows import fingerprint
from obt_agent.jobs.store.upload import Uploader, UploadSettings
from obt_agent.jobs.worker import JobWorker, WorkerSettings
from obt_agent.policy import Policy
from obt_agent.protocol import limits
from obt_agent.protocol.admission import JobCounts, OutboxCounts
from obt_agent.protocol.commands import (
    NOTHING,
    BenchmarkStatusResult,
    CreateModelParams,
    PullModelParams,
    RunBenchmarkParams,
)
from obt_agent.protocol.jobs import JobKind, JobStarted, JobState, JobSummary
from obt_agent.session import Session

log = structlog.get_logger(__name__)

T = TypeVar("T")

BUSY_RETRY_MS: Final = 10_000
LOOK_AT_SESSION_S: Final = 1.0
CLOSE_WITHIN_S: Final = 10.0
_UPTIME_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(frozen=True)
class JobSettings:
    """Settings of the worker and of the upload."""

    worker: WorkerSettings = field(default_factory=WorkerSettings)
    upload: UploadSettings = field(default_factory=UploadSettings)


class JobService:
    """Everything about jobs.

    Args:
        outbox: the store, open.
        runners: by kind of job.
        policy: what the owner allows.
        traffic: what the server makes Ollama do beside benchmarks.
        settings: see ``JobSettings``.
        clock: Unix seconds by this machine's clock.
        local_time: for quiet hours.
    """

    def __init__(
        self,
        outbox: JobStore,
        runners: Mapping[JobKind, JobRunner],
        policy: Policy,
        traffic: GenerationGate,
        *,
        settings: JobSettings | None = None,
        clock: Callable[[], float] = time.time,
        local_time: Callable[[], dt.datetime] = lambda: dt.datetime.now().astimezone(),
    ) -> None:
        chosen = settings or JobSettings()
        self.traffic = traffic
        self._outbox = outbox
        self._runners = runners
        self._policy = policy
        self._clock = clock
        self._server_started_at: float | None = None
        self._board = ProgressPublisher()
        self._uploader = Uploader(outbox, chosen.upload)
        self._worker = JobWorker(
            outbox,
            runners,
            policy,
            self._board,
            now=self._now,
            local_time=local_time,
            settings=chosen.worker,
        )
        self._tasks: set[asyncio.Task[Any]] = set()
        self._taking_in = 0

    # life

    async def run(self) -> None:
        """Take up what an earlier process left, then run jobs until cancelled, which is a checkpoint."""
        await self._worker.run()

    async def serve(self, peer: Session, server_time: float | None) -> None:
        """Tell one session of progress and finals, until it ends or this is cancelled.

        Args:
            peer: the admitted session.
            server_time: Unix seconds as the server told them just now; the reference for ``not_after`` and
                for the age of tombstones.
        """
        if server_time is not None:
            self._server_started_at = server_time - _uptime_s()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._uploader.run(peer, server_time), name="outbox upload")
                group.create_task(self._board.tell(peer), name="job progress")
                group.create_task(_until_over(peer), name="job session's end")
        except* LinkLost:
            log.debug("jobs.session_over", session=peer.number)

    async def drain(self, within_s: float) -> bool:
        """Wait until the server has acknowledged every final, at most ``within_s`` seconds."""
        return await self._uploader.drain(within_s)

    async def close(self) -> None:
        """Let what is being stored be stored; bounded. ``run`` is ended by its owner."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_WITHIN_S)

    def _now(self) -> float:
        """Unix seconds by the server's clock, once it is known: then a correction of ours changes nothing."""
        if self._server_started_at is None:
            return self._clock()
        return self._server_started_at + _uptime_s()

    # the book of jobs

    @property
    def generation(self) -> int:
        """Grows with every change of the list."""
        return self._outbox.generation

    @property
    def store_id(self) -> str:
        """Names the store of jobs."""
        return self._outbox.store_id

    async def wait_changed(self, after_generation: int) -> int:
        """Wait for a later generation."""
        return await self._outbox.wait_changed(after_generation)

    async def unsettled(self) -> tuple[JobSummary, ...]:
        """Jobs that are open, or finished and not acknowledged; oldest first."""
        return tuple(self._summary(job) for job in await self._outbox.unsettled())

    def counts(self) -> JobCounts:
        """How many."""
        return self._outbox.counts

    def outbox_counts(self) -> OutboxCounts:
        """What waits to be sent."""
        return self._outbox.waiting_counts

    @property
    def store_problem(self) -> str | None:
        """What is wrong with the store of jobs, or that it was replaced."""
        return self._outbox.problem

    @property
    def running(self) -> str | None:
        """The id of the job that runs."""
        return None if self._worker.current is None else self._worker.current.job_id

    def _summary(self, job: StoredJob) -> JobSummary:
        return msgspec.structs.replace(
            job.summary(),
            position=self._worker.position(job.job_id),
            progress=None if job.terminal else self._board.get(job.job_id),
        )

    # starts

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
            withdrawn=b"",
        )
        cancelled = self._runners[kind].ending(job.as_stored(self._clock()), (), "cancelled", None)
        return await self._owned(self._take_in(job.with_withdrawn(cancelled.text)), f"start of {job.job_id}")

    async def _take_in(self, job: NewJob) -> JobStarted:
        stored = await self._outbox.get(job.job_id)
        if stored is None:
            self._check_not_after(job.not_after)
        self._taking_in += 1
        try:
            if stored is None:
                self._check_room()
            stored = await self._outbox.accept(job)
        finally:
            self._taking_in -= 1
        if stored is not None:
            return JobStarted(
                job_id=job.job_id, state=stored.state, position=self._worker.position(job.job_id)
            )
        position = self._worker.put(job.job_id, job.kind, job.model)
        log.info("job.accepted", job_id=job.job_id, kind=job.kind, model=job.model, position=position)
        try:
            await self._outbox.queue(job.job_id)
        except StorageFailed as error:  # it is stored and in the queue: that is what was asked
            log.warning("job.still_accepted", job_id=job.job_id, reason=error.message)
            return JobStarted(job_id=job.job_id, state="accepted", position=position)
        return JobStarted(job_id=job.job_id, state="queued", position=position)

    def _check_room(self) -> None:
        most = self._policy.max_jobs
        if self._outbox.counts.open + self._taking_in > most:
            raise Busy(
                f"{most} jobs are open, the most that the host's owner allows.",
                retry_after_ms=BUSY_RETRY_MS,
                policy_key="policy.max_jobs",
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

    # questions and cancellation

    async def status(self, job_id: str, *, include_result: bool = True) -> BenchmarkStatusResult:
        """A job, and the result so far: the final one, or out of what a running job has stored.

        Raises:
            JobNotFound
        """
        job = await self._known(job_id)
        result = await self._result_so_far(job) if include_result else None
        return BenchmarkStatusResult(
            job=self._summary(job), result=NOTHING if result is None else msgspec.Raw(result)
        )

    async def _known(self, job_id: str) -> StoredJob:
        job = await self._outbox.get(job_id)
        if job is None or job.kind is None:
            raise JobNotFound(f"No job {job_id!r} is stored here.")
        return job

    async def _result_so_far(self, job: StoredJob) -> bytes | None:
        if job.terminal:
            final = await self._outbox.result(job.job_id)
            return None if final is None else final.text
        records = await self._outbox.records(job.job_id)
        if not records or job.kind is None:
            return None
        return self._runners[job.kind].ending(job, records, "interrupted", None).text

    async def cancel(self, job_id: str) -> Literal["cancelling", "unknown"] | JobState:
        """Cancel a job at whatever instant; an unknown one is remembered: a late start will not run."""
        return await self._owned(self._cancel(job_id), f"cancellation of {job_id}")

    async def _cancel(self, job_id: str) -> Literal["cancelling", "unknown"] | JobState:
        job = await self._outbox.cancel(job_id)
        if job is None or job.kind is None:
            return "unknown"
        if job.terminal:
            return job.state
        if self._worker.stop(job_id, "cancelled"):
            return "cancelling"
        self._worker.remove(job_id)
        records = await self._outbox.records(job_id)
        await self._worker.finish(job, self._runners[job.kind].ending(job, records, "cancelled", None))
        return "cancelled"

    async def live(self, job_id: str, *, after: int | None = None) -> AsyncIterator[LivePoint]:
        """The live series of a job, from when it runs to its end.

        Raises:
            JobNotFound
        """
        while not (await self._known(job_id)).terminal:
            generation = self.generation
            current = self._worker.current
            if current is not None and current.job_id == job_id and current.execution is not None:
                async for point in current.execution.live(after):
                    yield point
                return
            await self.wait_changed(generation)

    async def _owned(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """Do something to its end, even when the command that asked for it is cancelled."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)


def _uptime_s() -> float:
    """Seconds of a clock that nobody sets, the time in suspend included where the system counts it."""
    return time.clock_gettime(_UPTIME_CLOCK)


async def _until_over(peer: Session) -> None:
    """Those who only wait for news would not notice that nobody is left to tell."""
    while peer.alive:  # noqa: ASYNC110 - a session's end is no event up here, and a second is soon enough
        await asyncio.sleep(LOOK_AT_SESSION_S)
    raise LinkLost("The session ended.")
