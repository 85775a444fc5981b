"""Whether figures are true, in real time: ``python -m benchmarks.accuracy``.

The stand-in for Ollama, a process of its own, writes each byte at a scripted time and logs when it did, on
the monotonic clock. That log is the truth. Every metric is printed beside it: the median of the iterations'
errors, which within 1 %, or the stated uncertainty, is a pass, and the worst of them.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import statistics as stdlib
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.processes import standin_process
from obt_agent.benchmark.plan import Plan, PromptConfig, Sweep
from obt_agent.benchmark.records import NullJournal
from obt_agent.benchmark.result import BenchmarkResult, IterationMetrics
from obt_agent.benchmark.run import BenchmarkRun, RunDeadlines
from obt_agent.config.schema import HardwareConfig, OllamaConfig
from obt_agent.hardware.service import HardwareService
from obt_agent.log_setup.setup import LogSettings, configure
from obt_agent.ollama.client import OllamaClient
from obt_standin import Script, Stall

RELATIVE = 0.01
CLOCK_MS = 1.0
"""Stated uncertainty of one stamp where a core is idle: the request's way to Ollama, and the event loop's to
the bytes. Where all cores are busy a stamp waits for one of them."""


@dataclass(frozen=True)
class Scenario:
    """A script, what is run against it, and what the truth is known to be beside the log."""

    name: str
    script: Script
    plan: dict[str, object] = field(default_factory=dict)
    model: str = "standin-small"
    tokens: int = 64


@dataclass(frozen=True)
class Check:
    """One metric beside the truth: medians over the iterations, and the errors of each by itself.

    ``off`` is the median of the iterations' errors, ``worst`` the largest. ``uncertainty`` is what the agent
    states, in the metric's unit.
    """

    scenario: str
    metric: str
    measured: float
    truth: float
    off: float
    worst: float
    uncertainty: float = 0.0

    @classmethod
    def of(cls, scenario: str, metric: str, known: Sequence[tuple[float, float, float]]) -> Check:
        """From each iteration's measured value, truth and stated uncertainty."""
        errors = [measured / truth - 1 for measured, truth, _ in known]
        measured, truth, stated = (stdlib.median(column) for column in zip(*known, strict=True))
        return cls(scenario, metric, measured, truth, stdlib.median(errors), max(errors, key=abs), stated)

    @property
    def passes(self) -> bool:
        """Within 1 % or within what is stated."""
        return abs(self.off) * abs(self.truth) <= max(RELATIVE * abs(self.truth), self.uncertainty)


SCENARIOS = (
    Scenario("steady, 50 tok/s", Script(decode_tps=50, prefill_tps=1000)),
    Scenario("fast, 200 tok/s", Script(decode_tps=200, prefill_tps=4000), tokens=256),
    Scenario("jitter of 30 %", Script(decode_tps=50, prefill_tps=1000, jitter=0.3)),
    Scenario("two tokens a line", Script(decode_tps=100, prefill_tps=1000, tokens_per_line=2)),
    Scenario("a stall of 0.7 s", Script(decode_tps=100, prefill_tps=1000, stalls=(Stall(20, 0.7),))),
    Scenario(
        "thinking first",
        Script(decode_tps=50, prefill_tps=1000, thinking_tokens=20),
        plan={"think": True},
        model="standin-think:8b",
    ),
    Scenario(
        "two at once, one slot",
        Script(decode_tps=100, prefill_tps=1000),
        plan={"sweep": Sweep(concurrency=(2,))},
    ),
    Scenario(
        "four at once, four slots",
        Script(decode_tps=50, prefill_tps=1000, num_parallel=4),
        plan={"sweep": Sweep(concurrency=(4,))},
    ),
    Scenario(
        "cold load of 0.8 s", Script(decode_tps=100, prefill_tps=1000, load_s=0.8), plan={"cold_load": True}
    ),
)


class Logged(msgspec.Struct):
    """One request in the stand-in's log: when each piece was written (ns)."""

    path: str
    began_ns: int
    writes: list[tuple[int, int]]
    eval_tokens: int


