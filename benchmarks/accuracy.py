"""Whether figures are true, in real time: ``python -m benchmarks.accuracy``.

The stand-in for Ollama writes each byte at a scripted time and logs when it did, on the monotonic clock. That
log is the truth. Every metric is printed beside it; within 1 %, or its stated uncertainty, is a pass.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics as stdlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from obt_agent.benchmark.plan import Plan, PromptConfig, Sweep
from obt_agent.benchmark.records import Forgetful
from obt_agent.benchmark.result import BenchmarkResult, IterationMetrics
from obt_agent.benchmark.run import BenchmarkRun, Limits
from obt_agent.hardware.service import HardwareService, HardwareSettings
from obt_agent.log_setup.setup import LogSettings, configure
from obt_agent.ollama.client import OllamaClient, OllamaSettings
from obt_standin import Exchange, Script, Stall, StandIn

RELATIVE = 0.01
CLOCK_MS = 1.0
"""Stated uncertainty of one stamp: the request's way to Ollama, and the event loop's to the bytes."""


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
    """One metric beside the truth; ``uncertainty`` is what the agent states, in the metric's unit."""

    scenario: str
    metric: str
    measured: float
    truth: float
    uncertainty: float = 0.0

    @property
    def off(self) -> float:
        """Relative error."""
        return self.measured / self.truth - 1 if self.truth else 0.0

    @property
    def passes(self) -> bool:
        """Within 1 % or within what is stated."""
        return abs(self.measured - self.truth) <= max(RELATIVE * abs(self.truth), self.uncertainty)


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
        "cold load of 0.8 s", Script(decode_tps=100, prefill_tps=1000, load_s=0.8), plan={"cold_load": True}
    ),
)


async def measure(scenario: Scenario, iterations: int) -> tuple[BenchmarkResult, list[Exchange]]:
    """One run, and the exchanges of its measured iterations."""
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
    async with StandIn(scenario.script) as standin:
        standin.script.tokens = scenario.tokens
        hardware = HardwareService(HardwareSettings(ollama_url=standin.url))
        await hardware.start()
        try:
            async with OllamaClient(OllamaSettings(url=standin.url)) as ollama:
                run = BenchmarkRun(
                    plan,
                    job_id="accuracy",
                    client_id="accuracy",
                    ollama=ollama,
                    hardware=hardware,
                    journal=Forgetful(),
                    on_progress=lambda _: None,
                    limits=replace(Limits(), settle_samples=1),
                )
                result = await run.execute()
        finally:
            await hardware.close()
        asked = [one for one in standin.requests if one.path == "/api/generate" and b'"prompt"' in one.body]
    requests = iterations * max(plan.sweep.concurrency, default=1)
    return result, asked[-requests:]


def checks(scenario: Scenario, result: BenchmarkResult, exchanges: Sequence[Exchange]) -> Iterator[Check]:
    """Every metric that the log or the script knows, as medians over the iterations."""
    if len(result.metrics) != len(exchanges):
        yield from concurrent_checks(scenario, result, exchanges)
        return
    pairs = list(zip(result.metrics, exchanges, strict=True))
    for name in (
        "first_token_ms",
        "ttft_answer_ms",
        "thinking_ms",
        "average_token_ms",
        "decode_tps_corrected",
    ):
        yield from _check(scenario, name, pairs)
    for name in (
        "output_tps_wall",
        "total_duration_ms",
        "prefill_tps",
        "tokens_per_second",
        "longest gap (ms)",
    ):
        yield from _check(scenario, name, pairs)
    if result.cold_load is not None:
        yield Check(
            scenario.name, "cold load (ms)", result.cold_load.wall_ms, scenario.script.load_s * 1e3, 10.0
        )


