"""What a cell shows of its result: the campaign's metric with its interval, and what is doubtful. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from obt_agent.benchmark.metrics_registry import METRICS
from obt_agent.benchmark.result import Summary

HEADLINE: Final = "headline"
"""Stands for the first of the registry's headline metrics."""
METRIC_NAMES: Final = frozenset(metric.name for metric in METRICS if metric.summarised)
LASTING_FLAGS: Final = frozenset(
    {
        "short_output",
        "short_retried",
        "repetition_retried",
        "num_ctx_clamped",
        "prompt_length_off",
        "prompt_truncated",
        "prompts_kept",
        "counters_rejected",
        "throttled_power",
        "no_text",
    }
)
"""Flags that another run of the same cell would show again: they are no reason for one."""
_MAX_FLAGS: Final = 32
_MAX_FLAG_CHARS: Final = 64


class CellFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What a cell shows. Null where the result lacks the metric."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    flags: tuple[str, ...] = ()
    digest: str | None = None


# What is not named here is skipped by the decoder without being built: a result has megabytes of samples.
class _MeasuredIteration(msgspec.Struct, frozen=True):
    flags: tuple[str, ...] = ()


class _MeasuredCell(msgspec.Struct, frozen=True):
    summary: dict[str, Summary] = {}


class _ResultWarning(msgspec.Struct, frozen=True):
    code: str = ""


class _MeasuredOn(msgspec.Struct, frozen=True):
    model_digest: str | None = None


class _MeasuredResult(msgspec.Struct, frozen=True):
    environment: _MeasuredOn = _MeasuredOn()
    cells: tuple[_MeasuredCell, ...] = ()
    metrics: tuple[_MeasuredIteration, ...] = ()
    warnings: tuple[_ResultWarning, ...] = ()


def metric_name(metric: str) -> str:
    """The registry's name of a campaign's metric."""
    return next(one.name for one in METRICS if one.headline) if metric == HEADLINE else metric


def figures(text: bytes | None, metric: str) -> CellFigures:
    """Return what a result's text says. Decoding a long one takes a while: not on the event loop."""
    try:
        result = msgspec.json.decode(text or b"{}", type=_MeasuredResult)
    # An agent's own words in another shape: the state of the cell does not depend on them.
    except (msgspec.MsgspecError, RecursionError):
        return CellFigures()
    name = metric_name(metric)
    found = next((cell.summary[name] for cell in result.cells if name in cell.summary), None)
    flags = {flag for one in result.metrics for flag in one.flags} | {one.code for one in result.warnings}
    return CellFigures(
        value=None if found is None else found.mean,
        low=None if found is None else found.ci_low,
        high=None if found is None else found.ci_high,
        flags=tuple(sorted(flag[:_MAX_FLAG_CHARS] for flag in flags if flag))[:_MAX_FLAGS],
        digest=None if result.environment.model_digest is None else result.environment.model_digest[:128],
    )


def doubtful(flags: tuple[str, ...]) -> bool:
    """Whether another run may be free of one of these."""
    return any(flag not in LASTING_FLAGS for flag in flags)