async def measure(scenario: Scenario, iterations: int) -> tuple[BenchmarkResult, list[Logged]]:
    """One run at a stand-in in a process of its own, and the log of its measured iterations.

    Of its own: in one process with the agent, whatever holds the event loop up would hold up truth and
    measurement alike, and show nowhere. The monotonic clock is the same in all processes of a machine.
    """
    plan = Plan(
        **{
            "model_name": scenario.model,
            "prompt_config": PromptConfig(prompt_tokens=256, completion_tokens=scenario.tokens),
            "num_iterations": iterations,
            "min_duration_s": 0.0,
            "cooldown_s": 0.0,
            **scenario.plan,
        }  # type: ignore[arg-type] # the fields are the plan's own
    )
    scenario.script.tokens = scenario.tokens
    with standin_process(scenario.script) as url:
        hardware = HardwareService(HardwareConfig(), ollama_url=url)
        await hardware.start()
        try:
            async with OllamaClient(OllamaConfig(url=url)) as ollama:
                run = BenchmarkRun(
                    plan,
                    job_id="accuracy",
                    client_id="accuracy",
                    ollama=ollama,
                    hardware=hardware,
                    journal=NullJournal(),
                    on_progress=lambda _: None,
                    limits=replace(RunDeadlines(), settle_samples=1),
                )
                result = await run.execute()
        finally:
            await hardware.close()
        log = await asyncio.to_thread(read_log, url)
    generated = [one for one in log if one.path == "/api/generate" and one.eval_tokens]
    return result, generated[-iterations * max(plan.sweep.concurrency, default=1) :]


def read_log(url: str) -> list[Logged]:
    """The stand-in's log."""
    with urllib.request.urlopen(f"{url}/_standin/log") as answer:  # noqa: S310 - the stand-in's own address
        return msgspec.json.decode(answer.read(), type=list[Logged])


def checks(scenario: Scenario, result: BenchmarkResult, log: Sequence[Logged]) -> Iterator[Check]:
    """Every metric that the log or the script knows."""
    if len(result.metrics) != len(log):
        yield from concurrent_checks(scenario, result, log)
        return
    pairs = list(zip(result.metrics, log, strict=True))
    for name in METRICS:
        yield from _check(scenario, name, pairs)
    if result.cold_load is not None:
        load_ms = scenario.script.load_s * 1e3
        yield Check.of(scenario.name, "cold load (ms)", [(result.cold_load.wall_ms, load_ms, 10.0)])


def _check(
    scenario: Scenario, name: str, pairs: Sequence[tuple[IterationMetrics, Logged]]
) -> Iterator[Check]:
    known = [
        (measured, truth, _stated(one, name, measured))
        for one, logged in pairs
        if (measured := _measured(one, name)) is not None
        and (truth := _truth(scenario, name, logged)) is not None
    ]
    if known:
        yield Check.of(scenario.name, name, known)


def _measured(one: IterationMetrics, name: str) -> float | None:
    if name == "longest gap (ms)":
        return one.inter_chunk_ms.max if one.inter_chunk_ms else None
    value: float | None = getattr(one, name)
    return value


def _stated(one: IterationMetrics, name: str, measured: float) -> float:
    """The uncertainty that the agent states for a figure."""
    if name in ("decode_tps_corrected", "average_token_ms"):
        decode, half = one.decode_tps_corrected, one.decode_tps_uncertainty
        return measured * half / decode if decode and half else 0.0
    if name == "longest gap (ms)":
        return 2 * CLOCK_MS  # a gap has two stamps
    if name.endswith("_ms"):
        return CLOCK_MS
    return 0.0


