"""Benchmarks as jobs: the plan out of the store, the run, its records into the store, its result as text."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from obt_agent.benchmark import records as journal_records
from obt_agent.benchmark.environment import Environment, UsedMeanwhile
from obt_agent.benchmark.plan import Plan, plan_hash
from obt_agent.benchmark.records import Record
from obt_agent.benchmark.result import BenchmarkResult, BenchmarkWarning, Status
from obt_agent.errors import AgentError, Busy, ConfigError, Unsupported
from obt_agent.jobs import runner
from obt_agent.jobs.generation_gate import GenerationGate
from obt_agent.jobs.runner import Cause, JobOutcome, LivePoint
from obt_agent.jobs.store import JobStore, StoredJob
from obt_agent.policy import Policy
from obt_agent.protocol.commands import RunBenchmarkParams
from obt_agent.protocol.errors import CODE_OF_KIND, ErrorData, WireError, from_wire
from obt_agent.protocol.jobs import JobProgress, JobState

if TYPE_CHECKING:
    from obt_agent.benchmark.lock import BenchmarkLock
    from obt_agent.benchmark.run import BenchmarkRun

log = structlog.get_logger(__name__)

# Between two attempts at the lock: another process may hold it for hours, and a second more is nothing.
LOCK_RETRY_S: Final = 1.0
# Of what a job waits for: the holder's command line may be long.
WAITING_FOR_CHARS: Final = 200

_INTERRUPTED: Final = "The agent stopped while the benchmark ran; these are the figures measured until then."
_CANCELLED: Final = "The benchmark was cancelled; these are the figures measured until then."


# Makes a run from a plan, a journal and the records of earlier runs of the same job.
MakeRun = Callable[..., "BenchmarkRun"]
# Makes a lock; the argument says, for others to read, what holds it.
MakeLock = Callable[[str], "BenchmarkLock"]


class BenchmarkRunner:
    """Runs benchmarks.

    Args:
        store: where records go.
        policy: asked again when a job begins: it may have changed since the job was stored.
        traffic: what else the server makes Ollama do meanwhile.
        make_run: makes a run.
        make_lock: keeps other processes' benchmarks out.
        client_id: who measures, for the result.
        agent_version: for results of jobs that never ran.
    """

    def __init__(
        self,
        store: JobStore,
        policy: Policy,
        traffic: GenerationGate,
        make_run: MakeRun,
        *,
        client_id: str,
        agent_version: str,
        make_lock: MakeLock,
    ) -> None:
        self._store = store
        self._policy = policy
        self._traffic = traffic
        self._make_run = make_run
        self._make_lock = make_lock
        self._client_id = client_id
        self._agent_version = agent_version

    def begin(
        self, job: StoredJob, records: Sequence[bytes], on_progress: runner.OnProgress
    ) -> BenchmarkExecution:
        """Prepare a run, which goes on from the records where the method allows it."""
        # The owner may have changed the policy since the job was stored.
        self._policy.check_command("run_benchmark")
        plan = self._policy.check_plan(_plan(job))
        run = self._run(job, plan, decoded(records), on_progress)
        lock = self._make_lock(f"obt-agent job {job.job_id}")
        return BenchmarkExecution(job.job_id, run, self._traffic, lock, on_progress, plan.model_name)

    def ending(
        self, job: StoredJob, records: Sequence[bytes], state: JobState, error: AgentError | None
    ) -> JobOutcome:
        """A result out of the records alone."""
        result = self._without_a_run(job, decoded(records))
        ended = msgspec.structs.replace(
            result,
            status=_status(state),
            error=_why(state, error),
            error_kind=None if error is None else error.kind,
        )
        return JobOutcome(state=state, text=msgspec.json.encode(ended), error=error)

    def _without_a_run(self, job: StoredJob, records: Sequence[Record]) -> BenchmarkResult:
        plan = _plan(job)
        if not records:
            return self._empty(job, plan)
        return self._run(job, plan, records, lambda _: None).result_so_far()

    def _run(
        self, job: StoredJob, plan: Plan, records: Sequence[Record], on_progress: runner.OnProgress
    ) -> BenchmarkRun:
        return self._make_run(
            plan,
            job_id=job.job_id,
            journal=_StoreJournal(self._store, job.job_id),
            on_progress=lambda progress: on_progress(_on_wire(progress)),
            restored=records,
        )

    def _empty(self, job: StoredJob, plan: Plan) -> BenchmarkResult:
        """The result of a job that measured nothing."""
        return BenchmarkResult(
            id=job.job_id,
            benchmark_id=job.job_id,
            client_id=self._client_id,
            status="interrupted",
            start_time=dt.datetime.fromtimestamp(job.accepted_at, dt.UTC),
            end_time=dt.datetime.now(dt.UTC),
            config=plan,
            metrics=(),
            environment=Environment(plan_hash=plan_hash(plan), agent_version=self._agent_version),
        )


class BenchmarkExecution:
    """One run of one benchmark."""

    def __init__(
        self,
        job_id: str,
        run: BenchmarkRun,
        traffic: GenerationGate,
        lock: BenchmarkLock,
        on_progress: runner.OnProgress,
        model: str | None = None,
    ) -> None:
        self._job_id = job_id
        self._model = model
        self._run = run
        self._traffic = traffic
        self._lock = lock
        self._on_progress = on_progress
        # Set by ``stop``, for a run that still waits for the lock.
        self._stopped = asyncio.Event()

    async def execute(self) -> JobOutcome:
        """Wait until no other process benchmarks this Ollama, then run to the end.

        Raises:
            Unsupported: the lock cannot be used here.
        """
        await self._take_turn()
        # Requests that come while the run waits for an idle machine are in no figure.
        self._run.when_settled(self._traffic.count_from_now)
        try:
            with self._traffic.benchmark(self._job_id, self._model) as noted:
                result = with_traffic(await self._run.execute(), noted)
        finally:
            # Also when the wait for it ended without it: releasing what is not held does nothing.
            self._lock.release()
        error = _error_of(result) if result.status == "failed" else None
        return JobOutcome(state=result.status, text=msgspec.json.encode(result), error=error)

    async def _take_turn(self) -> None:
        """Take the lock; a job that is stopped while it waits needs none: its run ends before it begins."""
        while not self._stopped.is_set():
            try:
                self._lock.acquire()
            except ConfigError as error:
                raise Unsupported(f"No benchmark can run here: {error.message}") from error
            except Busy as busy:
                self._on_progress(JobProgress(phase="waiting", waiting_for=busy.message[:WAITING_FOR_CHARS]))
                await self._stopped_within(LOCK_RETRY_S)
            else:
                return

    async def _stopped_within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()

    def stop(self, cause: Cause) -> None:
        """Stop and keep what was measured."""
        self._run.stop(cause)
        self._stopped.set()

    async def live(self, after: int | None) -> AsyncIterator[LivePoint]:
        """The run's series."""
        last = after
        missed = 0
        async for sample in self._run.live.subscribe(after):
            # The series keeps the newest samples only; a slow reader finds that some have gone.
            if last is not None and sample.n > last:
                missed += sample.n - last - 1
            last = sample.n
            behind = sample.n + 1 < self._run.live.next_n
            yield LivePoint(
                n=sample.n, t_us=round(sample.t_ms * 1000), missed=missed, sample=sample, behind=behind
            )


