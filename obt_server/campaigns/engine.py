"""All campaigns: begun, carried on after a restart, cancelled, measured again, extended, forgotten."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

import msgspec
import structlog

from obt_agent.errors import InvalidParams
from obt_server.campaign_storage import (
    Campaign,
    CampaignCell,
    CampaignFilter,
    CampaignTotals,
    TooManyCampaigns,
)
from obt_server.campaigns import requests
from obt_server.campaigns.figures import figures
from obt_server.campaigns.follow_ups import FollowUps
from obt_server.campaigns.news import CampaignNews, CampaignOpen, news_of
from obt_server.campaigns.requests import CampaignRequest, RequestedBy
from obt_server.campaigns.run import CampaignRun, Judge
from obt_server.campaigns.settings import CampaignSettings
from obt_server.campaigns.work import CampaignParts
from obt_server.estimates import Estimates
from obt_server.hub import Hub
from obt_server.hub.events import Event, JobChanged, RolloutChanged
from obt_server.machine_jobs.runs import Runs
from obt_server.machine_jobs.unheard import UnheardCommits
from obt_server.result_index import ResultIndex
from obt_server.rollouts import RolloutEngine
from obt_server.rollouts.locks import ModelLocks
from obt_server.rollouts.selection import Selector, select
from obt_server.saved_plans import NamedPlans
from obt_server.storage import NotStored, ServerStorage

log = structlog.get_logger(__name__)

ALL: Final = 1_000_000
"""More campaigns than any storage keeps."""
_JOB_OF_CELL: Final = re.compile(r"([0-9a-f-]{36})\.(c\d{1,6})\.\d{1,6}")


class CampaignEngine:
    """Carries campaigns out. ``start`` before anything else; ``close`` ends its tasks, and loses nothing.

    Each is called once: whoever goes on later makes another engine, which knows what is stored.

    Args:
        hub: the live agents.
        storage: what lasts; a state is there before anybody sees it.
        rollouts: what pulls models.
        plans: presets and saved plans.
        results: earlier results, for estimates.
        settings: numbers.
    """

    def __init__(
        self,
        hub: Hub,
        storage: ServerStorage,
        rollouts: RolloutEngine,
        plans: NamedPlans,
        results: ResultIndex,
        settings: CampaignSettings | None = None,
    ) -> None:
        self.settings = settings or CampaignSettings()
        self.judge: Judge | None = None
        """Compares what was measured with its baseline, at the end of each campaign; set before ``start``."""
        self._hub = hub
        self._storage = storage
        self._plans = plans
        self._results = results
        self._parts = CampaignParts(hub, storage, self.settings, rollouts)
        self._locks = ModelLocks()
        self._runs: Runs[CampaignRun, CampaignNews] = Runs(hub, "campaign", self.settings.poll_s, news_of)
        # One change of which campaigns run at a time: a rerun must not begin one twice.
        self._changing = asyncio.Lock()
        self._unheard = UnheardCommits("campaign", self.settings.poll_s, self._look_for)
        # One comparison of a campaign with its baseline at a time.
        self._judging = asyncio.Lock()
        self._after = FollowUps()
        self._stop_observing: Callable[[], None] | None = None

    # -- lifetime -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Carry on with all campaigns that storage has as running. The rollouts have been started."""
        await self._runs.start()
        self._stop_observing = self._hub.events.observe(self._on_event)
        async with self._changing:
            running = await self._storage.campaigns(CampaignFilter(state="running", limit=ALL))
            # The oldest first, so that who came first on a machine is first there again.
            found = [totals.campaign for totals in reversed(running)]
            # None that a request was the first to begin.
            runs = [await self._loaded(campaign) for campaign in found if self._runs.get(campaign.id) is None]
            for run in runs:
                run.hold_locks()
            for run in runs:
                self._begin(run)
        self._after.later(self._catch_up(), "campaigns that ended before the start")

    async def close(self) -> None:
        """End all tasks; what they were at is stored, and goes on with the engine that is made next."""
        self._after.stop()
        if self._stop_observing is not None:
            self._stop_observing()
        await self._unheard.close()
        await self._runs.close()
        await self._after.close()

    async def _catch_up(self) -> None:
        """Count results that came while the server was away, and judge what ended before it was judged."""
        for late in await self._storage.late_results():
            await self._count_late(late.campaign_id, late.cell_id, late.job_id)
        if self.judge is None:
            return
        for totals in await self._storage.campaigns(CampaignFilter(ended=True, judged=False, limit=ALL)):
            await self._judge(totals.campaign.id)

    async def _loaded(self, campaign: Campaign) -> CampaignRun:
        return self._made(campaign, await self._storage.campaign_cells(campaign.id))

    def _made(self, campaign: Campaign, cells: Sequence[CampaignCell]) -> CampaignRun:
        return CampaignRun(self._parts, campaign, cells, self._locks, self._runs.machines)

    def _begin(self, run: CampaignRun) -> None:
        self._runs.begin(
            run, after=lambda: self._after.later(self._judge(run.id), f"judge campaign {run.id}")
        )

    # -- what people ask ------------------------------------------------------------------------------

    async def prepare(
        self, request: CampaignRequest, created_by: str, schedule: str | None = None
    ) -> tuple[Campaign, list[CampaignCell]]:
        """Return what a request comes to, stored nowhere.

        Raises:
            InvalidParams: a part of it is none, or it has too many cells.
            NotStored: there is no plan of that name.
            UnknownAgent, AmbiguousAgent: a machine that is named.
        """
        campaign = await requests.make(request, self._plans, RequestedBy(created_by, schedule))
        records = await select(self._hub, request.targets, self.settings.max_cells)
        machines = requests.machines_of(records)
        self._check_size(campaign, len(machines))
        campaign = msgspec.structs.replace(campaign, machines=machines)
        return campaign, requests.cells_of(campaign, machines, Estimates(await self._results.lines()))

    async def create(
        self,
        request: CampaignRequest,
        created_by: str,
        *,
        schedule: str | None = None,
        key: str | None = None,
        not_before: Callable[[Sequence[str]], Mapping[str, float]] | None = None,
    ) -> tuple[Campaign, bool]:
        """Store a campaign and begin with it; one whose ``key`` is known is that one, and nothing begins.

        ``not_before`` takes the machines' ids and returns when each may begin, in Unix seconds.

        Returns:
            The campaign, and whether it is new.

        Raises:
            TooManyCampaigns: all that are kept still run, or those that run have as many cells as may be.
            InvalidParams, NotStored, UnknownAgent, AmbiguousAgent: see ``prepare``.
        """
        if key is not None:
            request = msgspec.structs.replace(request, key=key)
        campaign, cells = await self.prepare(request, created_by, schedule)
        if not_before is not None:
            starts = not_before([machine.id for machine in campaign.machines])
            machines = [
                msgspec.structs.replace(machine, not_before=starts.get(machine.id))
                for machine in campaign.machines
            ]
            campaign = msgspec.structs.replace(campaign, machines=tuple(machines))
        async with self._changing:
            for known in self._runs:
                # Looked for here as well: a repeat is no more than runs already.
                if campaign.key is not None and known.campaign.key == campaign.key:
                    return known.campaign, False
            self._check_running(len(cells))
            run = self._made(campaign, cells)
            with self._unheard.watch(campaign.id):
                stored = await self._storage.create_campaign(campaign, cells)
            if stored.id != campaign.id:
                if stored.state == "running":
                    self._go_on(await self._open(stored.id))
                return stored, False
            self._begin(run)
        log.info("campaign.created", campaign=campaign.id, cells=len(cells), operator=created_by)
        self._hub.events.campaign_changed(campaign.id)
        return campaign, True

    def _check_size(self, campaign: Campaign, machines: int) -> None:
        most, count = self.settings.max_cells, requests.cell_count(campaign, machines)
        if count > most:
            raise InvalidParams(f"targets: this is {count} cells; {most} are the most.", field="targets")

    def _check_running(self, more: int) -> None:
        running = sum(len(run.cells) for run in self._runs)
        if running and running + more > self.settings.max_running_cells:
            raise TooManyCampaigns(
                f"Campaigns with {running} cells run; {self.settings.max_running_cells} are the most."
            )

    async def get(self, campaign_id: str) -> tuple[Campaign, list[CampaignCell]]:
        """A campaign and its cells. Raises NotStored."""
        run = self._runs.get(campaign_id)
        if run is not None:
            return run.campaign, list(run.cells.values())
        campaign = await self._storage.campaign(campaign_id)
        return campaign, list(await self._storage.campaign_cells(campaign_id))

    async def find(self, which: CampaignFilter) -> Sequence[CampaignTotals]:
        """Campaigns that pass a filter, the newest first."""
        return await self._storage.campaigns(which)

    def running(self) -> list[tuple[Campaign, list[CampaignCell]]]:
        """Return all campaigns that run, with their cells."""
        return [(run.campaign, list(run.cells.values())) for run in self._runs]

    async def cancel(self, campaign_id: str, cell_ids: Collection[str] | None) -> None:
        """Cancel what has not ended of a campaign, all cells or those named. Raises NotStored."""
        self._runs.check()
        run = self._runs.get(campaign_id)
        if run is not None:
            with self._unheard.watch(campaign_id):
                await run.cancel(cell_ids)
            return
        async with self._changing:
            run = await self._open(campaign_id)
            if run.campaign.state == "running":
                # Stored, and not begun: before it begins, so that no machine is asked for anything.
                await run.cancel(cell_ids)
                self._go_on(run)

    async def rerun(self, campaign_id: str, cell_ids: Collection[str] | None, *, flagged: bool) -> None:
        """Measure cells again; see ``CampaignRun.rerun``. Raises NotStored."""
        self._runs.check()
        while True:
            async with self._changing:
                run = await self._open(campaign_id)
                with self._unheard.watch(campaign_id):
                    if await run.rerun(cell_ids, flagged=flagged):
                        self._go_on(run)
                        return
            await self._runs.ended(campaign_id)

    async def add_machines(self, campaign_id: str, targets: Selector) -> None:
        """Measure on more machines; those that the campaign has already stay as they are.

        Raises:
            NotStored: there is no such campaign.
            InvalidParams: it would have too many cells, or the campaign's ``not_after`` has passed.
        """
        self._runs.check()
        records = await select(self._hub, targets, self.settings.max_cells)
        estimates = Estimates(await self._results.lines())
        while True:
            async with self._changing:
                run = await self._open(campaign_id)
                # What was added unheard a moment ago is there already.
                await run.renew(anyway=False)
                there = {machine.id for machine in run.campaign.machines}
                machines = requests.machines_of(record for record in records if record.id not in there)
                self._check_size(run.campaign, len(there) + len(machines))
                first = 1 + max((int(cell_id[1:]) for cell_id in run.cells), default=0)
                cells = requests.cells_of(run.campaign, machines, estimates, first=first)
                if not cells:
                    return
                self._check_running(len(cells))
                with self._unheard.watch(campaign_id):
                    if await run.add(machines, cells):
                        self._go_on(run)
                        return
            await self._runs.ended(campaign_id)

    async def _open(self, campaign_id: str) -> CampaignRun:
        """A campaign that runs, or one that ended as a run that has not begun."""
        return self._runs.get(campaign_id) or await self._loaded(await self._storage.campaign(campaign_id))

    async def _look_for(self, campaign_id: str) -> bool:
        """Begin what is stored as running and was not begun; return whether it runs. Raises NotStored."""
        async with self._changing:
            run = self._runs.get(campaign_id)
            if run is None:
                run = await self._open(campaign_id)
                self._go_on(run)
                return run.campaign.state == "running"
            await run.renew(anyway=True)
            self._go_on(run)
            # Whether what was changed is there, nobody knows: it is looked at until nothing more can come.
            return False

    def _go_on(self, run: CampaignRun) -> None:
        """Carry a campaign on that has something to do again, or events of more machines to get."""
        if self._runs.get(run.id) is run:
            self._runs.watch(run)
        elif run.campaign.state == "running":
            self._begin(run)
            self._hub.events.campaign_changed(run.id)

    async def delete(self, campaign_id: str) -> None:
        """Forget a campaign that has ended. Raises NotStored, CampaignOpen."""
        self._runs.check()
        async with self._changing:
            campaign = await self._storage.campaign(campaign_id)
            if campaign.state == "running" or self._runs.get(campaign_id) is not None:
                raise CampaignOpen(f"Campaign {campaign_id} has not ended: cancel it first.")
            await self._storage.delete_campaign(campaign_id)
        self._runs.keep_news(campaign_id, None)
        self._hub.events.campaign_changed(campaign_id)

    def take_news(self, campaign_id: str) -> CampaignNews | None:
        """Return a campaign with what changed since the last call; None for one that was deleted.

        Raises:
            KeyError: there is nothing new of it.
        """
        return self._runs.take_news(campaign_id)

    # -- after the end --------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        if isinstance(event, RolloutChanged):
            wake = self._parts.pulls.get(event.rollout_id)
            if wake is not None:
                wake()
        elif isinstance(event, JobChanged) and event.state == "completed":
            match = _JOB_OF_CELL.fullmatch(event.job_id)
            run = None if match is None else self._runs.get(match[1])
            # A cell that is at work takes its result itself.
            if match is None or (run is not None and run.at_work(match[2], event.job_id)):
                return
            work = self._count_late(match[1], match[2], event.job_id)
            self._after.later(work, f"late result {event.job_id}")

    async def _count_late(self, campaign_id: str, cell_id: str, job_id: str) -> None:
        """Count a result that came late for its cell, if it is of the cell's own machine."""
        async with self._changing:
            try:
                run = await self._open(campaign_id)
            except NotStored:
                return  # an agent may call a job as it likes, and campaigns are forgotten
            cell = run.cells.get(cell_id)
            if cell is None:
                return
            # By the cell's machine: whoever else called a job so sent no result of this cell.
            text = await self._storage.result(cell.agent_id, job_id)
            if text is None:
                return
            found = await asyncio.to_thread(figures, text, run.campaign.metric)
            again = await run.count_late(cell_id, job_id, found)
            if self._runs.get(campaign_id) is None:
                self._say(news_of(run))
        if again:
            await self._judge(campaign_id, again=True)

    async def _judge(self, campaign_id: str, *, again: bool = False) -> None:
        """Have a campaign that has ended compared with its baseline; ``again`` where its results changed."""
        if self.judge is None:
            return
        # One after the other: of two comparisons of one campaign the later one's must be what is kept.
        async with self._judging:
            campaign, cells = await self.get(campaign_id)
            if campaign.state == "running" or (campaign.judged and not again):
                return
            counts = await self.judge(campaign, cells)
            async with self._changing:
                now, cells = await self.get(campaign_id)
                # Begun again meanwhile: it is compared when it ends.
                if now.state == "running":
                    return
                judged = msgspec.structs.replace(now, judged=True, verdicts=counts)
                await self._storage.save_campaign(judged, [])
                self._say(CampaignNews(judged, cells, []))

    def _say(self, news: CampaignNews) -> None:
        """Have news of a campaign that does not run said, with what was not said before."""
        try:
            before = self._runs.take_news(news.campaign.id)
        except KeyError:
            before = None
        changed = {cell.id: cell for cell in [*(before.changed if before else ()), *news.changed]}
        self._runs.keep_news(news.campaign.id, replace(news, changed=list(changed.values())))
        self._hub.events.campaign_changed(news.campaign.id)
