"""Compares what campaigns measured, with their baselines and with each other; and the history of a line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from obt_agent.benchmark.result import Summary
from obt_agent.errors import InvalidParams
from obt_server.campaign_storage import Campaign, CampaignCell, VerdictCounts
from obt_server.campaigns import history, line_history, matrix, sweep, verdicts
from obt_server.campaigns.baselines import MOST_NIGHTS, LineRecord
from obt_server.campaigns.comparison import LAST_NIGHTS, Night
from obt_server.campaigns.figures import HEADLINE, METRIC_NAMES, metric_name
from obt_server.campaigns.history import NightResults
from obt_server.campaigns.line_history import LineHistory, ShownFigure
from obt_server.campaigns.matrix import CampaignMatrix, Pair, RatioShown, Shown
from obt_server.campaigns.sweep import Chosen, SweepPoint
from obt_server.campaigns.verdicts import MeasuredLine
from obt_server.result_index import HEADLINE as INDEXED
from obt_server.result_index import IndexedResult, ResultIndex
from obt_server.rollout_storage import model_key
from obt_server.storage import MOST_REPORTED, NotStored, Reported, ServerStorage
from obt_server.verdict_storage import LineKey, Regression, RegressionFilter

Results = Mapping[tuple[str, str], IndexedResult]
"""By machine and job."""
OnRegression = Callable[[int, Regression | None], None]
MOST_REGRESSIONS: Final = 100_000
"""More than any storage keeps."""
_MAX_KEPT: Final = 20_000


class FigureAsked(NamedTuple):
    """Which figure somebody asks for: a metric's name or ``headline``, and the label of a point or none."""

    metric: str = HEADLINE
    point: str | None = None


class _CellSummaries(msgspec.Struct, frozen=True):
    index: Reported = 0
    summary: dict[str, Summary] = {}


class _ResultSummaries(msgspec.Struct, frozen=True):
    """The part of a result with its summaries; the rest is skipped, not built."""

    cells: tuple[_CellSummaries, ...] = ()


