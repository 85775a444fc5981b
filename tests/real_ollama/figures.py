"""Each figure of a benchmark beside what it was compared with. Pure."""

from __future__ import annotations

import statistics as stdlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from obt_agent.benchmark.result import BenchmarkResult, IterationMetrics
from tests.real_ollama.process_readings import Reading, within
from tests.real_ollama.tap import Exchange

# What a figure may be off by: its share, or by the clock that it rests on.
SHARE = 0.01
# A byte's way through the relay, and two event loops' turns, where a CPU is idle.
RELAY_MS = 2.0
# Where the agent flags that two clocks differ it has said so, and states by how much.
CLOCKS_SHARE = 0.02
MEMORY_MB = 8.0
# Samples are half a second apart, and not the same ones.
CPU_SHARE = 0.15
LEAST_CPU_WINDOW_S = 2.0


class Compared(NamedTuple):
    """One figure: the agent's and the other one, medians over the iterations; ``allowed`` in its unit."""

    figure: str
    ours: float
    other: str
    theirs: float
    allowed: float

    @property
    def passes(self) -> bool:
        """Whether they agree."""
        return abs(self.ours - self.theirs) <= self.allowed


Known = Callable[[IterationMetrics, Exchange], float | None]


def by_relay(
    result: BenchmarkResult, exchanges: Sequence[Exchange], turn_ms: float = RELAY_MS
) -> Iterator[Compared]:
    """Times and rates beside the relay's stamps and the counters in Ollama's own last lines.

    ``turn_ms`` is what a stamp may be off by, on this machine and now.
    """
    by_prompt = {one.prompt_sha256: one for one in exchanges if one.final is not None}
    pairs = [
        (one, by_prompt[one.prompt_sha256])
        for one in result.metrics
        if one.excluded is None and one.prompt_sha256 in by_prompt
    ]
    for name, other, theirs, turns in _RELAYED:
        known = [
            (float(ours), there)
            for one, exchange in pairs
            if (ours := getattr(one, name)) is not None and (there := theirs(one, exchange)) is not None
        ]
        if known:
            ours, truth = (stdlib.median(column) for column in zip(*known, strict=True))
            allowed = max(SHARE * abs(truth), turns * turn_ms)
            if name == "output_tps_wall":
                # A rate over the whole time, which has a turn at either end.
                allowed += truth * turn_ms / stdlib.median(one.total_duration_ms or 1.0 for one, _ in pairs)
            yield Compared(name, ours, other, truth, allowed)
    yield from _two_clocks([one for one, _ in pairs])


def _two_clocks(metrics: Sequence[IterationMetrics]) -> Iterator[Compared]:
    known = [
        (one.decode_tps_corrected, one.decode_tps_by_ollama, one)
        for one in metrics
        if one.decode_tps_corrected is not None and one.decode_tps_by_ollama is not None
    ]
    if known:
        ours = stdlib.median(decode for decode, _, _ in known)
        theirs = stdlib.median(ollama for _, ollama, _ in known)
        said = [one.decode_tps_uncertainty or 0.0 for _, _, one in known if "clocks_differ" in one.flags]
        allowed = max(CLOCKS_SHARE * theirs, *said, 0.0)
        yield Compared("decode_tps_corrected", ours, "(n−1)/eval_duration, Ollama's clock", theirs, allowed)


def by_processes(result: BenchmarkResult, found: list[Reading]) -> Iterator[Compared]:
    """Memory and CPU beside psutil's readings of the same processes."""
    peaks, loads = [], []
    for one in result.metrics:
        seconds = (one.total_duration_ms or 0.0) / 1e3
        there = within(found, one.started_at.timestamp(), seconds)
        if len(there) < 2:
            continue
        if one.memory_peak_mb is not None:
            peaks.append((one.memory_peak_mb, max(reading.rss_mb for reading in there)))
        if one.cpu_process_percent is not None and seconds >= LEAST_CPU_WINDOW_S:
            spent = 100 * (there[-1].cpu_s - there[0].cpu_s) / (there[-1].mono_s - there[0].mono_s)
            loads.append((one.cpu_process_percent, spent))
    for name, known, share, least in (
        ("memory_peak_mb", peaks, 2 * SHARE, MEMORY_MB),
        ("cpu_process_percent", loads, CPU_SHARE, 5.0),
    ):
        if known:
            ours, truth = (stdlib.median(column) for column in zip(*known, strict=True))
            yield Compared(name, ours, "psutil, the same processes", truth, max(share * truth, least))
    model = result.summary.get("memory_usage_mb")
    if model is not None and peaks:
        grown = result.summary["prompt_cache_growth_mb"].max
        ours, truth = model.median + grown, max(peak for _, peak in peaks)
        yield Compared(
            "memory_usage_mb + growth", ours, "psutil, at most", truth, max(2 * SHARE * truth, MEMORY_MB)
        )


