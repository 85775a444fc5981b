"""What the agent's sampler costs the work beside it: ``python -m benchmarks.perturbation``.

Blocks of work with the sampler on and off, in pairs, in random order within each pair. Of each block its
work a second of wall time, and its work a second of the CPU time that it got: on a machine where other
programs take turns too, the second varies far less, and what sampling does to caches and clocks is in both.

The work is a process on every core that does nothing but count, as a model on CPUs computes, and generation
by the smallest local model of the Ollama at OLLAMA_URL, where one answers. A first group of pairs shows the
spread; from it follows how many pairs the aim takes, and so many are measured, up to a bound. Beyond the
bound the work itself is too noisy to show the aim, and the table says so. An "off" block that holds a sample
all the same is measured again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import multiprocessing
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil
from rich import box
from rich.console import Console
from rich.table import Table

from obt_agent.benchmark import request_body, statistics
from obt_agent.benchmark.expansion import expand
from obt_agent.benchmark.model_processes import ProcessFilter
from obt_agent.benchmark.plan import Plan, PromptConfig
from obt_agent.benchmark.preflight import weights
from obt_agent.benchmark.request import generate
from obt_agent.benchmark.result import Ratio
from obt_agent.benchmark.synthetic import nonce
from obt_agent.config.schema import HardwareConfig, OllamaConfig
from obt_agent.config.urls import ollama_port
from obt_agent.errors import AgentError
from obt_agent.hardware.service import HardwareService
from obt_agent.log_setup.setup import LogSettings, configure
from obt_agent.ollama.client import OllamaClient

AIM: Final = 0.005
WINDOW_S: Final = 1.0
SAMPLED_EVERY_S: Final = 0.5
# A sample that the service took by itself spoils an "off" block; more in a row are a fault, and no chance.
TRIES: Final = 5
# So that no tick of the service's own falls into a block.
NEVER_BY_ITSELF: Final = HardwareConfig(idle_interval_s=3600.0, active_interval_s=3600.0)


class Block(NamedTuple):
    """Work a second of wall time, and a second of its own CPU time; None where that is not to be had."""

    per_second: float
    per_cpu_second: float | None


class Pair(NamedTuple):
    """Two neighbouring blocks."""

    on: Block
    off: Block


class Measured(NamedTuple):
    """All pairs of one kind of work; ``needed`` of them show the aim, by the spread of the first ones."""

    name: str
    pairs: list[Pair]
    needed: int
    sampler_percent: float


Work = Callable[[], Awaitable[Block]]


async def measure(name: str, work: Work, least: int, most: int, seed: int) -> Measured:
    """As many pairs as the aim takes by the first ones' spread, and no more than ``most``."""
    order = random.Random(seed)
    pairs: list[Pair] = []
    own = {True: 0.0, False: 0.0}
    hardware = HardwareService(NEVER_BY_ITSELF)
    await hardware.start()
    try:
        # Not measured: caches and clocks settle.
        await work()
        needed = least
        while len(pairs) < min(max(needed, least), most):
            blocks: dict[bool, Block] = {}
            for sampled in order.sample((True, False), 2):
                before, began = time.process_time(), time.monotonic()
                blocks[sampled] = await _block(hardware, work, sampled=sampled)
                own[sampled] += (time.process_time() - before) / (time.monotonic() - began)
            pairs.append(Pair(blocks[True], blocks[False]))
            # Decided once: whoever looks after every pair stops at a lucky one.
            if len(pairs) == least:
                needed = pairs_needed(pairs)
    finally:
        await hardware.close()
    return Measured(name, pairs, needed, 100 * (own[True] - own[False]) / len(pairs))


async def _block(hardware: HardwareService, work: Work, *, sampled: bool) -> Block:
    """One block; one without sampling holds no sample."""
    if sampled:
        async with hardware.watch(SAMPLED_EVERY_S, reason="benchmark") as watch:
            await anext(watch)
            return await work()
    for _ in range(TRIES):
        before = hardware.sampler_cost.samples
        found = await work()
        if hardware.sampler_cost.samples == before:
            return found
    raise RuntimeError(f"{TRIES} blocks without sampling held a sample each")


