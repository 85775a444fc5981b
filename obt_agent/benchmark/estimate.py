"""How long a run will still take, from what it has measured. Pure; an estimate for people, nothing more."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from obt_agent.benchmark import statistics, stopping_rule
from obt_agent.benchmark.expansion import Cell
from obt_agent.benchmark.plan import Plan
from obt_agent.benchmark.result import IterationMetrics, Warmup

_USUAL_WARMUPS: Final = 2


class Measured(NamedTuple):
    """What a run has measured so far."""

    plan: Plan
    metrics: Sequence[IterationMetrics]
    warmups: Sequence[Warmup]

    def iterations_of(self, cell: Cell) -> list[IterationMetrics]:
        """All of a cell, excluded ones and both halves of pairs too."""
        return [one for one in self.metrics if one.cell == cell.index]

    def warmups_of(self, cell: Cell) -> list[Warmup]:
        """Those of a cell."""
        return [one for one in self.warmups if one.cell == cell.index]

    @property
    def halves(self) -> int:
        """Measured iterations for each one that is planned: two where a prompt runs uncached and cached."""
        return 2 if self.plan.cache_mode == "pair" else 1


def remaining_s(
    measured: Measured, cells: Sequence[Cell], ended: Iterable[int], step_elapsed_s: float = 0.0
) -> float | None:
    """Seconds until every open cell is done; None with nothing to go by.

    Args:
        measured: what was measured.
        cells: all cells of the plan.
        ended: the cells that are done.
        step_elapsed_s: since the warm-up or iteration that runs now began.
    """
    per_token = _seconds_per_token(measured)
    if per_token is None:
        return None
    closed = set(ended)
    open_cells = [cell for cell in cells if cell.index not in closed]
    total = sum(_left(measured, cell, per_token) * _one_s(measured, cell, per_token) for cell in open_cells)
    running = min(step_elapsed_s, _one_s(measured, open_cells[0], per_token)) if open_cells else 0.0
    return max(total - running, 0.0)


def planned(measured: Measured, cell: Cell) -> int:
    """How many iterations a cell will have, both halves of pairs counted.

    The plan's number; for one that goes on until an interval is narrow an estimate, from the width so far
    (which shrinks with the root of their number) and from the time that is to be measured.
    """
    return _planned(measured, cell, _seconds_per_token(measured)) * measured.halves


def _planned(measured: Measured, cell: Cell, per_token: tuple[float, float] | None) -> int:
    plan = measured.plan
    if plan.most_iterations == plan.num_iterations:
        return plan.num_iterations
    counted = stopping_rule.counted_by_plan(plan, measured.metrics, cell.index)
    least = max(plan.num_iterations, len(counted) + (stopping_rule.decide(plan, counted) is None))
    wanted = [least, _for_width(plan, counted)]
    if per_token is not None:
        wanted.append(math.ceil(plan.min_duration_s / max(_one_s(measured, cell, per_token), 1e-3)))
    # More may be measured than the plan's most, where iterations were excluded.
    return min(max(wanted), max(plan.most_iterations, len(counted)))


def _for_width(plan: Plan, counted: Sequence[IterationMetrics]) -> int:
    known = [width for width in stopping_rule.widths(counted) if width is not None]
    return math.ceil(len(counted) * (max(known) / plan.target_ci) ** 2) if known else 0


def _left(measured: Measured, cell: Cell, per_token: tuple[float, float]) -> int:
    """Requests, or groups of them, that a cell will still make."""
    plan, done = measured.plan, len(measured.iterations_of(cell))
    usual = _USUAL_WARMUPS if plan.warmup_iterations is None else plan.warmup_iterations
    warming = 0 if done else max(usual - len(measured.warmups_of(cell)), 0)
    return max(_planned(measured, cell, per_token) * measured.halves - done, 0) + warming


def _seconds_per_token(measured: Measured) -> tuple[float, float] | None:
    """Seconds to the first token per prompt token, and per token of output."""
    first: list[float] = []
    decode: list[float] = []
    requests: list[Warmup | IterationMetrics] = [*measured.warmups, *measured.metrics]
    for one in requests:
        if one.first_token_ms is None or not one.prompt_tokens or not one.tokens_per_second:
            continue
        # The first warm-up holds the load, which comes only once.
        loading_ms = one.load_ms or 0.0
        first.append(max(one.first_token_ms - loading_ms, 0.0) / 1e3 / one.prompt_tokens)
        decode.append(1 / one.tokens_per_second)
    return (statistics.median(first), statistics.median(decode)) if first else None


def _one_s(measured: Measured, cell: Cell, per_token: tuple[float, float]) -> float:
    """Seconds of one iteration: as its cell's others took, cooling included, else by its tokens."""
    took = [
        one.total_duration_ms / 1e3 + one.cooldown_s
        for one in measured.iterations_of(cell)
        if one.total_duration_ms is not None
    ]
    if took:
        return statistics.mean(took)
    # Requests at once may share one slot: at worst they run one after the other.
    prefill, decode = per_token
    prompt = cell.prompt.prompt_tokens or len((cell.prompt.prompt or "").split()) or 64
    return cell.concurrency * (prompt * prefill + cell.prompt.completion_tokens * decode)