def _span_ms(start_ns: int, end_ns: int) -> float:
    return (end_ns - start_ns) / 1e6


def _counter(name: str, unit: float = 1.0) -> Known:
    def read(_: IterationMetrics, exchange: Exchange) -> float | None:
        value = None if exchange.final is None else exchange.final[1].get(name)
        return None if value is None else value / unit

    return read


def _rate(count: str, duration: str) -> Known:
    def read(_: IterationMetrics, exchange: Exchange) -> float | None:
        last: dict[str, Any] = {} if exchange.final is None else exchange.final[1]
        return last[count] * 1e9 / last[duration] if last.get(count) and last.get(duration) else None

    return read


def _ttft(_: IterationMetrics, exchange: Exchange) -> float | None:
    return _span_ms(exchange.sent_ns, exchange.texts[0]) if exchange.texts else None


def _whole(_: IterationMetrics, exchange: Exchange) -> float | None:
    return None if exchange.final is None else _span_ms(exchange.sent_ns, exchange.final[0])


def _tpot(one: IterationMetrics, exchange: Exchange) -> float | None:
    if exchange.final is None or len(exchange.texts) < 2:
        return None
    # The token that ends an answer by itself comes with the last line.
    end = exchange.final[0] if one.done_reason == "stop" else exchange.texts[-1]
    return _span_ms(exchange.texts[0], end) / (int(exchange.final[1]["eval_count"]) - 1)


def _decode(one: IterationMetrics, exchange: Exchange) -> float | None:
    tpot = _tpot(one, exchange)
    return 1e3 / tpot if tpot else None


def _wall(_: IterationMetrics, exchange: Exchange) -> float | None:
    if exchange.final is None:
        return None
    return int(exchange.final[1]["eval_count"]) * 1e3 / _span_ms(exchange.sent_ns, exchange.final[0])


def _model_ttft(_: IterationMetrics, exchange: Exchange) -> float | None:
    last: dict[str, Any] = {} if exchange.final is None else exchange.final[1]
    if not last.get("prompt_eval_duration"):
        return None
    return (int(last.get("load_duration", 0)) + int(last["prompt_eval_duration"])) / 1e6


_STAMPS = "stamps of a relay before Ollama"
_LAST_LINE = "Ollama's last line, as the relay saw it"
# The agent's field, what it is compared with, how that is got, and how many turns its clock leaves open.
_RELAYED: tuple[tuple[str, str, Known, float], ...] = (
    ("first_token_ms", _STAMPS, _ttft, 1.0),
    ("average_token_ms", _STAMPS, _tpot, 0.05),
    ("decode_tps_corrected", _STAMPS, _decode, 0.0),
    ("total_duration_ms", _STAMPS, _whole, 1.0),
    ("output_tps_wall", _STAMPS, _wall, 0.0),
    ("tokens_per_second", _LAST_LINE, _rate("eval_count", "eval_duration"), 0.0),
    ("prefill_tps", _LAST_LINE, _rate("prompt_eval_count", "prompt_eval_duration"), 0.0),
    ("prompt_tokens", _LAST_LINE, _counter("prompt_eval_count"), 0.0),
    ("completion_tokens", _LAST_LINE, _counter("eval_count"), 0.0),
    ("load_ms", _LAST_LINE, _counter("load_duration", 1e6), 0.0),
    ("prompt_eval_ms", _LAST_LINE, _counter("prompt_eval_duration", 1e6), 0.0),
    ("eval_ms", _LAST_LINE, _counter("eval_duration", 1e6), 0.0),
    ("server_total_ms", _LAST_LINE, _counter("total_duration", 1e6), 0.0),
    # What is left beside loading and reading the prompt is the way there and back, and the first token's own.
    ("ttft_excluding_slot_ms", "load + prompt_eval of Ollama's last line", _model_ttft, 5.0),
)
