"""The results of one machine, model and plan over time, as a chart shows them. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from obt_agent.benchmark.metrics_registry import BY_NAME
from obt_agent.benchmark.result import Summary
from obt_server.campaigns import change_points, history
from obt_server.campaigns.baselines import Figures
from obt_server.campaigns.change_points import LEVEL
from obt_server.campaigns.comparison import MARGIN
from obt_server.campaigns.history import NightResults
from obt_server.campaigns.matrix import MatrixMetric
from obt_server.campaigns.sweep import Sweep, point_of
from obt_server.result_index import IndexedResult


class HistoryPoint(msgspec.Struct, frozen=True, kw_only=True):
    """A result. ``value`` is the mean of its iterations with the mean's 95 % interval; ``n`` counts them.

    ``left_out`` says why it is no measure of the machine, where it is none.
    """

    job_id: str
    campaign_id: str | None
    at: float
    value: float | None
    low: float | None
    high: float | None
    n: int
    flags: tuple[str, ...]
    digest: str | None
    ollama_version: str | None
    driver: str | None
    kernel: str | None
    power_limit_watts: float | None
    agent_version: str | None
    left_out: str | None


class HistoryChange(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is another one from this result on."""

    at: float
    job_id: str
    what: str
    before: str | None
    after: str | None


class HistoryLevel(msgspec.Struct, frozen=True, kw_only=True):
    """The night from which on the figure lies at another level, and the ratio of the new one to the old."""

    at: float
    job_id: str
    ratio: float
    ratio_low: float
    ratio_high: float


class LineHistory(msgspec.Struct, frozen=True, kw_only=True):
    """All results of a line, oldest first.

    ``point`` is the point of the plan that the figures are of, ``sweep`` are all of a plan that has several.
    """

    metric: MatrixMetric
    point: str | None
    sweep: list[str]
    points: list[HistoryPoint]
    changes: list[HistoryChange]
    change_points: list[HistoryLevel]


class ShownFigure(NamedTuple):
    """Which figure of a line's results is shown: a metric at a point of the plan's sweep."""

    metric: str
    sweep: Sweep
    point: int | None


def build(
    shown: ShownFigure,
    nights: Sequence[NightResults],
    summaries: Mapping[str, Summary | None],
    figures: Figures,
) -> LineHistory:
    """Return the history of a line from its nights, oldest first."""
    described, point = BY_NAME[shown.metric], point_of(shown.sweep, shown.point)
    results = [result for night in nights for result in night.results]
    return LineHistory(
        metric=MatrixMetric(
            name=shown.metric, label=described.label, unit=described.unit, direction=described.better
        ),
        point=None if point is None else point.label,
        sweep=[one.label for one in shown.sweep],
        points=[
            _point(result, night, summaries.get(result.stored.job_id), _others(nights, night))
            for night in nights
            for result in night.results
        ],
        changes=[
            HistoryChange(
                at=after.stored.created_at,
                job_id=after.stored.job_id,
                what=one.what,
                before=one.before,
                after=one.after,
            )
            for before, after in itertools.pairwise(results)
            for one in history.changes(before, after)
        ],
        change_points=levels(nights, figures),
    )


def _others(nights: Sequence[NightResults], night: NightResults) -> list[NightResults]:
    return [one for one in nights if one is not night and one.digest == night.digest]


def _point(
    result: IndexedResult, night: NightResults, summary: Summary | None, others: Sequence[NightResults]
) -> HistoryPoint:
    environment = result.digest.environment
    return HistoryPoint(
        job_id=result.stored.job_id,
        campaign_id=night.campaign_id,
        at=result.stored.created_at,
        value=None if summary is None else summary.mean,
        low=None if summary is None else summary.ci_low,
        high=None if summary is None else summary.ci_high,
        n=0 if summary is None else summary.n,
        flags=tuple(sorted(history.flags_of(NightResults(None, (result,))))),
        digest=history.digest_of_model(result),
        ollama_version=environment.ollama_version,
        driver=environment.driver,
        kernel=environment.kernel,
        power_limit_watts=environment.power_limit_watts,
        agent_version=environment.agent_version,
        left_out=history.unusable(night, others),
    )


def levels(nights: Sequence[NightResults], figures: Figures) -> list[HistoryLevel]:
    """Return where a line's level changed, each once; another version of the model begins a line anew."""
    found = []
    for _, group in itertools.groupby(nights, key=lambda night: night.digest):
        same = list(group)
        usable = [
            night
            for night in same
            if night.first.stored.job_id in figures and history.unusable(night, _others(same, night)) is None
        ]
        logs = [figures[night.first.stored.job_id].log for night in usable]
        for shift in change_points.shifts(logs, MARGIN):
            low, high = shift.ratio.interval(LEVEL)
            found.append(
                HistoryLevel(
                    at=usable[shift.start].at,
                    job_id=usable[shift.start].first.stored.job_id,
                    ratio=math.exp(shift.ratio.value),
                    ratio_low=low,
                    ratio_high=high,
                )
            )
    return found
