"""What must be known about an iteration or a run beside its figures: flags, and warnings for people. Pure.

A flag is a stable word on one iteration. A warning is given once for a run, after the figures, with what to
do. Nothing is dropped: only ``EXCLUDING`` flags take an iteration out of the summary, and the cause stands in
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from obt_agent.benchmark import other_use, statistics, stopping_rule
from obt_agent.benchmark.result import BenchmarkWarning, CellResult, IterationMetrics
from obt_agent.ollama.payloads import RunningModel

# A prefill this many times the median rate of its cell, and an outlier, suggests a cached prompt.
CACHED_FACTOR: Final = 2.0
# A mean clock under this share of the cell's highest is a drop.
CLOCK_DROP: Final = 0.90
# Unaccounted time over this share of an iteration, and over ``QUEUED_LEAST_MS``, is queueing: beyond what
# saving the prompts before takes, which is unaccounted too.
QUEUED_SHARE: Final = 0.10
# A busy machine delays a request by tens of milliseconds without any slot being taken.
QUEUED_LEAST_MS: Final = 100.0
# Decode speed by the agent's clock and by Ollama's may differ by this share, and the two times by
# ``CLOCKS_LEAST_MS``: on short answers a single late turn of either program is more.
CLOCKS_SHARE: Final = 0.02
CLOCKS_LEAST_MS: Final = 10.0
# A model computes on the CPU from this share of one core on; where all CPUs are this busy, others' work of
# this share of one core takes CPU that the model's threads wait for. ggml's threads meet at a barrier after
# each operation, and spin there: one that is not scheduled holds up all of them.
CONTENDED_PROCESS_PERCENT: Final = 50.0
CONTENDED_BUSY_PERCENT: Final = 90.0
CONTENDED_OTHERS_PERCENT: Final = 25.0
# Memory that grew by more than this share of the model's, and by more than ``GROWTH_LEAST_MB``, is not the
# system's rounding: prompts are kept.
GROWTH_SHARE: Final = 0.02
GROWTH_LEAST_MB: Final = 8.0
# A synthetic prompt may miss its length by this share, or by ``LENGTH_TOLERANCE_TOKENS``.
LENGTH_TOLERANCE: Final = 0.02
LENGTH_TOLERANCE_TOKENS: Final = 8
# A rank correlation of speed with index under this p-value is a trend; with several cells under this
# p-value over their number (Bonferroni), or a sweep of twenty would show one by chance.
TREND_P: Final = 0.05

# Share of decode speed that the stream's shape may leave open without a word.
COARSE_SHARE: Final = 0.01

# A load this many times as long as with the model warm, and of at least ``RELOAD_LEAST_MS``, is a reload.
RELOAD_FACTOR: Final = 5.0
RELOAD_LEAST_MS: Final = 100.0

# Flags that take an iteration out of the summary: its TTFT holds a load.
EXCLUDING: Final = frozenset({"reloaded"})


class WarningText(NamedTuple):
    """A warning's words: what happened, and what to do."""

    message: str
    action: str


