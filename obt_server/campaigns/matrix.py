"""A campaign's figures as a table: models and plans by machines, and two campaigns side by side. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from obt_agent.benchmark import statistics
from obt_agent.benchmark.metrics_registry import BY_NAME
from obt_agent.benchmark.result import Summary
from obt_server.campaign_storage import Campaign, CampaignCell, CellState
from obt_server.campaigns import comparison, history
from obt_server.campaigns.comparison import Night, NightLine
from obt_server.campaigns.sweep import Chosen, Sweep
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


class MatrixPoint(msgspec.Struct, frozen=True, kw_only=True):
    """A point that plans of the campaign sweep over.

    ``plans`` are the hashes of those that measure it; ``slower`` counts what is slower there than its
    baseline, by this metric.
    """

    label: str
    plans: tuple[str, ...]
    slower: int


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
    """A cell for each machine and row.

    ``point`` is that of all figures, null where it is each plan's first; ``sweep`` are all there are.
    """

    metric: MatrixMetric
    point: str | None
    sweep: list[MatrixPoint]
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


class Shown(NamedTuple):
    """What of a campaign's results a table shows: one metric at one point of each plan."""

    metric: str
    point: str | None
    sweeps: Mapping[str, Sweep]
    chosen: Chosen


def build(
    campaign: Campaign,
    cells: Sequence[CampaignCell],
    shown: Shown,
    summaries: Summaries,
    ratios: Mapping[LineKey, RatioShown],
    verdicts: Sequence[Verdict],
) -> CampaignMatrix:
    """Return the table of a campaign by one metric."""
    described = BY_NAME[shown.metric]
    return CampaignMatrix(
        metric=MatrixMetric(
            name=shown.metric, label=described.label, unit=described.unit, direction=described.better
        ),
        point=shown.point,
        sweep=_points(shown, verdicts),
        agents=[CampaignMatrixAgent(id=one.id, name=one.name) for one in campaign.machines],
        rows=[
            CampaignMatrixRow(model=model, plan_hash=plan.hash, plan=plan.label)
            for model in campaign.models
            for plan in campaign.plans
        ],
        cells=cells_by_line(cells, summaries, ratios, shown.chosen),
    )


def cells_by_line(
    cells: Sequence[CampaignCell], summaries: Summaries, ratios: Mapping[LineKey, RatioShown], chosen: Chosen
) -> list[CampaignMatrixCell]:
    """Return one cell for each machine, model and plan, its repeats together."""
    return [
        _cell(group, summaries, ratios.get(key, RatioShown()), swept=key.plan_hash in chosen)
        for key, group in grouped(cells).items()
    ]


def _points(shown: Shown, verdicts: Sequence[Verdict]) -> list[MatrixPoint]:
    slower = Counter(
        (one.plan_hash, one.point_index)
        for one in verdicts
        if one.verdict == "slower" and one.metric == shown.metric
    )
    plans: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    for hashed, sweep in shown.sweeps.items():
        for point in sweep:
            plans.setdefault(point.label, []).append(hashed)
            counts[point.label] += slower[hashed, point.place]
    return [
        MatrixPoint(label=label, plans=tuple(hashes), slower=counts[label]) for label, hashes in plans.items()
    ]


def grouped(cells: Sequence[CampaignCell]) -> dict[LineKey, list[CampaignCell]]:
    """Return a campaign's cells by their lines."""
    groups: dict[LineKey, list[CampaignCell]] = {}
    for cell in cells:
        groups.setdefault(line_of(cell), []).append(cell)
    return groups


def line_of(cell: CampaignCell) -> LineKey:
    """Return the line that a cell belongs to."""
    return LineKey(cell.agent_id, model_key(cell.model), cell.plan_hash)


def _cell(
    group: Sequence[CampaignCell], summaries: Summaries, ratio: RatioShown, *, swept: bool
) -> CampaignMatrixCell:
    measured = [(one, summaries[job_id]) for one in group if (job_id := one.job_id or "") in summaries]
    # What stands for the repeats: one that has a figure, else the one that is farthest.
    shown = measured[0][0] if measured else next((one for one in group if not one.ended), group[0])
    value, low, high = _value([summary for _, summary in measured])
    return CampaignMatrixCell(
        agent_id=shown.agent_id,
        model=shown.model,
        plan_hash=shown.plan_hash,
        state=shown.state,
        reason=None if measured else _why_none(shown) if swept else "its plan does not measure this point",
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


def from_verdicts(verdicts: Sequence[Verdict], shown: Shown) -> dict[LineKey, RatioShown]:
    """Return what a campaign's cells say of their baselines, where those were compared by this metric."""
    return {
        LineKey(one.agent_id, model_key(one.model), one.plan_hash): RatioShown(
            one.ratio, one.ratio_low, one.ratio_high, one.verdict
        )
        for one in verdicts
        if one.metric == shown.metric
        and one.plan_hash in shown.chosen
        and one.point_index == (shown.chosen[one.plan_hash] or 0)
    }


class Pair(NamedTuple):
    """A line in two campaigns at a point of its plan, and nights that say how far nights lie apart."""

    key: LineKey
    point: int | None
    night: Night
    other: Night
    spread_from: Sequence[Night]


def compare_campaigns(pairs: Sequence[Pair], shown: Shown) -> dict[LineKey, RatioShown]:
    """Return the ratio of each line in one campaign to the same line in another, at the point that is shown.

    Where a line has too few nights, the ratio stands without an interval. What is corrected for is the number
    of all pairs: who looks at one point after the other must not find by chance what one look would not.
    """
    metric = shown.metric
    better = BY_NAME[metric].better != "lower"
    enough = [one for one in pairs if len(one.spread_from) >= comparison.LEAST_BASELINE]
    found = {(one.key, one.point): RatioShown(math.exp(one.night.log - one.other.log)) for one in pairs}
    lines = [
        NightLine(one.night, [one.other], one.spread_from, (), (), (), higher_is_better=better)
        for one in enough
    ]
    for pair, outcome in zip(enough, comparison.compare_two(lines), strict=True):
        found[pair.key, pair.point] = RatioShown(outcome.ratio, outcome.low, outcome.high, outcome.direction)
    return {
        key: ratio
        for (key, point), ratio in found.items()
        if key.plan_hash in shown.chosen and shown.chosen[key.plan_hash] == point
    }


def night_of(group: Sequence[CampaignCell], summaries: Summaries) -> Night | None:
    """Return the figure of a line's cells together."""
    jobs = [one.job_id or "" for one in group]
    return history.night_of([summaries[job_id] for job_id in jobs if job_id in summaries])
