"""The result from what was recorded. Pure: the same records give the same result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from obt_agent.benchmark import flags, other_use, statistics, stopping_rule
from obt_agent.benchmark.expansion import Cell
from obt_agent.benchmark.metrics_registry import METRICS, Metric
from obt_agent.benchmark.plan import Plan
from obt_agent.benchmark.result import (
    BenchmarkResult,
    BenchmarkWarning,
    CellResult,
    IterationMetrics,
    Percentiles,
    Ratio,
    SamplerReport,
    Status,
    Stopping,
    StoppingReason,
    Summary,
)

_SWEEP: Final = "the plan has several cells: see cells[].summary"
_NOTHING: Final = "no iteration was measured"


def assemble(
    records: BenchmarkResult, planned: Sequence[Cell], stops: Mapping[int, Stopping]
) -> BenchmarkResult:
    """Return the whole result: ``records``, with everything that is worked out from them.

    Args:
        records: what was recorded, and how the run ended; warnings are those of the run and of cells.
        planned: all cells of the plan.
        stops: how cells ended, by index; a cell that is missing had not ended.
    """
    metrics = flags.compare_within_cells(records.metrics)
    cells = tuple(
        cell_result(records.config, cell, metrics, stops.get(cell.index), records.status) for cell in planned
    )
    # Means over cells of different shapes mean nothing.
    only = cells[0] if len(cells) == 1 else None
    return msgspec.structs.replace(
        records,
        metrics=metrics,
        cells=cells,
        summary=only.summary if only else {},
        percentiles=only.percentiles if only else {},
        warnings=_warnings(records, metrics, cells),
        used_meanwhile=other_use.of_iterations(metrics) if metrics else None,
        sampler=_with_effect(records, metrics),
        unavailable=_unavailable(records, only, metrics),
    )


def cell_result(
    plan: Plan, cell: Cell, metrics: Sequence[IterationMetrics], stop: Stopping | None, status: Status
) -> CellResult:
    """One cell's figures; ``stop`` is None when the run ended before the cell did."""
    cold = stopping_rule.counted(metrics, cell.index, "bust")
    warm = stopping_rule.counted(metrics, cell.index, "warm")
    # Cached and uncached iterations are never summarised as one.
    main, paired = (warm, []) if plan.cache_mode == "warm" else (cold, warm)
    trend = statistics.rank_correlation(
        [speed for one in main if (speed := stopping_rule.decode_speed(one)) is not None]
    )
    return CellResult(
        index=cell.index,
        label=cell.label,
        num_ctx=cell.num_ctx,
        concurrency=cell.concurrency,
        prompt_tokens_target=cell.prompt.prompt_tokens,
        completion_tokens=cell.prompt.completion_tokens,
        stopping=stop or stopping_rule.recorded(plan, main, _ended(plan, main, status)),
        summary=_summaries(main),
        summary_warm=_summaries(paired),
        percentiles=_percentiles(main),
        trend=trend and trend.rho,
        trend_p=trend and trend.p,
    )


def _ended(plan: Plan, metrics: Sequence[IterationMetrics], status: Status) -> StoppingReason:
    """Why a cell ended of which no end was recorded."""
    if status != "completed":
        return status
    return "fixed" if len(metrics) >= plan.num_iterations else "failed"


def _values(metrics: Sequence[IterationMetrics], metric: Metric) -> list[float]:
    known = [float(value) for one in metrics if (value := getattr(one, metric.name)) is not None]
    # Repeated by each iteration it is no observation of its own: an interval would claim what was not seen.
    return list(dict.fromkeys(known)) if metric.aggregation == "load" else known


def _summaries(metrics: Sequence[IterationMetrics]) -> dict[str, Summary]:
    return {
        one.name: statistics.summarise(values, one.values)
        for one in METRICS
        if one.summarised and (values := _values(metrics, one))
    }


def _percentiles(metrics: Sequence[IterationMetrics]) -> dict[str, Percentiles]:
    return {
        one.name: statistics.percentiles(values)
        for one in METRICS
        if one.percentiles and (values := _values(metrics, one))
    }


def _warnings(
    records: BenchmarkResult, metrics: Sequence[IterationMetrics], cells: Sequence[CellResult]
) -> tuple[BenchmarkWarning, ...]:
    tested = sum(cell.trend_p is not None for cell in cells)
    of_cells = [
        warning
        for cell in cells
        for warning in (
            flags.width_warning(cell),
            flags.trend_warning(cell, tested),
            flags.stream_warning(cell),
        )
        if warning is not None
    ]
    return (*records.warnings, *flags.warnings_for(metrics), *of_cells)


def _unavailable(
    records: BenchmarkResult, only: CellResult | None, metrics: Sequence[IterationMetrics]
) -> dict[str, str]:
    reasons: dict[str, str] = {}
    if not metrics:
        reasons["summary"] = _NOTHING
    elif only is None:
        reasons["summary"] = _SWEEP
    if records.cold_load is None:
        reasons["cold_load"] = _why_no_cold_load(records)
    if records.resumed:
        reasons["samples"] = "those from before the agent was stopped are not kept"
    if records.hardware is None:
        reasons["hardware"] = "the inventory could not be read"
    return reasons


def _why_no_cold_load(records: BenchmarkResult) -> str:
    if not records.config.cold_load:
        return "the plan did not ask for it"
    stayed = any(one.code == "not_unloaded" for one in records.warnings)
    return "Ollama kept the model loaded" if stayed else "the run ended before it"


def _with_effect(records: BenchmarkResult, metrics: Sequence[IterationMetrics]) -> SamplerReport | None:
    if records.sampler is None or not records.config.alternate_sampling:
        return records.sampler
    return msgspec.structs.replace(records.sampler, effect=sampling_effect(metrics))


def sampling_effect(metrics: Sequence[IterationMetrics]) -> Ratio | None:
    """Decode speed sampled over unsampled, from neighbouring pairs; None when there is no pair."""
    groups: dict[tuple[int, str], list[tuple[bool, float]]] = {}
    for one in metrics:
        speed = stopping_rule.decode_speed(one)
        if one.excluded is None and speed is not None:
            groups.setdefault((one.cell, one.cache_state), []).append((one.sampled, speed))
    pairs = [pair for group in groups.values() for pair in _neighbours(group)]
    return statistics.ratio_paired([on for on, _ in pairs], [off for _, off in pairs]) if pairs else None


def _neighbours(group: Sequence[tuple[bool, float]]) -> list[tuple[float, float]]:
    """Speeds sampled and unsampled of neighbours that differ in it, each iteration in one pair at most."""
    found: list[tuple[float, float]] = []
    # Neighbours share the state of the machine; a later pair would mix in its drift.
    waiting: tuple[bool, float] | None = None
    for one in group:
        if waiting is None or waiting[0] == one[0]:
            waiting = one
            continue
        found.append((one[1], waiting[1]) if one[0] else (waiting[1], one[1]))
        waiting = None
    return found