def pairs_needed(pairs: Sequence[Pair]) -> int:
    """How many pairs make the better of the two intervals as narrow as the aim is, either side."""
    counts = []
    for on, off in (_columns(pairs, "per_second"), _columns(pairs, "per_cpu_second")):
        found = statistics.ratio_paired(on, off) if len(on) > 1 else None
        if found is not None and found.ci_low is not None and found.ci_high is not None:
            half = (math.log(found.ci_high) - math.log(found.ci_low)) / 2
            # The width goes down with the root of the number; half of the aim is left for the difference.
            counts.append(math.ceil(len(on) * (half / (AIM / 2)) ** 2))
    return min(counts, default=len(pairs))


def _columns(pairs: Sequence[Pair], field: str) -> tuple[list[float], list[float]]:
    known = [
        (on, off)
        for pair in pairs
        if (on := getattr(pair.on, field)) is not None and (off := getattr(pair.off, field)) is not None
    ]
    return [on for on, _ in known], [off for _, off in known]


def cpu_s(pids: Sequence[int]) -> float | None:
    """CPU seconds of processes with all their threads; None where one of them is gone or closed."""
    try:
        return sum(_schedstat_s(pid) for pid in pids)
    except OSError:
        pass
    try:
        # In steps of 10 ms: coarse for one block, and right on the average.
        return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)
    except psutil.Error:
        return None