def _truth(scenario: Scenario, name: str, logged: Logged) -> float | None:
    """What the log says; what Ollama reports itself is held against the script.

    Only the first line's tokens were there at its writing: the others took the time until the last.
    """
    n, ms, script = scenario.tokens, 1e-6, scenario.script
    lines = math.ceil(n / script.tokens_per_line)
    written = [at for at, _ in logged.writes]
    began, first, final = logged.began_ns, written[0], written[-1]
    tpot = (written[lines - 1] - first) / (n - script.tokens_per_line)
    thinks = bool(scenario.plan.get("think"))
    answer = written[script.thinking_tokens // script.tokens_per_line]
    table: dict[str, float | None] = {
        "first_token_ms": (first - began) * ms,
        "ttft_answer_ms": (answer - began) * ms if thinks else None,
        "thinking_ms": (answer - first) * ms if thinks else None,
        "average_token_ms": tpot * ms,
        "decode_tps_corrected": 1e9 / tpot,
        "output_tps_wall": n * 1e9 / (final - began),
        "total_duration_ms": (final - began) * ms,
        "prefill_tps": script.prefill_tps,
        "tokens_per_second": None
        if script.stalls or script.jitter
        else (script.decode_tps or 0) * n / (n - 1),
        "longest gap (ms)": max((b - a) * ms for a, b in pairwise(written[:lines])),
    }
    return table[name]


def concurrent_checks(scenario: Scenario, result: BenchmarkResult, log: Sequence[Logged]) -> Iterator[Check]:
    """An iteration of several requests: all tokens over the wall, their first tokens, the wait for a slot."""
    each = len(log) // len(result.metrics)
    total, firsts, waits = [], [], []
    for number, one in enumerate(result.metrics):
        group = log[number * each : (number + 1) * each]
        ends = [logged.writes[-1][0] for logged in group]
        wall = max(ends) - min(logged.began_ns for logged in group)
        total.append((one.output_tps_total or 0.0, each * scenario.tokens * 1e9 / wall, 0.0))
        ttft = stdlib.mean(logged.writes[0][0] - logged.began_ns for logged in group) / 1e6
        firsts.append((one.first_token_ms or 0.0, ttft, CLOCK_MS))
        wait = (min(ends) - max(logged.began_ns for logged in group)) / 1e6
        waits.append((one.queue_ms_max or 0.0, wait, 5.0))
    yield Check.of(scenario.name, "output_tps_total", total)
    yield Check.of(scenario.name, "first_token_ms", firsts)
    if scenario.script.num_parallel == 1:
        yield Check.of(scenario.name, "queue_ms_max", waits)


METRICS = (
    "first_token_ms",
    "ttft_answer_ms",
    "thinking_ms",
    "average_token_ms",
    "decode_tps_corrected",
    "output_tps_wall",
    "total_duration_ms",
    "prefill_tps",
    "tokens_per_second",
    "longest gap (ms)",
)


def show(found: Sequence[Check], console: Console) -> None:
    """The table."""
    table = Table(box=box.SIMPLE_HEAD, title="Metrics beside the stand-in's log of written bytes")
    for heading in ("Scenario", "Metric"):
        table.add_column(heading)
    for heading in ("Measured", "Truth", "Off", "Worst", "Stated ±", ""):
        table.add_column(heading, justify="right")
    for one in found:
        table.add_row(
            one.scenario,
            one.metric,
            f"{one.measured:.3f}",
            f"{one.truth:.3f}",
            f"{one.off:+.2%}",
            f"{one.worst:+.2%}",
            f"{one.uncertainty:.3f}" if one.uncertainty else "",
            "ok" if one.passes else "OFF",
        )
    console.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 when a metric is off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=3)
    given = parser.parse_args(argv)
    configure(LogSettings(level="error"))
    found: list[Check] = []
    for scenario in SCENARIOS:
        result, log = asyncio.run(measure(scenario, given.iterations))
        if result.status != "completed":
            sys.stderr.write(f"{scenario.name}: {result.error}\n")
            return 1
        found.extend(checks(scenario, result, log))
    show(found, Console())
    off = sum(not one.passes for one in found)
    print(f"{len(found) - off} of {len(found)} within 1 % or the stated uncertainty")
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
