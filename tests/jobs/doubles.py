"""A kind of job whose runs a test steers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from obt_agent.benchmark.plan import Plan
from obt_agent.errors import AgentError
from obt_agent.jobs import GenerationGate, JobService
from obt_agent.jobs.runner import Cause, JobOutcome, LivePoint, OnProgress
from obt_agent.jobs.store import JobStore, StoredJob
from obt_agent.jobs.store.upload import Uploader
from obt_agent.jobs.worker import JobTimings
from obt_agent.policy import Policy
from obt_agent.protocol.commands import RunBenchmarkParams
from obt_agent.protocol.jobs import JobProgress, JobState
from tests.policy.configs import config

FAST: Final = JobTimings(stop_within_s=5, store_retry_s=(0.01, 0.02))


def fast_uploader(store: JobStore) -> Uploader:
    return Uploader(store, piece_bytes=2000, answer_within_s=10, retry_s=(0.05, 0.1))


class Sample(msgspec.Struct):
    n: int


class SteeredRun:
    """One run: ends when told, or when stopped."""

    def __init__(self, runner: "SteeredRunner", job: StoredJob, on_progress: OnProgress) -> None:
        self.runner = runner
        self.job = job
        self.on_progress = on_progress
        self.outcome: asyncio.Future[JobState | Exception] = asyncio.get_running_loop().create_future()
        self.points: list[LivePoint] = []
        self.closed = False

    async def execute(self) -> JobOutcome:
        try:
            outcome = await self.outcome
        finally:
            self.closed = True
        if isinstance(outcome, Exception):
            raise outcome
        error = AgentError("it failed") if outcome == "failed" else None
        return JobOutcome(state=outcome, text=text_of(self.job.job_id, outcome), error=error)

    def stop(self, cause: Cause) -> None:
        if not self.runner.deaf and not self.outcome.done():
            self.outcome.set_result(cause)

    def end(self, outcome: JobState | Exception = "completed") -> None:
        self.outcome.set_result(outcome)

    async def live(self, after: int | None) -> AsyncIterator[LivePoint]:
        for point in self.points:
            if after is None or point.n > after:
                yield point


def text_of(job_id: str, state: str) -> bytes:
    return msgspec.json.encode({"id": job_id, "status": state})


class SteeredRunner:
    """Makes steered runs and keeps them; ``deaf`` ones ignore a stop."""

    def __init__(self) -> None:
        self.runs: list[SteeredRun] = []
        self.records: list[list[bytes]] = []
        self.began = asyncio.Event()
        self.deaf = False
        self.refuses: AgentError | Exception | None = None

    def begin(self, job: StoredJob, records: Sequence[bytes], on_progress: OnProgress) -> SteeredRun:
        if self.refuses is not None:
            raise self.refuses
        run = SteeredRun(self, job, on_progress)
        self.records.append(list(records))
        self.runs.append(run)
        self.began.set()
        return run

    def ending(
        self, job: StoredJob, records: Sequence[bytes], state: JobState, error: AgentError | None
    ) -> JobOutcome:
        text = msgspec.json.encode({"id": job.job_id, "status": state, "records": len(records)})
        return JobOutcome(state=state, text=text, error=error)

    async def run_number(self, count: int) -> SteeredRun:
        """Wait for that run (from 1)."""
        async with asyncio.timeout(20):
            while len(self.runs) < count:
                self.began.clear()
                await self.began.wait()
        return self.runs[count - 1]


class Daemon:
    """Store and service of one process on a folder; leaving without ``close`` is a crash."""

    def __init__(
        self, folder: Path, runner: Any = None, *, traffic: GenerationGate | None = None, **section: Any
    ) -> None:
        self.policy = Policy(config(**section))
        self.outbox = JobStore(folder)
        self.runner = runner or SteeredRunner()
        self.traffic = traffic or GenerationGate()
        self.stop_within_s = 5.0
        self.now = 1_000_000.0
        self.local_time: Callable[[], Any] | None = None

    async def __aenter__(self) -> Self:
        await self.outbox.open()
        kinds = {"benchmark": self.runner, "pull": self.runner, "create": self.runner}
        more = {} if self.local_time is None else {"local_time": self.local_time}
        self.jobs = JobService(
            self.outbox,
            kinds,  # type: ignore[arg-type]  # the keys are kinds of jobs
            self.policy,
            uploader=fast_uploader(self.outbox),
            timings=JobTimings(self.stop_within_s, store_retry_s=(0.01, 0.02)),
            clock=lambda: self.now,
            **more,
        )
        self.task = asyncio.create_task(self.jobs.run(), name="jobs")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.jobs.close()
        await self.outbox.close()

    async def state(self, job_id: str) -> str:
        job = await self.outbox.get(job_id)
        assert job is not None
        return job.state

    async def until(self, job_id: str, *states: str) -> str:
        """Wait until a job is in one of these states."""
        async with asyncio.timeout(20):
            while True:
                generation = self.outbox.generation
                state = await self.state(job_id)
                if state in states:
                    return state
                await self.outbox.wait_changed(generation)


def benchmark(job_id: str = "j", *, not_after: float | None = None, **plan: Any) -> RunBenchmarkParams:
    fields = msgspec.convert({"model_name": "tiny", **plan}, Plan)
    return RunBenchmarkParams(job_id=job_id, plan=fields, not_after=not_after)


def progress(phase: str, iteration: int | None = None) -> JobProgress:
    return JobProgress(phase=phase, iteration=iteration)