class _StoreJournal:
    """Records into the store, durable when ``store`` returns."""

    def __init__(self, store: JobStore, job_id: str) -> None:
        self._store = store
        self._job_id = job_id

    async def store(self, record: Record) -> None:
        """Keep one record."""
        await self._store.add_record(self._job_id, journal_records.encode(record))


def decoded(records: Sequence[bytes]) -> tuple[Record, ...]:
    """Records out of the store; one that this version cannot read ends the list: a run goes on before it."""
    found: list[Record] = []
    for data in records:
        try:
            found.append(journal_records.decode(data))
        except msgspec.MsgspecError as error:
            log.warning("job.record_unreadable", index=len(found), reason=str(error))
            break
    return tuple(found)


def with_traffic(result: BenchmarkResult, noted: Counter[str]) -> BenchmarkResult:
    """The result, with a warning when other requests of the server kept Ollama busy meanwhile."""
    if not noted:
        return result
    what = ", ".join(f"{count} {method}" for method, count in sorted(noted.items()))
    warning = BenchmarkWarning(
        code="other_traffic",
        message=f"The server sent other requests while this ran: {what}.",
        action="Run it again without them; benchmark.during_benchmark and benchmark.transfers hold them off.",
    )
    shared = msgspec.structs.replace(
        result.used_meanwhile or UsedMeanwhile(used=True), used=True, requests=dict(noted)
    )
    return msgspec.structs.replace(result, warnings=(*result.warnings, warning), used_meanwhile=shared)


def _plan(job: StoredJob) -> Plan:
    return msgspec.json.decode(job.params, type=RunBenchmarkParams).plan


def _on_wire(progress: journal_records.Progress) -> JobProgress:
    return JobProgress(**msgspec.structs.asdict(progress))


def _status(state: JobState) -> Status:
    match state:
        case "completed" | "failed" | "cancelled" | "interrupted":
            return state
        case _:
            raise ValueError(f"{state} is no ending")


def _error_of(result: BenchmarkResult) -> AgentError:
    # A result may name a kind that the wire has no code for.
    kind = result.error_kind if result.error_kind in CODE_OF_KIND else "internal"
    message = result.error or "The benchmark failed."
    return from_wire(WireError(code=CODE_OF_KIND[kind], message=message, data=ErrorData(kind=kind)))


def _why(state: JobState, error: AgentError | None) -> str | None:
    if error is not None:
        return error.message
    return {"cancelled": _CANCELLED, "interrupted": _INTERRUPTED}.get(state)
