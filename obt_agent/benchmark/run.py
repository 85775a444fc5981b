"""One benchmark from start to result: whatever happens, there is a result with what was measured."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Literal, NamedTuple

import structlog

from obt_agent import __version__
from obt_agent.benchmark import report
from obt_agent.benchmark.cell import run_cell, shortfall
from obt_agent.benchmark.environment import Environment
from obt_agent.benchmark.expansion import Cell, expand
from obt_agent.benchmark.live import LiveSeries
from obt_agent.benchmark.loading import cold_load, leave_quiet
from obt_agent.benchmark.ollama_recovery import OllamaRecovery
from obt_agent.benchmark.plan import Plan, plan_hash
from obt_agent.benchmark.preflight import CannotResume, preflight
from obt_agent.benchmark.records import Progress, Record, RunJournal
from obt_agent.benchmark.result import BenchmarkResult, Status
from obt_agent.benchmark.run_state import RunDeadlines, RunState
from obt_agent.errors import AgentError, Cancelled, DeadlineExceeded, Unsupported
from obt_agent.hardware.service import HardwareService
from obt_agent.ollama.client import OllamaClient

__all__ = ["BenchmarkRun", "RunDeadlines"]

log = structlog.get_logger(__name__)

StopCause = Literal["cancelled", "interrupted"]

_STOPPED = {
    "cancelled": "the benchmark was cancelled; what was measured before is kept",
    "interrupted": "the agent was stopped during the benchmark; what was measured before is kept",
}


class RunOutcome(NamedTuple):
    """How a run ended."""

    status: Status
    error: AgentError | None = None


class BenchmarkRun:
    """Runs one plan, once.

    Args:
        plan: what to run; one that the policy has passed.
        job_id: name of the run, in the result.
        client_id: name of the agent, in the result.
        ollama: where to run it.
        hardware: where samples and the inventory come from.
        journal: keeps each record as it is made.
        on_progress: called on the event loop, at most ``1 / limits.progress_s`` a second plus once a phase.
        restored: the records of an earlier attempt that did not end, in their order.
        limits: times that a plan does not set.

    Raises:
        InvalidParams, TooLarge: the plan cannot be expanded.
    """

    def __init__(  # noqa: PLR0913 - each is another service or name, all but the plan by keyword
        self,
        plan: Plan,
        *,
        job_id: str,
        client_id: str,
        ollama: OllamaClient,
        hardware: HardwareService,
        journal: RunJournal,
        on_progress: Callable[[Progress], None],
        restored: Sequence[Record] = (),
        limits: RunDeadlines | None = None,
    ) -> None:
        self.job_id = job_id
        self.live = LiveSeries()
        self._client_id = client_id
        self._on_progress = on_progress
        # Why the run is to end before its plan does; the first cause stands.
        self._cause: StopCause | None = None
        # Measures; None before ``execute``. Stopping cancels it, which closes Ollama's streams.
        self._work: asyncio.Task[None] | None = None
        self._state = RunState(
            plan=plan,
            cells=expand(plan),
            ollama=ollama,
            machine=hardware,
            journal=journal,
            limits=limits or RunDeadlines(),
            series=self.live,
            environment=Environment(plan_hash=plan_hash(plan), agent_version=__version__),
        )
        for record in restored:
            self._state.apply(record)

    async def execute(self) -> BenchmarkResult:
        """Run the plan; every foreseen outcome is a result. At the end nothing runs in Ollama.

        Raises:
            asyncio.CancelledError: the caller's task was cancelled; Ollama's streams are closed by then.
        """
        work = asyncio.create_task(self._measure(), name=f"benchmark {self.job_id}")
        self._work = work
        if self._cause is not None:  # stopped before it began
            work.cancel()
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.wait({work})
            raise
        finally:
            self.live.end()
        outcome = self._outcome(work)
        await self._tidy_up(outcome)
        return self._result(outcome)

    def when_settled(self, action: Callable[[], None]) -> None:
        """Have ``action`` called when the wait for an idle machine ends; never where the plan has none."""
        self._state.on_settled = action

    def stop(self, cause: StopCause) -> None:
        """End the run now: Ollama's streams are closed at once, and ``execute`` returns soon after."""
        if self._cause is None:
            self._cause = cause
            if self._work is not None:
                self._work.cancel()

    @property
    def progress(self) -> Progress:
        """How far the run is."""
        return self._state.progress()

    def result_so_far(self) -> BenchmarkResult:
        """The result as it would be if the run was interrupted now."""
        return self._result(RunOutcome("interrupted"))

    async def _measure(self) -> None:
        state = self._state
        async with state.sampler, self._reporting():
            await preflight(state)
            for cell in self._open_cells():
                if state.plan.cold_load and state.cold_load is None:
                    await OllamaRecovery(state).surviving(partial(cold_load, state, cell))
                await run_cell(state, cell)
            state.enter("reporting")
        missing = shortfall(state)
        if missing:
            raise _why_short(state, missing[0])

    def _open_cells(self) -> list[Cell]:
        return [cell for cell in self._state.cells if cell.index not in self._state.stops]

    @contextlib.asynccontextmanager
    async def _reporting(self) -> AsyncIterator[None]:
        """Report progress while the context is open."""
        ticker = asyncio.create_task(self._keep_reporting(), name=f"benchmark progress {self.job_id}")
        try:
            yield
        finally:
            ticker.cancel()
            await asyncio.wait({ticker})

    async def _keep_reporting(self) -> None:
        while True:
            self._on_progress(self._state.progress())
            await asyncio.sleep(self._state.limits.progress_s)

    def _outcome(self, work: asyncio.Task[None]) -> RunOutcome:
        if work.cancelled():
            cause = self._cause or "interrupted"
            return RunOutcome(cause, Cancelled(_STOPPED[cause]))
        match work.exception():
            case None:
                return RunOutcome("completed")
            case CannotResume() as error:
                return RunOutcome("interrupted", error)
            case AgentError() as error:
                log.warning("benchmark.failed", job_id=self.job_id, kind=error.kind, error=error.message)
                return RunOutcome("failed", error)
            case error:
                log.error("benchmark.broken", job_id=self.job_id, exc_info=error)
                return RunOutcome("failed", AgentError("the agent failed inside; its log says more"))

    async def _tidy_up(self, outcome: RunOutcome) -> None:
        """Leave Ollama as it was found, unless the run is to go on after a restart of the agent."""
        # The agent goes on after its restart, sooner with the model loaded.
        if outcome.status == "interrupted":
            return
        try:
            await leave_quiet(self._state)
        except (AgentError, TimeoutError) as error:
            log.info("benchmark.not_unloaded", job_id=self.job_id, error=str(error))

    def _result(self, outcome: RunOutcome) -> BenchmarkResult:
        state, error = self._state, outcome.error
        records = BenchmarkResult(
            id=self.job_id,
            benchmark_id=self.job_id,
            client_id=self._client_id,
            status=outcome.status,
            error=None if error is None else error.message,
            error_kind=None if error is None else error.kind,
            config=state.plan,
            start_time=state.start_time,
            end_time=datetime.now(UTC),
            environment=state.environment,
            metrics=tuple(state.metrics),
            warmups=tuple(state.warmups),
            cold_load=state.cold_load,
            settled=state.settled,
            warnings=tuple(state.warnings),
            sampler=state.sampler.report(),
            samples=self.live.samples,
            samples_dropped=self.live.dropped,
            resumed=max(state.starts - 1, 0),
            hardware=state.inventory,
        )
        return report.assemble(records, state.cells, state.stops)


def _why_short(state: RunState, cell: Cell) -> AgentError:
    """Why a cell has fewer iterations than the plan's least."""
    if state.stops[cell.index].reason == "max_duration":
        return DeadlineExceeded(
            f"the plan's max_duration_s of {state.plan.max_duration_s:g} s was over before cell "
            f"{cell.label} had its {state.plan.num_iterations} iterations: raise it, or ask for less",
            waited_for="benchmark",
        )
    return Unsupported(
        f"iterations of cell {cell.label} were spoilt again and again by reloads of the model: keep other "
        "programs from using this Ollama meanwhile, and raise keep_alive"
    )