class Evaluation:
    """What results say together.

    Args:
        storage: where results, baselines and verdicts are.
        index: all results in short.
        on_regression: called with each regression that is new or changed, by its id; None where it is gone.
    """

    def __init__(self, storage: ServerStorage, index: ResultIndex, on_regression: OnRegression) -> None:
        self._storage = storage
        self._index = index
        self._on_regression = on_regression
        # One metric of a result that the index does not have, by agent, job, hash and metric, and by the
        # place of the point. A stored result never changes.
        self._read: dict[tuple[str, str, str, str], dict[int, Summary]] = {}

    # -- when a campaign has ended --------------------------------------------------------------------

    async def judge(self, campaign: Campaign, cells: Sequence[CampaignCell]) -> VerdictCounts | None:
        """Compare a campaign with its baselines, and store what comes of it in place of what came before.

        None where it is to be compared with nothing.
        """
        if campaign.baseline.mode == "none":
            return None
        lines = await self._lines(campaign, cells)
        # Tens of milliseconds for a large campaign: agents' frames would wait for it.
        found = await asyncio.to_thread(verdicts.judge, lines, campaign.baseline.last)
        # After all of its results: what is open until then holds all of its nights.
        at = campaign.finished_at or campaign.created_at
        for regression_id in await self._storage.save_verdicts(campaign.id, at, found):
            self._on_regression(regression_id, await self._regression(regression_id))
        return verdicts.counts(found)

    async def _regression(self, regression_id: int) -> Regression | None:
        try:
            return await self._storage.regression(regression_id)
        except NotStored:
            return None

    async def _lines(self, campaign: Campaign, cells: Sequence[CampaignCell]) -> list[MeasuredLine]:
        nights = history.by_line(await self._index.lines())
        pinned, regressions = await self._pinned(), await self._regressions(campaign)
        groups = matrix.grouped(cells)
        sweeps = sweep.sweeps_of(campaign)
        found = []
        for chosen in sweep.each(sweeps, len(groups)):
            for key, group in groups.items():
                if key.plan_hash in chosen:
                    point = sweep.point_of(sweeps[key.plan_hash], chosen[key.plan_hash])
                    record = _record(key, point, campaign, (regressions, pinned))
                    found.append(await self._line(campaign, (group, point), nights.get(key, []), record))
                    # Nothing in here waits, and a large campaign has a million figures of its nights.
                    await asyncio.sleep(0)
        return found

    async def _pinned(self) -> dict[LineKey, set[str]]:
        """Jobs that lines are compared with, where a campaign's baseline is pinned."""
        stored = await self._storage.pinned_baselines()
        return {LineKey(one.agent_id, one.model, one.plan_hash): {one.job_id} for one in stored}

    async def _regressions(self, campaign: Campaign) -> dict[LineKey, list[Regression]]:
        """What was found before a campaign began: compared again, it knows no more than it did then."""
        found: dict[LineKey, list[Regression]] = {}
        for one in await self._storage.regressions(RegressionFilter(limit=MOST_REGRESSIONS)):
            if one.at < campaign.created_at:
                key = LineKey(one.agent_id, model_key(one.model), one.plan_hash)
                found.setdefault(key, []).append(one)
        return found

    async def _line(
        self,
        campaign: Campaign,
        of: tuple[Sequence[CampaignCell], SweepPoint | None],
        nights: Sequence[NightResults],
        known: LineRecord,
    ) -> MeasuredLine:
        group, point = of
        first = group[0]
        key, metric = matrix.line_of(first), metric_name(campaign.metric)
        jobs = {cell.job_id for cell in group if cell.state == "done"}
        tonight = next((night for night in nights if night.campaign_id == campaign.id), None)
        if tonight is not None:
            # Attempts that ended without counting for their cell are no results of the campaign.
            mine = tuple(one for one in tonight.results if one.stored.job_id in jobs)
            tonight = NightResults(campaign.id, mine) if mine else None
        if tonight is None:
            why = next((cell.reason for cell in group if cell.reason), group[0].state)
            none = f"no result ({why})"
            return MeasuredLine(key, first.agent_name, first.model, metric, (), {}, known, none, point)
        until = [night for night in nights if night.at < tonight.at and night.campaign_id != campaign.id]
        line = [*until[-MOST_NIGHTS:], tonight]
        figures = await self._figures(line, metric, None if point is None else point.place)
        return MeasuredLine(key, first.agent_name, first.model, metric, line, figures, known, point=point)

    async def _figures(
        self, nights: Sequence[NightResults], metric: str, point: int | None
    ) -> dict[str, Night]:
        found = {}
        for night in nights:
            summaries = [await self.summary(result, metric, point) for result in night.results]
            figure = history.night_of([one for one in summaries if one is not None])
            if figure is not None:
                found[night.first.stored.job_id] = figure
        return found

    async def summary(self, result: IndexedResult, metric: str, point: int | None) -> Summary | None:
        """One metric of a result at a point of its plan; None: in the first cell that has it."""
        if metric in INDEXED:
            return history.figure(result.digest, metric, point)
        key = (result.stored.agent_id, result.stored.job_id, result.stored.sha256, metric)
        if key not in self._read:
            text = await self._storage.result(result.stored.agent_id, result.stored.job_id)
            # On a thread: a long result has megabytes of samples to be passed over.
            self._read[key] = {} if text is None else await asyncio.to_thread(_read, text, metric)
            if len(self._read) > _MAX_KEPT:
                del self._read[next(iter(self._read))]
        found = self._read[key]
        return next(iter(found.values()), None) if point is None else found.get(point)

    # -- what people ask ------------------------------------------------------------------------------

    async def matrix(
        self,
        campaign: Campaign,
        cells: Sequence[CampaignCell],
        asked: FigureAsked,
        against: Sequence[CampaignCell] | None,
    ) -> CampaignMatrix:
        """The table of a campaign, with its ratios to another one, or else to its baselines.

        Raises:
            InvalidParams: there is no such metric, or no such point.
        """
        results = {(one.stored.agent_id, one.stored.job_id): one for one in await self._index.lines()}
        name = known_metric(campaign.metric if asked.metric == HEADLINE else asked.metric)
        sweeps = sweep.sweeps_of(campaign)
        shown = Shown(name, asked.point, sweeps, sweep.choose(sweeps, asked.point))
        summaries = await self._summaries(cells, results, name, shown.chosen)
        found = await self._storage.verdicts(campaign.id)
        ratios = matrix.from_verdicts(found, shown)
        if against is not None:
            ratios = await self._between(campaign, (cells, against), results, shown)
        return matrix.build(campaign, cells, shown, summaries, ratios, found)

    async def _summaries(
        self, cells: Sequence[CampaignCell], results: Results, metric: str, chosen: Chosen
    ) -> dict[str, Summary]:
        found = {}
        for cell in cells:
            result = results.get((cell.agent_id, cell.job_id or ""))
            measured = cell.state == "done" and cell.plan_hash in chosen
            if measured and cell.job_id is not None and result is not None:
                summary = await self.summary(result, metric, chosen[cell.plan_hash])
                if summary is not None:
                    found[cell.job_id] = summary
        return found

    async def history(self, key: LineKey, asked: FigureAsked) -> LineHistory:
        """The results of one machine, model and plan, with what changed, and where they became another level.

        Raises:
            InvalidParams: there is no such metric, or no such point.
        """
        nights = history.by_line(await self._index.lines()).get(key, [])
        name = known_metric(asked.metric)
        results = [result for night in nights for result in night.results]
        # What is measured has one hash, and so each result has the same points, unless one is missing there.
        longest = max((one.digest.cells for one in results), key=len, default=())
        sweeps = {key.plan_hash: sweep.of_result(longest)}
        point = sweep.choose(sweeps, asked.point)[key.plan_hash]
        summaries = {one.stored.job_id: await self.summary(one, name, point) for one in results}
        figures = await self._figures(nights, name, point)
        shown = ShownFigure(name, sweeps[key.plan_hash], point)
        return await asyncio.to_thread(line_history.build, shown, nights, summaries, figures)

    async def _between(
        self,
        campaign: Campaign,
        both: tuple[Sequence[CampaignCell], Sequence[CampaignCell]],
        results: Results,
        shown: Shown,
    ) -> dict[LineKey, RatioShown]:
        """The ratios of the lines that two campaigns both measured."""
        nights = history.by_line(await self._index.lines())
        groups = [matrix.grouped(cells) for cells in both]
        lines = sorted(groups[0].keys() & groups[1].keys())
        pairs = []
        for chosen in sweep.each(shown.sweeps, len(lines)):
            these, others = [await self._summaries(one, results, shown.metric, chosen) for one in both]
            # In one order, so that the same question has the same answer.
            for key in lines:
                night = matrix.night_of(groups[0][key], these)
                other = matrix.night_of(groups[1][key], others)
                if night is None or other is None:
                    continue
                point = chosen[key.plan_hash]
                # Nights before the newer of the two; without those that the two are made of.
                known = [one for one in nights.get(key, []) if one.at < campaign.created_at][-LAST_NIGHTS:]
                figures = await self._figures(known, shown.metric, point)
                pairs.append(Pair(key, point, night, other, list(figures.values())))
        return await asyncio.to_thread(matrix.compare_campaigns, pairs, shown)