ADVICE: Final[Mapping[str, WarningText]] = MappingProxyType(
    {
        "short_output": WarningText(
            "the model ended before the tokens asked for",
            "compare rates, not totals; choose a prompt that asks for a longer answer, or fewer tokens",
        ),
        "short_retried": WarningText(
            "an output was short and was measured again",
            "nothing, unless it is frequent; then choose a prompt that asks for a longer answer",
        ),
        "repetition_retried": WarningText(
            "the model repeated one token until Ollama broke it off, and was asked again",
            "raise repeat_penalty or temperature, or use another prompt",
        ),
        "reloaded": WarningText(
            "Ollama reloaded the model, so that TTFT holds a load; the summary leaves the iteration out",
            "keep other programs from using this Ollama with other options meanwhile, and raise keep_alive",
        ),
        "num_ctx_clamped": WarningText(
            "Ollama runs the model with a smaller context than was asked for",
            "set num_ctx to what the model supports",
        ),
        "model_changed": WarningText(
            "another version of the model is loaded than at the start",
            "do not pull or create the model during a run; run again",
        ),
        "prompt_length_off": WarningText(
            "the prompt is not as long as planned",
            "read prompt_tokens for its true length; allow warm-ups, which calibrate it",
        ),
        "prompt_truncated": WarningText(
            "the prompt filled the context, and Ollama cut it",
            "raise num_ctx",
        ),
        "queued": WarningText(
            "requests waited for a slot",
            "lower concurrency, or raise OLLAMA_NUM_PARALLEL where Ollama starts",
        ),
        "clocks_differ": WarningText(
            "decode speed by Ollama's clock is another than by the agent's: one of them got its turn late",
            "close other programs; decode_tps_uncertainty holds the difference",
        ),
        "cpu_contended": WarningText(
            "other programs took CPU time from the model's threads, which wait for the slowest of them at "
            "every step: a little costs much",
            "close other programs, or give the model fewer threads than CPUs (--threads, num_thread)",
        ),
        "used_meanwhile": WarningText(
            "others used the machine meanwhile: programs its CPUs or GPUs, or requests other models",
            "run again when the machine is idle; used_meanwhile of the result says who it was",
        ),
        "prompts_kept": WarningText(
            "memory grew with each prompt, for Ollama keeps finished ones; memory_usage_mb leaves that out",
            "reckon with it in use (prompt_cache_growth_mb), or set LLAMA_ARG_CACHE_RAM where Ollama starts",
        ),
        "counters_rejected": WarningText(
            "figures of Ollama's own contradict the agent's clock and are left out",
            "use the figures by the agent's clock, which are complete; update Ollama, or its proxy",
        ),
        "throttled_thermal": WarningText(
            "a GPU was held back by heat",
            "improve cooling, or raise cooldown_s; compare only with runs in the same state",
        ),
        "throttled_power": WarningText(
            "a GPU was held back by its power limit",
            "this is usual under full load; note the power limit beside the figures",
        ),
        "clock_drop": WarningText(
            "a GPU ran at a lower clock than in other iterations",
            "look at temperature and power; run again when the machine is cool",
        ),
        "cooldown_timeout": WarningText(
            "the machine did not cool down in time",
            "raise cooldown_s, or read the figures as those of a warm machine",
        ),
        "cached_prompt_suspected": WarningText(
            "a prompt was read much faster than the others, as if part of it was cached",
            "do not trust prefill and time to first token of that iteration",
        ),
        "outlier_decode": WarningText(
            "a decode speed lies far from the others",
            "look for other work on the machine at that time; the median is little affected",
        ),
        "outlier_ttft": WarningText(
            "a time to first token lies far from the others",
            "look for other work on the machine at that time; the median is little affected",
        ),
        "after_restart": WarningText(
            "Ollama went away during the run, and the iteration was measured again after it came back",
            "look into Ollama's log for the cause",
        ),
        "no_text": WarningText(
            "the model answered without any text",
            "check the model's template and the prompt",
        ),
        "samples_missed": WarningText(
            "hardware samples were missed",
            "the machine is short of CPU, or a driver is slow; raise sample_interval_ms",
        ),
    }
)


class ExpectedConditions(NamedTuple):
    """What an iteration is held against; ``cores`` are the machine's logical ones."""

    num_ctx: int
    prompt_tokens: int | None
    digest: str | None
    warm_load_ms: float | None
    slot_ms: float | None = None
    cores: int | None = None


def of_iteration(
    one: IterationMetrics, expected: ExpectedConditions, loaded: RunningModel | None
) -> set[str]:
    """The flags of one iteration, given what was planned and what ``/api/ps`` lists after it."""
    raised = {
        "short_output": one.short_output,
        "clocks_differ": _clocks_differ(one),
        "cpu_contended": _contended(one),
        "used_meanwhile": other_use.used_meanwhile(one, expected.cores),
        "prompts_kept": _prompts_kept(one),
        "counters_rejected": bool(one.rejected_counters),
        "no_text": one.chunks == 0,
        "prompt_length_off": _length_off(one, expected),
        "prompt_truncated": _truncated(one, expected),
        "queued": _queued(one, expected.slot_ms),
        "throttled_thermal": one.throttle is not None and one.throttle.thermal_ms > 0,
        "throttled_power": one.throttle is not None and one.throttle.power_ms > 0,
        "samples_missed": one.samples_missed > 0,
        "reloaded": reloaded(one.load_ms, expected.warm_load_ms),
    }
    return {flag for flag, yes in raised.items() if yes} | _by_list(expected, loaded)


def reloaded(load_ms: float | None, warm_ms: float | None) -> bool:
    """Whether a request that should have found the model loaded waited for a load."""
    if load_ms is None:
        return False
    return load_ms > max(RELOAD_LEAST_MS, RELOAD_FACTOR * (warm_ms or 0.0))


def _by_list(expected: ExpectedConditions, loaded: RunningModel | None) -> set[str]:
    found: set[str] = set()
    if loaded is None:
        return found
    if loaded.context_length is not None and loaded.context_length < expected.num_ctx:
        found.add("num_ctx_clamped")
    if expected.digest is not None and loaded.digest != expected.digest:
        found.add("model_changed")
    return found


