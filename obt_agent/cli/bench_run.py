"""Runs plans one after the other, with a live line on standard error."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from obt_agent.benchmark.expansion import expand
from obt_agent.benchmark.pairs import single, turns
from obt_agent.benchmark.plan import Plan
from obt_agent.benchmark.records import Forgetful
from obt_agent.benchmark.records import Progress as RunProgress
from obt_agent.benchmark.result import BenchmarkResult
from obt_agent.benchmark.run import BenchmarkRun, Limits
from obt_agent.config.schema import Config
from obt_agent.hardware.service import HardwareService, HardwareSettings
from obt_agent.ollama.client import OllamaClient
from obt_agent.ollama.settings import configured

_WORDS = {
    "preflight": "looking around",
    "cold_load": "cold load",
    "warmup": "warming up",
    "iteration": "measuring",
    "cooldown": "cooling down",
    "reporting": "done",
}


async def run_pairs(
    plans: tuple[Plan, Plan], pairs: int, config: Config
) -> tuple[list[BenchmarkResult], list[BenchmarkResult]]:
    """Both plans in turns; after Ctrl-C only whole pairs, if there is one."""
    order = turns(pairs, random.SystemRandom())
    done = await run_all([single(plans[side]) for side in order], config)
    sides: tuple[list[BenchmarkResult], list[BenchmarkResult]] = ([], [])
    for side, result in zip(order, done, strict=False):
        sides[side].append(result)
    whole = sum(result.status == "completed" for result in done) // 2
    return sides[0][: max(whole, 1)], sides[1][: max(whole, 1)]


async def run_all(plans: Sequence[Plan], config: Config) -> list[BenchmarkResult]:
    """The results in the plans' order; after Ctrl-C those until then, the last one cancelled."""
    hardware = HardwareService(
        HardwareSettings(
            benchmark_interval_s=config.hardware.benchmark_interval_s,
            min_interval_s=config.hardware.min_interval_s,
            ollama_url=config.ollama.url,
        )
    )
    await hardware.start()
    try:
        async with OllamaClient(configured(config.ollama)) as ollama:
            return await _in_turn(plans, config, ollama, hardware)
    finally:
        await hardware.close()


async def _in_turn(
    plans: Sequence[Plan], config: Config, ollama: OllamaClient, hardware: HardwareService
) -> list[BenchmarkResult]:
    results: list[BenchmarkResult] = []
    with _live_lines() as lines:
        for plan in plans:
            line = lines.line_for(plan)
            run = BenchmarkRun(
                plan,
                job_id=str(uuid4()),
                client_id=config.agent.name,
                ollama=ollama,
                hardware=hardware,
                journal=Forgetful(),
                on_progress=line.update,
                limits=Limits(cooldown_s=config.benchmark.cooldown_s),
            )
            with _stopped_by_signals(run):
                result = await run.execute()
            line.end(result)
            results.append(result)
            if result.status in ("cancelled", "interrupted"):
                break
    return results


@contextmanager
def _stopped_by_signals(run: BenchmarkRun) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run with what it has; a second one ends the process as usual."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        run.stop("cancelled")

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


class _Lines:
    """The live lines, one for each model."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def line_for(self, plan: Plan) -> _Line:
        """A new line."""
        return _Line(self._progress, plan)


class _Line:
    """One model's progress: phase, bar, speed, time left."""

    def __init__(self, progress: Progress, plan: Plan) -> None:
        self._progress = progress
        self._cells = {cell.label: cell.index for cell in expand(plan)}
        self._task = progress.add_task(plan.model_name, total=len(self._cells), phase="", facts="")

    def update(self, now: RunProgress) -> None:
        """Show how far the run is."""
        done = max((now.iteration or 1) - 1, 0) if now.phase == "iteration" else 0
        share = min(done / now.iterations_planned, 1.0) if now.iterations_planned else 0.0
        self._progress.update(
            self._task,
            completed=self._cells.get(now.cell or "", 0) + share,
            phase=_phase(now),
            facts=Text("  ".join(_facts(now))),
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


def _facts(now: RunProgress) -> list[str]:
    facts: list[str] = []
    if now.tokens_per_second is not None:
        facts.append(f"{now.tokens_per_second:.1f} tok/s")
    if now.first_token_ms is not None:
        facts.append(f"TTFT {now.first_token_ms:.0f} ms")
    if now.gpu_utilization_ratio is not None:
        facts.append(f"GPU {now.gpu_utilization_ratio * 100:.0f} %")
    elif now.cpu_utilization_ratio is not None:
        facts.append(f"CPU {now.cpu_utilization_ratio * 100:.0f} %")
    if now.remaining_s is not None:
        facts.append(f"about {timedelta(seconds=round(now.remaining_s))} left")
    return facts


@contextmanager
def _live_lines() -> Iterator[_Lines]:
    """Lines on standard error, so that standard output is the results'; none where it is no terminal."""
    console = Console(file=sys.stderr)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[phase]}", markup=False),
        TextColumn("{task.fields[facts]}", markup=False),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, expand=False) as progress:
        yield _Lines(progress)
