"""When a cell has been measured enough. Pure.

``num_iterations`` is the least number. A plan whose ``max_iterations`` is above it goes on until the 95 %
t-intervals of decode speed and of TTFT are each no wider than ``target_ci`` of their mean and at least
``min_duration_s`` were measured. The interval's coverage is a little under nominal when the sample decides
how long it grows. In simulation of normal data, when one of the two metrics alone decides, it is at least
92 % with no fewer than 5 iterations, 94 % with 10, and 88 % with 2; 94 to 95 % when both scatter. The rule
is recorded with the result, so that a reader can weigh that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from obt_agent.benchmark import statistics
from obt_agent.benchmark.plan import Plan
from obt_agent.benchmark.result import CacheState, IterationMetrics, RequestTimings, Stopping, StoppingReason


class IntervalWidths(NamedTuple):
    """Whole width of the 95 % interval over the mean, of decode speed and of TTFT."""

    decode: float | None
    ttft: float | None


def counted(metrics: Sequence[IterationMetrics], cell: int, state: CacheState) -> list[IterationMetrics]:
    """The iterations of a cell that its summary rests on."""
    return [one for one in metrics if one.cell == cell and one.excluded is None and one.cache_state == state]


def counted_by_plan(plan: Plan, metrics: Sequence[IterationMetrics], cell: int) -> list[IterationMetrics]:
    """Return the iterations of a cell that its rule and its summary rest on: cached ones if planned so."""
    return counted(metrics, cell, "warm" if plan.cache_mode == "warm" else "bust")


def decode_speed(one: RequestTimings) -> float | None:
    """Tokens a second by the agent's clock, else Ollama's."""
    return one.tokens_per_second if one.decode_tps_corrected is None else one.decode_tps_corrected


def widths(metrics: Sequence[IterationMetrics]) -> IntervalWidths:
    """The widths as they stand."""
    speeds = [speed for one in metrics if (speed := decode_speed(one)) is not None]
    firsts = [one.first_token_ms for one in metrics if one.first_token_ms is not None]
    return IntervalWidths(statistics.relative_width(speeds), statistics.relative_width(firsts))


def measured_s(metrics: Sequence[IterationMetrics]) -> float:
    """Seconds of measured generation."""
    return sum(one.total_duration_ms or 0.0 for one in metrics) / 1e3


def decide(plan: Plan, metrics: Sequence[IterationMetrics]) -> StoppingReason | None:
    """Why the cell ends now; None when it goes on."""
    n = len(metrics)
    if n < plan.num_iterations:
        return None
    # A plan without room to go on has a number, not a rule.
    if plan.most_iterations == plan.num_iterations:
        return "fixed"
    if measured_s(metrics) >= plan.min_duration_s and _narrow(widths(metrics), plan.target_ci):
        return "target_met"
    return "max_iterations" if n >= plan.most_iterations else None


def _narrow(now: IntervalWidths, target: float) -> bool:
    # A metric without a width, such as decode speed of one token, cannot hold the cell up.
    known = [width for width in now if width is not None]
    return bool(known) and all(width <= target for width in known)


def recorded(plan: Plan, metrics: Sequence[IterationMetrics], reason: StoppingReason) -> Stopping:
    """The rule and what was reached."""
    now = widths(metrics)
    return Stopping(
        reason=reason,
        iterations=len(metrics),
        measured_s=measured_s(metrics),
        target_ci=plan.target_ci if plan.most_iterations > plan.num_iterations else None,
        width_decode=now.decode,
        width_ttft=now.ttft,
    )