def _length_off(one: IterationMetrics, expected: ExpectedConditions) -> bool:
    if expected.prompt_tokens is None or one.prompt_tokens is None:
        return False
    requests = max(len(one.requests), 1)
    return not near(one.prompt_tokens / requests, expected.prompt_tokens)


def near(tokens: float, planned: int) -> bool:
    """Whether a prompt is as long as planned, within the tolerance."""
    return abs(tokens - planned) <= max(LENGTH_TOLERANCE_TOKENS, LENGTH_TOLERANCE * planned)


def _truncated(one: IterationMetrics, expected: ExpectedConditions) -> bool:
    """Whether the prompt filled the context: Ollama cuts what is longer and says so only in its log."""
    counts = [request.prompt_tokens for request in one.requests] or [one.prompt_tokens]
    return any(count is not None and count >= expected.num_ctx - 1 for count in counts)


def _queued(one: IterationMetrics, saving_ms: float | None) -> bool:
    if one.queue_ms_max is None or not one.total_duration_ms:
        return False
    if one.requests:
        # Of requests at once the first one served waits for the saving alone, the others one after the other.
        waits = [request.unaccounted_ms for request in one.requests if request.unaccounted_ms is not None]
        saved_ms = len(waits) * max(min(waits), 0.0)
    elif saving_ms is not None:
        # Of one request at a time the warm-ups tell, whose prompts may have been half as long.
        saved_ms = 2 * saving_ms
    else:
        # Nothing tells the one from the other.
        return False
    return one.queue_ms_max - saved_ms > max(QUEUED_LEAST_MS, QUEUED_SHARE * one.total_duration_ms)


def _prompts_kept(one: IterationMetrics) -> bool:
    if one.prompt_cache_growth_mb is None or one.memory_usage_mb is None:
        return False
    return one.prompt_cache_growth_mb > max(GROWTH_LEAST_MB, GROWTH_SHARE * one.memory_usage_mb)


def _clocks_differ(one: IterationMetrics) -> bool:
    decode, ollama, n = one.decode_tps_corrected, one.decode_tps_by_ollama, one.completion_tokens
    if not decode or not ollama or not n:
        return False
    apart_ms = n / max(len(one.requests), 1) * abs(1e3 / decode - 1e3 / ollama)
    if apart_ms <= CLOCKS_LEAST_MS or abs(decode - ollama) <= CLOCKS_SHARE * decode:
        return False
    # Less than what the shape of the stream leaves open anyway says nothing of the clocks.
    return abs(decode - ollama) >= (1 - CLOCKS_SHARE) * (one.decode_tps_uncertainty or 0.0)


def _contended(one: IterationMetrics) -> bool:
    """Whether the model computed on the CPU while others kept its threads from running."""
    ours, others, busy = one.cpu_process_percent, one.cpu_others_percent, one.cpu_usage_percent
    if ours is None or others is None or busy is None or ours < CONTENDED_PROCESS_PERCENT:
        return False
    return busy >= CONTENDED_BUSY_PERCENT and others >= CONTENDED_OTHERS_PERCENT


def warnings_for(metrics: Sequence[IterationMetrics]) -> list[BenchmarkWarning]:
    """One warning for each flag and cell, naming its iterations."""
    found: dict[tuple[str, int], list[int]] = {}
    for one in metrics:
        for flag in one.flags:
            found.setdefault((flag, one.cell), []).append(one.index)
    return [warning_of(flag, cell=cell, iterations=tuple(indices)) for (flag, cell), indices in found.items()]


def warning_of(code: str, *, cell: int | None = None, iterations: tuple[int, ...] = ()) -> BenchmarkWarning:
    """The warning of a flag."""
    advice = ADVICE[code]
    return BenchmarkWarning(
        code=code, message=advice.message, action=advice.action, cell=cell, iterations=iterations
    )


def trend_warning(cell: CellResult, tested: int = 1) -> BenchmarkWarning | None:
    """Speed that rises or falls with the iteration's number; ``tested`` cells were looked at for it."""
    if cell.trend is None or cell.trend_p is None or cell.trend_p >= TREND_P / max(tested, 1):
        return None
    direction = "fell" if cell.trend < 0 else "rose"
    return BenchmarkWarning(
        code="trend",
        message=f"speed {direction} from iteration to iteration (rank correlation {cell.trend:.2f})",
        action="the machine was not in a steady state: let it cool, close other programs, run again",
        cell=cell.index,
    )


