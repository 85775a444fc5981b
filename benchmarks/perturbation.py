"""What the agent's sampler does to the speed it measures: ``python -m benchmarks.perturbation``.

One benchmark whose iterations are sampled and unsampled in turns, neighbours taken as pairs: the ratio of
decode speeds with its 95 % interval. Against the stand-in in a process of its own, and against the smallest
local model of the Ollama at OLLAMA_URL where one answers.

The stand-in keeps to a clock and hardly notices who else computes, so there is a harder case, too: a process
on every core that does nothing but count, as a model on CPUs would compute, in windows of equal length with
the sampler on and off. Whatever the sampler takes, they lack.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.processes import standin_process
from obt_agent.benchmark import statistics
from obt_agent.benchmark.plan import Plan, PromptConfig
from obt_agent.benchmark.records import NullJournal
from obt_agent.benchmark.result import BenchmarkResult, Ratio
from obt_agent.benchmark.run import BenchmarkRun, RunDeadlines
from obt_agent.config.schema import HardwareConfig, OllamaConfig
from obt_agent.errors import AgentError
from obt_agent.hardware.service import HardwareService
from obt_agent.log_setup.setup import LogSettings, configure
from obt_agent.ollama.client import OllamaClient
from obt_standin import Script

AIM = 0.005
WINDOW_S = 1.0
SAMPLED_EVERY_S = 0.5
SCRIPT = Script(decode_tps=200, prefill_tps=5000, tokens=400)


async def smallest_model(url: str) -> str | None:
    """The smallest local model that generates; None when no Ollama answers or it has none."""
    try:
        async with OllamaClient(OllamaConfig(url=url, connect_timeout_s=2), attempts=1) as ollama:
            models = (await ollama.installed()).models
    except AgentError:
        return None
    local = [one for one in models if not one.remote_host and "embedding" not in one.capabilities]
    return min(local, key=lambda one: one.size_bytes).name if local else None


async def measure(url: str, model: str, pairs: int, tokens: int) -> BenchmarkResult:
    """Sampled and unsampled iterations in turns."""
    plan = Plan(
        model_name=model,
        prompt_config=PromptConfig(prompt_tokens=64, completion_tokens=tokens),
        num_iterations=2 * pairs,
        temperature=0.0,
        seed=1,
        cooldown_s=0.0,
        alternate_sampling=True,
    )
    hardware = HardwareService(HardwareConfig(), ollama_url=url)
    await hardware.start()
    try:
        async with OllamaClient(OllamaConfig(url=url)) as ollama:
            run = BenchmarkRun(
                plan,
                job_id="perturbation",
                client_id="perturbation",
                ollama=ollama,
                hardware=hardware,
                journal=NullJournal(),
                on_progress=lambda _: None,
                limits=RunDeadlines(),
            )
            return await run.execute()
    finally:
        await hardware.close()


class Counted(NamedTuple):
    """What all cores count, sampled over unsampled; counts a second; the sampler's CPU, percent of a core."""

    effect: Ratio
    steps: float
    cpu_percent: float


async def counted(pairs: int, window_s: float) -> Counted:
    """Count in neighbouring windows with the sampler on and off."""
    counters = [multiprocessing.RawValue("Q", 0) for _ in range(os.cpu_count() or 1)]
    workers = [multiprocessing.Process(target=count, args=(counter,), daemon=True) for counter in counters]
    hardware = HardwareService(HardwareConfig())
    await hardware.start()
    speeds: dict[bool, list[float]] = {True: [], False: []}
    own: dict[bool, float] = {True: 0.0, False: 0.0}
    try:
        for worker in workers:
            worker.start()
        await asyncio.sleep(window_s)
        for number in range(2 * pairs):
            sampled = number % 4 in (0, 3)
            began = time.process_time()
            speeds[sampled].append(await _one_window(hardware, counters, window_s, sampled=sampled))
            own[sampled] += time.process_time() - began
    finally:
        for worker in workers:
            worker.terminate()
        await hardware.close()
    return Counted(
        statistics.ratio_paired(speeds[True], speeds[False]),
        statistics.median(speeds[False]),
        100 * (own[True] - own[False]) / (pairs * window_s),
    )


def count(counter: Any) -> None:
    """Count for ever, in steps long enough that the shared counter costs nothing."""
    while True:
        for _ in range(20_000):
            pass
        counter.value += 1


async def _one_window(
    hardware: HardwareService, counters: Sequence[Any], window_s: float, *, sampled: bool
) -> float:
    """Steps a second of all counters during one window."""
    async with contextlib.AsyncExitStack() as stack:
        if sampled:
            await stack.enter_async_context(hardware.watch(SAMPLED_EVERY_S, reason="benchmark"))
        before, began = sum(counter.value for counter in counters), time.monotonic()
        await asyncio.sleep(window_s)
        return float(sum(counter.value for counter in counters) - before) / (time.monotonic() - began)


def row(name: str, result: BenchmarkResult) -> tuple[str, ...]:
    """One line of the table."""
    sampler, speed = result.sampler, result.summary.get("decode_tps_corrected")
    if result.status != "completed" or sampler is None or sampler.effect is None or speed is None:
        return (name, result.status, result.error or "", "", "", "")
    return (name, f"{speed.median:.2f}", *effect_of(sampler.effect, f"{sampler.cpu_percent or 0:.2f} %"))


def effect_of(effect: Ratio, cpu: str) -> tuple[str, ...]:
    """Difference, interval, the sampler's CPU and the verdict."""
    known = effect.ci_low is not None and effect.ci_high is not None
    interval = (
        f"{(effect.ci_low or 0) - 1:+.2%} to {(effect.ci_high or 0) - 1:+.2%}" if known else "too few pairs"
    )
    worst = max(1 - (effect.ci_low or 0.0), 0.0)
    verdict = "shown" if worst <= AIM else "not shown: more pairs, or a quieter machine"
    if effect.ci_low is not None and effect.ci_low > 1 + AIM:
        verdict = "not shown: sampling makes nothing faster, so other work disturbed it"
    return (f"{effect.ratio - 1:+.2%}", interval, cpu, verdict)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=400)
    given = parser.parse_args(argv)
    configure(LogSettings(level="error"))
    table = Table(
        box=box.SIMPLE_HEAD, title="Decode speed with the sampler on, over off, in interleaved pairs"
    )
    for heading in (
        "Model",
        "tok/s",
        "Difference",
        "95 % interval",
        "Sampler, of a core",
        f"≤ {AIM:.1%} lost",
    ):
        table.add_column(heading)
    with standin_process(SCRIPT) as url:
        table.add_row(*row("stand-in", asyncio.run(measure(url, "standin-small", given.pairs, given.tokens))))
    hard = asyncio.run(counted(4 * given.pairs, WINDOW_S))
    table.add_row(
        f"all {os.cpu_count()} cores counting",
        f"{hard.steps:.0f} steps/s",
        *effect_of(hard.effect, f"{hard.cpu_percent:.2f} %"),
    )
    real = os.environ.get("OLLAMA_URL", "http://127.0.0.1:11434")
    model = asyncio.run(smallest_model(real))
    if model is not None:
        table.add_row(*row(model, asyncio.run(measure(real, model, given.pairs, given.tokens))))
    Console().print(table)
    if model is None:
        print(f"No Ollama with a local model answers at {real}: measured on the stand-in only.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