def _check(
    scenario: Scenario, name: str, pairs: Sequence[tuple[IterationMetrics, Exchange]]
) -> Iterator[Check]:
    known = [
        (measured, truth, stated)
        for one, exchange in pairs
        if (measured := _measured(one, name)) is not None
        and (truth := _truth(scenario, name, exchange)) is not None
        for stated in (_stated(one, name, measured),)
    ]
    if known:
        yield Check(scenario.name, name, *(stdlib.median(column) for column in zip(*known, strict=True)))


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
    if name.endswith(("_ms", "(ms)")):
        return CLOCK_MS
    return 0.0


def _truth(scenario: Scenario, name: str, exchange: Exchange) -> float | None:
    """What the log says; what Ollama reports itself is held against the script.

    Only the first line's tokens were there at its writing: the others took the time until the last.
    """
    n, ms = scenario.tokens, 1e-6
    script = scenario.script
    writes = [(at, msgspec.json.decode(data)) for at, data in exchange.writes]
    text = [(at, chunk) for at, chunk in writes if chunk.get("response") or chunk.get("thinking")]
    first, last, final = text[0][0], text[-1][0], writes[-1][0]
    answer = next((at for at, chunk in text if chunk.get("response")), None)
    tpot = (last - first) / (n - script.tokens_per_line)
    thinks = answer is not None and answer != first
    table: dict[str, float | None] = {
        "first_token_ms": (first - exchange.began_ns) * ms,
        "ttft_answer_ms": (answer - exchange.began_ns) * ms if answer and thinks else None,
        "thinking_ms": (answer - first) * ms if answer and thinks else None,
        "average_token_ms": tpot * ms,
        "decode_tps_corrected": 1e9 / tpot,
        "output_tps_wall": n * 1e9 / (final - exchange.began_ns),
        "total_duration_ms": (final - exchange.began_ns) * ms,
        "prefill_tps": script.prefill_tps,
        "tokens_per_second": None
        if script.stalls or script.jitter
        else (script.decode_tps or 0) * n / (n - 1),
        "longest gap (ms)": max((b[0] - a[0]) * ms for a, b in pairwise(text)),
    }
    return table[name]


def concurrent_checks(
    scenario: Scenario, result: BenchmarkResult, exchanges: Sequence[Exchange]
) -> Iterator[Check]:
    """An iteration of several requests: all tokens over the wall, and the wait for the slot."""
    each = len(exchanges) // len(result.metrics)
    total, waits = [], []
    for number in range(len(result.metrics)):
        group = exchanges[number * each : (number + 1) * each]
        wall = max(one.writes[-1][0] for one in group) - min(one.began_ns for one in group)
        total.append(each * scenario.tokens * 1e9 / wall)
        first_done = min(one.writes[-1][0] for one in group)
        waits.append((first_done - max(one.began_ns for one in group)) / 1e6)
    measured = [one.output_tps_total or 0.0 for one in result.metrics]
    queued = [one.queue_ms_max or 0.0 for one in result.metrics]
    yield Check(scenario.name, "output_tps_total", stdlib.median(measured), stdlib.median(total))
    yield Check(scenario.name, "queue_ms_max", stdlib.median(queued), stdlib.median(waits), 5.0)


def show(found: Sequence[Check], console: Console) -> None:
    """The table."""
    table = Table(box=box.SIMPLE_HEAD, title="Metrics beside the stand-in's log of written bytes")
    for heading in ("Scenario", "Metric"):
        table.add_column(heading)
    for heading in ("Measured", "Truth", "Off", "Stated ±", ""):
        table.add_column(heading, justify="right")
    for one in found:
        table.add_row(
            one.scenario,
            one.metric,
            f"{one.measured:.3f}",
            f"{one.truth:.3f}",
            f"{one.off:+.2%}",
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
        result, exchanges = asyncio.run(measure(scenario, given.iterations))
        if result.status != "completed":
            sys.stderr.write(f"{scenario.name}: {result.error}\n")
            return 1
        found.extend(checks(scenario, result, exchanges))
    show(found, Console())
    off = sum(not one.passes for one in found)
    print(f"{len(found) - off} of {len(found)} within 1 % or the stated uncertainty")
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