def width_warning(cell: CellResult) -> BenchmarkWarning | None:
    """An adaptive cell that ended before its interval was narrow enough, or long enough measured."""
    end = cell.stopping
    if end.reason != "max_iterations":
        return None
    widest = max((width for width in (end.width_decode, end.width_ttft) if width is not None), default=None)
    if widest is not None and end.target_ci is not None and widest <= end.target_ci:
        message = (
            f"{end.iterations} iterations took {end.measured_s:.1f} s, less than the plan's min_duration_s"
        )
        action = (
            "raise max_iterations or the tokens to generate, or lower min_duration_s; the interval is narrow"
        )
    else:
        shown = "not known" if widest is None else f"still {widest:.0%} of the mean"
        message = f"after {end.iterations} iterations the widest interval is {shown}"
        action = "read the interval, not the mean; raise max_iterations, or quiet the machine"
    return BenchmarkWarning(code="target_not_met", message=message, action=action, cell=cell.index)


def stream_warning(cell: CellResult) -> BenchmarkWarning | None:
    """A stream whose lines hold several tokens, or whose end came alone: more is open than intervals say."""
    speed, half = cell.summary.get("decode_tps_corrected"), cell.summary.get("decode_tps_uncertainty")
    if speed is None or half is None or half.median <= COARSE_SHARE * speed.median:
        return None
    ollama = cell.summary.get("decode_tps_by_ollama")
    # What is open because the two clocks differ has a flag of its own.
    if ollama is not None and abs(speed.median - ollama.median) >= (1 - CLOCKS_SHARE) * half.median:
        return None
    share = half.median / speed.median
    return BenchmarkWarning(
        code="coarse_stream",
        message=f"a line of the stream is not a token: decode speed is open by ±{share:.1%} "
        "more than its interval says",
        action="ask for more tokens, or compare the speed as Ollama counts",
        cell=cell.index,
    )


def with_flags(one: IterationMetrics, flags: Iterable[str]) -> IterationMetrics:
    """The iteration with flags added, in a fixed order, and excluded when one of them says so."""
    union = {*one.flags, *flags}
    ordered = tuple(flag for flag in ADVICE if flag in union)
    cause = next((flag for flag in ordered if flag in EXCLUDING), None)
    return msgspec.structs.replace(one, flags=ordered, excluded=one.excluded or cause)


def compare_within_cells(metrics: Sequence[IterationMetrics]) -> tuple[IterationMetrics, ...]:
    """The iterations, flagged for what only shows beside the others of their cell and cache state."""
    flags: dict[int, set[str]] = {one.index: set() for one in metrics}
    groups: dict[tuple[int, str], list[IterationMetrics]] = {}
    for one in metrics:
        if one.excluded is None:
            groups.setdefault((one.cell, one.cache_state), []).append(one)
    for group in groups.values():
        for flag, indices in _group_flags(group):
            for index in indices:
                flags[index].add(flag)
    return tuple(with_flags(one, flags[one.index]) for one in metrics)


def _group_flags(group: Sequence[IterationMetrics]) -> Iterable[tuple[str, list[int]]]:
    decode = [(one.index, stopping_rule.decode_speed(one)) for one in group]
    reported = [(one.index, one.tokens_per_second) for one in group]
    firsts = [(one.index, one.first_token_ms) for one in group]
    yield "outlier_decode", [*_outlying(decode), *_outlying(reported)]
    yield "outlier_ttft", _outlying(firsts)
    yield "cached_prompt_suspected", _cached(group)
    yield "clock_drop", _slow_clocks(group)


def _outlying(values: Sequence[tuple[int, float | None]]) -> list[int]:
    known = [(index, value) for index, value in values if value is not None]
    return [known[position][0] for position in statistics.outliers([value for _, value in known])]


def _cached(group: Sequence[IterationMetrics]) -> list[int]:
    known = [(one.index, one.prefill_tps) for one in group if one.prefill_tps is not None]
    if len(known) < 2:  # noqa: PLR2004 - suspicion takes another iteration to compare with
        return []
    usual = statistics.quantile([rate for _, rate in known], 0.5 if len(known) > 2 else 0.0)  # noqa: PLR2004 - of two, the slower one is the usual
    return [index for index, rate in known if rate > CACHED_FACTOR * usual]


def _slow_clocks(group: Sequence[IterationMetrics]) -> list[int]:
    known = [(one.index, one.gpu_clock_mhz_mean) for one in group if one.gpu_clock_mhz_mean is not None]
    highest = max((clock for _, clock in known), default=0.0)
    return [index for index, clock in known if clock < CLOCK_DROP * highest]
