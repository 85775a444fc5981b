"""A campaign's figures as a table: models and plans by machines, and two campaigns side by side. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from obt_agent.benchmark import statistics
from obt_agent.benchmark.metrics_registry import BY_NAME
from obt_agent.benchmark.result import Summary
from obt_server.campaign_storage import Campaign, CampaignCell, CellState
from obt_server.campaigns import comparison, history
from obt_server.campaigns.comparison import Night, NightLine
from obt_server.rollout_storage import model_key
from obt_server.verdict_storage import LineKey, Verdict, VerdictWord


class MatrixMetric(msgspec.Struct, frozen=True, kw_only=True):
    """What the figures are. ``direction``: which is better."""

    name: str
    label: str
    unit: str
    direction: Literal["higher", "lower"] | None


class CampaignMatrixAgent(msgspec.Struct, frozen=True, kw_only=True):
    """A column."""

    id: str
    name: str


class CampaignMatrixRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row; ``plan`` is the plan's label."""

    model: str
    plan_hash: str
    plan: str


class CampaignMatrixCell(msgspec.Struct, frozen=True, kw_only=True):
    """A model and plan on a machine, its repeats together.

    ``n`` results are behind ``value``; ``reason`` says why there is none. ``job_id`` is the first of them.
    The ratio is to the campaign that was named, else to the baseline; its interval is at the level that the
    correction for the number of comparisons leaves.
    """

    agent_id: str
    model: str
    plan_hash: str
    state: CellState
    reason: str | None
    value: float | None
    low: float | None
    high: float | None
    n: int
    job_id: str | None
    flags: tuple[str, ...]
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    verdict: VerdictWord | None


class CampaignMatrix(msgspec.Struct, frozen=True, kw_only=True):
    """A cell for each machine and row."""

    metric: MatrixMetric
    agents: list[CampaignMatrixAgent]
    rows: list[CampaignMatrixRow]
    cells: list[CampaignMatrixCell]


class RatioShown(NamedTuple):
    """What a cell says of the comparison."""

    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: VerdictWord | None = None


Summaries = Mapping[str, Summary]
"""One metric of results, by job."""


def build(
    campaign: Campaign,
    cells: Sequence[CampaignCell],
    metric: str,
    summaries: Summaries,
    ratios: Mapping[LineKey, RatioShown],
) -> CampaignMatrix:
    """Return the table of a campaign by one metric."""
    described = BY_NAME[metric]
    return CampaignMatrix(
        metric=MatrixMetric(
            name=metric, label=described.label, unit=described.unit, direction=described.better
        ),
        agents=[CampaignMatrixAgent(id=one.id, name=one.name) for one in campaign.machines],
        rows=[
            CampaignMatrixRow(model=model, plan_hash=plan.hash, plan=plan.label)
            for model in campaign.models
            for plan in campaign.plans
        ],
        cells=cells_by_line(cells, summaries, ratios),
    )


def cells_by_line(
    cells: Sequence[CampaignCell], summaries: Summaries, ratios: Mapping[LineKey, RatioShown]
) -> list[CampaignMatrixCell]:
    """Return one cell for each machine, model and plan, its repeats together."""
    return [_cell(group, summaries, ratios.get(key, RatioShown())) for key, group in grouped(cells).items()]


def grouped(cells: Sequence[CampaignCell]) -> dict[LineKey, list[CampaignCell]]:
    """Return a campaign's cells by their lines."""
    groups: dict[LineKey, list[CampaignCell]] = {}
    for cell in cells:
        groups.setdefault(line_of(cell), []).append(cell)
    return groups


def line_of(cell: CampaignCell) -> LineKey:
    """Return the line that a cell belongs to."""
    return LineKey(cell.agent_id, model_key(cell.model), cell.plan_hash)


def _cell(group: Sequence[CampaignCell], summaries: Summaries, ratio: RatioShown) -> CampaignMatrixCell:
    measured = [(one, summaries[job_id]) for one in group if (job_id := one.job_id or "") in summaries]
    # What stands for the repeats: one that has a figure, else the one that is farthest.
    shown = measured[0][0] if measured else next((one for one in group if not one.ended), group[0])
    value, low, high = _value([summary for _, summary in measured])
    return CampaignMatrixCell(
        agent_id=shown.agent_id,
        model=shown.model,
        plan_hash=shown.plan_hash,
        state=shown.state,
        reason=None if measured else _why_none(shown),
        value=value,
        low=low,
        high=high,
        n=len(measured),
        job_id=shown.job_id if measured else None,
        flags=tuple(dict.fromkeys(flag for one in group for flag in one.flags)),
        ratio=ratio.ratio,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        verdict=ratio.verdict,
    )


def _value(summaries: Sequence[Summary]) -> tuple[float | None, float | None, float | None]:
    """The mean with its interval: of several results the one between them."""
    if not summaries:
        return None, None, None
    if len(summaries) == 1:
        return summaries[0].mean, summaries[0].ci_low, summaries[0].ci_high
    means = [one.mean for one in summaries]
    interval = statistics.mean_interval(means, "any")
    low, high = (None, None) if interval is None else interval
    return statistics.mean(means), low, high


def _why_none(cell: CampaignCell) -> str:
    """Why a cell has no figure."""
    if cell.state == "done":
        return "its result has no such figure"
    if cell.reason is not None:
        return cell.reason
    return cell.error.message if cell.error is not None else cell.state


def from_verdicts(verdicts: Sequence[Verdict], metric: str) -> dict[LineKey, RatioShown]:
    """Return what a campaign's cells say of their baselines, where those were compared by this metric."""
    return {
        LineKey(one.agent_id, model_key(one.model), one.plan_hash): RatioShown(
            one.ratio, one.ratio_low, one.ratio_high, one.verdict
        )
        for one in verdicts
        if one.metric == metric
    }


class Pair(NamedTuple):
    """A line in two campaigns, and nights that say how far nights lie apart."""

    key: LineKey
    night: Night
    other: Night
    spread_from: Sequence[Night]


def compare_campaigns(pairs: Sequence[Pair], metric: str) -> dict[LineKey, RatioShown]:
    """Return the ratio of each line in one campaign to the same line in another.

    Where a line has too few nights, the ratio stands without an interval.
    """
    better = BY_NAME[metric].better != "lower"
    enough = [one for one in pairs if len(one.spread_from) >= comparison.LEAST_BASELINE]
    found = {one.key: RatioShown(math.exp(one.night.log - one.other.log)) for one in pairs}
    lines = [
        NightLine(one.night, [one.other], one.spread_from, (), (), (), higher_is_better=better)
        for one in enough
    ]
    for pair, outcome in zip(enough, comparison.compare_two(lines), strict=True):
        found[pair.key] = RatioShown(outcome.ratio, outcome.low, outcome.high, outcome.direction)
    return found


def night_of(group: Sequence[CampaignCell], summaries: Summaries) -> Night | None:
    """Return the figure of a line's cells together."""
    jobs = [one.job_id or "" for one in group]
    return history.night_of([summaries[job_id] for job_id in jobs if job_id in summaries])
