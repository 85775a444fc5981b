"""How long a run will still take, from what it has measured. Pure; an estimate for people, nothing more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from obt_agent.benchmark import statistics
from obt_agent.benchmark.expansion import Cell
from obt_agent.benchmark.plan import Plan
from obt_agent.benchmark.result import IterationMetrics, Warmup

_USUAL_WARMUPS: Final = 2


def remaining_s(
    plan: Plan,
    cells: Sequence[Cell],
    ended: Iterable[int],
    metrics: Sequence[IterationMetrics],
    warmups: Sequence[Warmup],
) -> float | None:
    """Seconds until the least number of iterations of every open cell is done; None with nothing to go by."""
    closed = set(ended)
    per_token = _seconds_per_token(metrics, warmups)
    if per_token is None:
        return None
    return sum(
        _left(plan, cell, metrics, warmups) * _one(cell, per_token)
        for cell in cells
        if cell.index not in closed
    )


def _left(plan: Plan, cell: Cell, metrics: Sequence[IterationMetrics], warmups: Sequence[Warmup]) -> int:
    each = 2 if plan.cache_mode == "pair" else 1
    done = sum(one.cell == cell.index for one in metrics)
    warmed = sum(one.cell == cell.index for one in warmups)
    usual = _USUAL_WARMUPS if plan.warmup_iterations is None else plan.warmup_iterations
    return max(plan.num_iterations * each - done, 0) + (0 if done else max(usual - warmed, 0))


def _seconds_per_token(
    metrics: Sequence[IterationMetrics], warmups: Sequence[Warmup]
) -> tuple[float, float] | None:
    """Seconds to the first token per prompt token, and per token of output."""
    first: list[float] = []
    decode: list[float] = []
    measured: list[Warmup | IterationMetrics] = [*warmups, *metrics]
    for one in measured:
        if one.first_token_ms is None or not one.prompt_tokens or not one.tokens_per_second:
            continue
        first.append(one.first_token_ms / 1e3 / one.prompt_tokens)
        decode.append(1 / one.tokens_per_second)
    return (statistics.median(first), statistics.median(decode)) if first else None


def _one(cell: Cell, per_token: tuple[float, float]) -> float:
    prefill, decode = per_token
    prompt = cell.prompt.prompt_tokens or len((cell.prompt.prompt or "").split()) or 64
    return cell.concurrency * (prompt * prefill + cell.prompt.completion_tokens * decode)
