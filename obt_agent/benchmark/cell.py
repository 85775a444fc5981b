"""One cell from its first warm-up to its last iteration."""

from __future__ import annotations

from typing import Final

from obt_agent.benchmark import flags, stopping_rule
from obt_agent.benchmark.attempt import OutOfTime
from obt_agent.benchmark.expansion import MAX_SHORT_RETRIES, MAX_WARMUPS, Cell
from obt_agent.benchmark.iteration import CellRunner
from obt_agent.benchmark.records import CellRecord
from obt_agent.benchmark.result import IterationMetrics, StoppingReason, Warmup
from obt_agent.benchmark.run_state import RunState

# Two warm-ups agree when they differ by no more than this share of the larger.
WARMUP_AGREEMENT: Final = 0.05


async def run_cell(state: RunState, cell: Cell) -> None:
    """Warm up, measure until the stopping rule is met or the plan's time is over, and record the end.

    Raises:
        OllamaError and its kinds, DeadlineExceeded, TooLarge, StorageFull: the run cannot go on.
    """
    runner = CellRunner(state, cell)
    try:
        await _warm_up(state, cell, runner)
        while (reason := _reason(state, cell)) is None:
            await runner.measure_once()
    except OutOfTime:
        reason = "max_duration"
    ended = stopping_rule.recorded(state.plan, summarised(state, cell), reason)
    await state.record(CellRecord(cell=cell.index, stopping=ended))


def summarised(state: RunState, cell: Cell) -> list[IterationMetrics]:
    """The iterations that the cell's stopping rule looks at."""
    return stopping_rule.counted_by_plan(state.plan, state.metrics, cell.index)


def _reason(state: RunState, cell: Cell) -> StoppingReason | None:
    if state.seconds_left <= 0:
        return "max_duration"
    counted = summarised(state, cell)
    # Something reloads the model again and again: without this end the cell would never have enough
    # iterations.
    excluded = sum(one.excluded is not None for one in state.of_cell(cell))
    if excluded > MAX_SHORT_RETRIES and len(counted) + excluded >= state.plan.most_iterations:
        return "max_iterations"
    return stopping_rule.decide(state.plan, counted)


async def _warm_up(state: RunState, cell: Cell, runner: CellRunner) -> None:
    """As many warm-ups as the plan says, else until two agree and the prompt has its length, four at most.

    A resumed cell warms up anew: the model may have been unloaded meanwhile.
    """
    # Only this start's warm-ups: those before the agent was stopped warmed another process.
    planned = state.plan.warmup_iterations
    done: list[Warmup] = []
    while len(done) < (MAX_WARMUPS if planned is None else planned):
        done.append(await runner.warm_up_once())
        if planned is None and stable(done, cell.prompt.prompt_tokens):
            return
    if planned is None:
        state.warn(
            "warmup_unstable",
            f"after {MAX_WARMUPS} warm-ups no two agreed within {WARMUP_AGREEMENT:.0%} at the planned length",
            "close other programs; read the spread before the mean",
            cell=cell.index,
        )


def stable(done: list[Warmup], prompt_tokens: int | None) -> bool:
    """Whether the last two warm-ups agree, and the last one's prompt is as long as planned."""
    if len(done) < 2 or not agree(done[-2], done[-1]):  # noqa: PLR2004 - two agree
        return False
    counted = done[-1].prompt_tokens
    return prompt_tokens is None or counted is None or flags.near(counted, prompt_tokens)


def agree(one: Warmup, other: Warmup) -> bool:
    """Whether two warm-ups agree in decode speed, or in duration where there is no speed."""
    # Speed first: a short answer changes the duration and not the machine.
    for first, second in (
        (one.tokens_per_second, other.tokens_per_second),
        (one.total_duration_ms, other.total_duration_ms),
    ):
        if first is not None and second is not None:
            return abs(first - second) <= WARMUP_AGREEMENT * max(first, second)
    return False


def shortfall(state: RunState) -> list[Cell]:
    """The cells that ended with fewer iterations than the plan's least."""
    return [cell for cell in state.cells if len(summarised(state, cell)) < state.plan.num_iterations]