def _record(
    key: LineKey,
    point: SweepPoint | None,
    campaign: Campaign,
    before: tuple[Mapping[LineKey, list[Regression]], Mapping[LineKey, set[str]]],
) -> LineRecord:
    regressions, pinned = before
    metric, index = metric_name(campaign.metric), 0 if point is None else point.place
    mine = [one for one in regressions.get(key, ()) if (one.metric, one.point_index) == (metric, index)]
    if campaign.baseline.mode != "pinned":
        return LineRecord(mine)
    return LineRecord(mine, set(campaign.baseline.results) or pinned.get(key, set()))


def known_metric(name: str) -> str:
    """Return the metric of that name, which may be ``headline``. Raise InvalidParams."""
    found = metric_name(name)
    if found not in METRIC_NAMES:
        raise InvalidParams(f"There is no metric {name[:64]!r}.", field="metric")
    return found


def _read(text: bytes, metric: str) -> dict[int, Summary]:
    """One metric of a result, by the indexes of the cells that have it."""
    try:
        result = msgspec.json.decode(text, type=_ResultSummaries)
    except (msgspec.MsgspecError, RecursionError):
        return {}
    found = ((cell.index, cell.summary.get(metric)) for cell in result.cells)
    return {index: one for index, one in found if one is not None and 0 <= one.n <= MOST_REPORTED}
