"""Runs plans one after the other, with a live line on standard error."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Final, Self
from uuid import uuid4

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
from rich.text import Text

from obt_agent.benchmark.expansion import expand
from obt_agent.benchmark.pairs import single, turns
from obt_agent.benchmark.plan import Plan
from obt_agent.benchmark.records import NullJournal
from obt_agent.benchmark.records import Progress as RunProgress
from obt_agent.benchmark.result import BenchmarkResult
from obt_agent.benchmark.run import BenchmarkRun, RunDeadlines
from obt_agent.config.schema import Config
from obt_agent.hardware.service import HardwareService
from obt_agent.ollama.client import OllamaClient
from obt_agent.system import signals

# Each phase for people.
_WORDS = {
    "preflight": "checking the machine",
    "settling": "waiting for an idle machine",
    "cold_load": "cold load",
    "warmup": "warming up",
    "iteration": "measuring",
    "cooldown": "cooling down",
    "reporting": "done",
    "waiting": "waiting for Ollama",
}
_CUT_SHORT: Final = "the benchmark was cancelled and not waited for; the model may still be loaded"
# Columns from which on everything fits beside the bar, and the bar at all.
_WIDE: Final = 100
_NARROW: Final = 80


async def run_pairs(
    plans: tuple[Plan, Plan], pairs: int, config: Config
) -> tuple[list[BenchmarkResult], list[BenchmarkResult]]:
    """Both plans in turns; after Ctrl-C only whole pairs, if there is one."""
    order = turns(pairs, random.SystemRandom())
    done = await run_all([single(plans[side]) for side in order], config)
    sides: tuple[list[BenchmarkResult], list[BenchmarkResult]] = ([], [])
    for side, result in zip(order, done, strict=False):
        sides[side].append(result)
    # A run that was cut short spoils its pair: the pairs before it are complete.
    whole = sum(result.status == "completed" for result in done) // 2
    return sides[0][: max(whole, 1)], sides[1][: max(whole, 1)]


async def run_all(plans: Sequence[Plan], config: Config) -> list[BenchmarkResult]:
    """The results in the plans' order; after Ctrl-C those until then, the last one cancelled."""
    hardware = HardwareService(config.hardware, ollama_url=config.ollama.url)
    with _Signals() as signals:
        await hardware.start()
        try:
            async with OllamaClient(config.ollama) as ollama:
                return await _in_turn(plans, config, ollama, hardware, signals)
        finally:
            await hardware.close()


async def _in_turn(
    plans: Sequence[Plan],
    config: Config,
    ollama: OllamaClient,
    hardware: HardwareService,
    signals: _Signals,
) -> list[BenchmarkResult]:
    results: list[BenchmarkResult] = []
    with _live_lines() as lines:
        for plan in plans:
            if signals.came:
                break
            line = _ProgressLine(lines, plan)
            run = BenchmarkRun(
                plan,
                job_id=str(uuid4()),
                client_id=config.agent.name,
                ollama=ollama,
                hardware=hardware,
                journal=NullJournal(),
                on_progress=line.update,
                limits=RunDeadlines(cooldown_s=config.benchmark.cooldown_s),
            )
            result = await signals.execute(run)
            line.end(result)
            results.append(result)
    return results


class _Signals:
    """Ctrl-C and SIGTERM, from the first run's preparation to the last one's end.

    The first ends the run with what it has, and those to come are left out. The second does not wait until
    Ollama is left as it was found. Neither loses what was measured.
    """

    def __init__(self) -> None:
        # How many signals came; the first stops the run, any other one also the tidying up.
        self.came = 0
        # What runs now; both None before the first run, when a signal only leaves out what was to come.
        self._run: BenchmarkRun | None = None
        self._task: asyncio.Task[BenchmarkResult] | None = None

    def __enter__(self) -> Self:
        for number in signals.STOP:
            signals.handle(asyncio.get_running_loop(), number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in signals.STOP:
            signals.unhandle(asyncio.get_running_loop(), number)

    def _on_signal(self) -> None:
        self.came += 1
        if self._run is None or self._task is None:
            return
        if self.came == 1:
            self._run.stop("cancelled")
        else:
            self._task.cancel()

    async def execute(self, run: BenchmarkRun) -> BenchmarkResult:
        """The run's result, also when signals cut it short."""
        # A task of its own, so that a signal can cancel it and not what waits for it.
        self._run, self._task = run, asyncio.create_task(run.execute(), name=f"run {run.job_id}")
        try:
            await asyncio.wait({self._task})
        finally:
            self._task.cancel()
        # The second signal cancelled it in mid-way: the records so far still make a result.
        if self._task.cancelled():
            return msgspec.structs.replace(run.result_so_far(), status="cancelled", error=_CUT_SHORT)
        return self._task.result()


class _ProgressLine:
    """One model's progress: phase, bar, speed, time left."""

    def __init__(self, progress: Progress, plan: Plan) -> None:
        self._progress = progress
        # Position of each cell by its label, which is what progress names.
        self._cells = {cell.label: cell.index for cell in expand(plan)}
        self._task = progress.add_task(plan.model_name, total=len(self._cells), phase="", facts="")

    def update(self, now: RunProgress) -> None:
        """Show how far the run is."""
        # The iteration that runs is not done; warm-ups do not move the bar.
        done = max((now.iteration or 1) - 1, 0) if now.phase == "iteration" else 0
        share = min(done / now.iterations_planned, 1.0) if now.iterations_planned else 0.0
        self._progress.update(
            self._task,
            completed=self._cells.get(now.cell or "", 0) + share,
            phase=_phase(now),
            facts=Text("  ".join(_facts(now)[: _facts_shown(self._progress.console.width)])),
        )

    def end(self, result: BenchmarkResult) -> None:
        """Show how it ended."""
        completed = len(self._cells) if result.status == "completed" else None
        self._progress.update(self._task, completed=completed, phase=result.status, facts="")


def _phase(now: RunProgress) -> str:
    words = _WORDS[now.phase]
    if now.phase in ("warmup", "iteration") and now.iteration is not None:
        words += f" {now.iteration}"
    return f"{words} ({now.cell})" if now.cell else words


def _facts_shown(width: int) -> int:
    """How many facts fit a terminal of so many columns."""
    return 4 if width >= _WIDE else 2 if width >= _NARROW else 1


def _facts(now: RunProgress) -> list[str]:
    """Weightiest first."""
    facts: list[str] = []
    if now.remaining_s is not None:
        facts.append(f"about {timedelta(seconds=round(now.remaining_s))} left")
    if now.tokens_per_second is not None:
        facts.append(f"{now.tokens_per_second:.1f} tok/s")
    if now.first_token_ms is not None:
        facts.append(f"TTFT {now.first_token_ms:.0f} ms")
    if now.gpu_utilization_ratio is not None:
        facts.append(f"GPU {now.gpu_utilization_ratio * 100:.0f} %")
    elif now.cpu_utilization_ratio is not None:
        facts.append(f"CPU {now.cpu_utilization_ratio * 100:.0f} %")
    return facts


@contextmanager
def _live_lines() -> Iterator[Progress]:
    """Lines on standard error, so that standard output is the results'; none where it is no terminal."""
    console = Console(file=sys.stderr)
    columns: tuple[ProgressColumn, ...] = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        *([BarColumn(bar_width=24 if console.width >= _WIDE else 10)] if console.width >= _NARROW else []),
        TextColumn("{task.fields[phase]}", markup=False),
        TextColumn("{task.fields[facts]}", markup=False),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, expand=False) as progress:
        yield progress