def _schedstat_s(pid: int) -> float:
    """The scheduler's own count, in nanoseconds, of each thread."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def _spent(before: float | None, after: float | None) -> float | None:
    return after - before if before is not None and after is not None and after > before else None


@contextlib.asynccontextmanager
async def counting(window_s: float) -> AsyncIterator[Work]:
    """A process on every core that counts; its work is steps."""
    counters = [multiprocessing.RawValue("Q", 0) for _ in range(os.cpu_count() or 1)]
    workers = [multiprocessing.Process(target=count, args=(counter,), daemon=True) for counter in counters]

    async def window() -> Block:
        pids = [worker.pid or 0 for worker in workers]
        cpu, steps, began = cpu_s(pids), sum(counter.value for counter in counters), time.monotonic()
        await asyncio.sleep(window_s)
        done = float(sum(counter.value for counter in counters) - steps)
        elapsed, spent = time.monotonic() - began, _spent(cpu, cpu_s(pids))
        return Block(done / elapsed, done / spent if spent else None)

    try:
        for worker in workers:
            worker.start()
        yield window
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def count(counter: Any) -> None:
    """Count for ever, in steps long enough that the shared counter costs nothing."""
    while True:
        for _ in range(20_000):
            pass
        counter.value += 1


@contextlib.asynccontextmanager
async def generating(url: str, model: str, tokens: int) -> AsyncIterator[Work]:
    """Generation by a real model; its work is tokens after the first."""
    plan = Plan(
        model_name=model,
        prompt_config=PromptConfig(prompt_tokens=64, completion_tokens=tokens),
        temperature=0.0,
        seed=1,
    )
    (cell,) = expand(plan)
    async with OllamaClient(OllamaConfig(url=url)) as ollama:
        # Loaded by then, the model has its process; it is looked for once, outside of all blocks.
        await ollama.load(model, keep_alive="10m", options=request_body.load_options(plan, cell))
        pids = await _runner(url, await weights(ollama, model))

        async def answer() -> Block:
            body = request_body.generate(plan, cell, request_body.opened(cell, nonce(), 48).text)
            before = cpu_s(pids) if pids else None
            done = await generate(ollama, body, lambda *_: None)
            after = cpu_s(pids) if pids else None
            arrivals = done.trace.arrivals
            counted = (done.trace.counters.eval_count or len(arrivals)) - 1
            # By the agent's clock, from the first token to the last: reading the prompt is in the CPU time
            # only, and as long in every block.
            elapsed = max(arrivals[-1].t_us - arrivals[0].t_us, 1) / 1e6
            spent = _spent(before, after)
            return Block(counted / elapsed, counted / spent if spent else None)

        yield answer


async def _runner(url: str, weights: str | None) -> list[int]:
    """The process that runs the model; none where Ollama is elsewhere, or it is not told apart."""
    hardware = HardwareService(NEVER_BY_ITSELF, ollama_url=url)
    try:
        seen = (await hardware.sample()).ollama
    finally:
        await hardware.close()
    chosen = ProcessFilter(ollama_port(url), weights).select(seen)
    return [one.pid for one in chosen.processes if one.role == "runner"]


async def smallest_model(url: str) -> str | None:
    """The smallest local model that generates; None when no Ollama answers or it has none."""
    try:
        async with OllamaClient(OllamaConfig(url=url, connect_timeout_s=2), attempts=1) as ollama:
            models = (await ollama.installed()).models
    except AgentError:
        return None
    local = [one for one in models if not one.remote_host and "embedding" not in one.capabilities]
    return min(local, key=lambda one: one.size_bytes).name if local else None


def rows(found: Measured) -> list[tuple[str, ...]]:
    """Two lines of the table: by wall time and by CPU time."""
    lines: list[tuple[str, ...]] = []
    for field, words in (("per_second", "a second"), ("per_cpu_second", "a CPU second")):
        on, off = _columns(found.pairs, field)
        if len(on) > 1:
            effect = statistics.ratio_paired(on, off)
            lines.append((found.name, words, str(len(on)), *effect_of(effect, found.needed)))
    return lines


def effect_of(effect: Ratio, needed: int) -> tuple[str, str, str]:
    """Difference, interval and the verdict."""
    if effect.ci_low is None or effect.ci_high is None:
        return f"{effect.ratio - 1:+.2%}", "too few pairs", "not shown"
    interval = f"{effect.ci_low - 1:+.2%} to {effect.ci_high - 1:+.2%}"
    if effect.ci_low > 1 + AIM:
        verdict = "not shown: sampling makes nothing faster, so other work disturbed it"
    elif 1 - effect.ci_low <= AIM:
        verdict = "shown"
    elif effect.ci_high < 1 - AIM:
        verdict = "more is lost"
    else:
        verdict = f"not shown: the work itself varies too much, about {needed} pairs would show it"
    return f"{effect.ratio - 1:+.2%}", interval, verdict


async def measure_all(given: argparse.Namespace, url: str) -> tuple[list[Measured], bool]:
    """The counting cores, and the model where there is one; whether there was."""
    found: list[Measured] = []
    async with counting(WINDOW_S) as window:
        name = f"all {os.cpu_count()} cores counting"
        found.append(await measure(name, window, given.pairs, given.most, given.seed))
    model = await smallest_model(url)
    if model is not None:
        async with generating(url, model, given.tokens) as answer:
            found.append(await measure(model, answer, given.pairs, given.most, given.seed))
    return found, model is not None


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8, help="pairs that show the spread (%(default)s)")
    parser.add_argument("--most", type=int, default=40, help="pairs at most (%(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="of one block (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the blocks' order (%(default)s)")
    given = parser.parse_args(argv)
    configure(LogSettings(level="error"))
    url = os.environ.get("OLLAMA_URL", "http://127.0.0.1:11434")
    found, real = asyncio.run(measure_all(given, url))
    title = f"Work with the sampler on, over off, in pairs of random order (seed {given.seed})"
    table = Table(box=box.SIMPLE_HEAD, title=title)
    for heading in ("Work", "By", "Pairs", "Difference", "95 % interval", f"≤ {AIM:.1%} lost"):
        table.add_column(heading)
    for one in found:
        for line in rows(one):
            table.add_row(*line)
    console = Console()
    Console(width=max(console.width, 110)).print(table)
    for one in found:
        print(f"{one.name}: sampling took {one.sampler_percent:.2f} % of a core")
    if not real:
        print(f"No Ollama with a local model answers at {url}: measured on the counting cores only.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
