"""One campaign while it runs: whose turn it is on each machine, what is stored, and when it is over."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

import msgspec
import structlog

from obt_server.campaign_storage import (
    Campaign,
    CampaignCell,
    CampaignMachine,
    CampaignState,
    VerdictCounts,
)
from obt_server.campaigns import outcomes
from obt_server.campaigns.figures import CellFigures
from obt_server.campaigns.work import CampaignParts, CellWork
from obt_server.machine_jobs import failures, items
from obt_server.machine_jobs.attempt import AlreadyEnded, Postponed
from obt_server.machine_jobs.failures import Changes
from obt_server.machine_jobs.items import RunItems
from obt_server.machine_jobs.local_times import quiet_s
from obt_server.machine_jobs.machines import Hindrance, Machines
from obt_server.machine_jobs.unheard import Storing
from obt_server.replica_storage import LeaseLost
from obt_server.rollouts.locks import LockKey, ModelLocks
from obt_server.tasks import end_tasks

log = structlog.get_logger(__name__)

_AGAIN_AFTER_FAULT_S = 30.0
"""A full disk here must not end a campaign: what cannot be stored is tried again."""

Judge = Callable[[Campaign, list[CampaignCell]], Awaitable[VerdictCounts | None]]
"""Compares a campaign that has ended with its baseline. Called again it replaces what it stored before."""


class CampaignRun:
    """A campaign that runs. Each of its machines has at most one task; all end with ``run``.

    Args:
        parts: hub, storage, rollouts and numbers.
        campaign: what is measured.
        cells: its cells, as they are stored.
        locks: on machines, shared by all campaigns: one campaign measures on a machine at a time.
        machines: who is there, and who waits for whom.
    """

    def __init__(
        self,
        parts: CampaignParts,
        campaign: Campaign,
        cells: Sequence[CampaignCell],
        locks: ModelLocks,
        machines: Machines,
    ) -> None:
        self._parts = parts
        self.campaign = campaign
        # As stored, in the order in which each machine takes its own.
        self.cells = RunItems({cell.id: cell for cell in cells})
        self._locks = locks
        self._machines = machines
        self._storing = Storing(self._reload)
        # By machine: the ids of its cells, its task, and what wakes that where it waits.
        self._of_machine: dict[str, list[str]] = {}
        for cell in cells:
            self._of_machine.setdefault(cell.agent_id, []).append(cell.id)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wakes: dict[str, asyncio.Event] = {}
        # By cell: what is at work.
        self._works: dict[str, CellWork] = {}
        # By machine: its cell that is at work.
        self._at_work: dict[str, str] = {}
        # Set when a machine's task has ended, or there is more to do.
        self._wake = asyncio.Event()
        # Set when the end is stored: nothing begins in this run any more.
        self._over = False

    @property
    def id(self) -> str:
        """The campaign's id."""
        return self.campaign.id

    @property
    def machines(self) -> Iterable[str]:
        """The machines that have cells."""
        return self._of_machine

    # -- what others ask of it ------------------------------------------------------------------------

    def at_work(self, cell_id: str, job_id: str) -> bool:
        """Whether a cell takes the result of a job itself."""
        return cell_id in self._works and self.cells[cell_id].job_id == job_id

    def on_job(self, agent_id: str, job_id: str, *, moved_on: bool) -> bool:
        """A job changed; ``moved_on``: more than its progress. Return whether it is at work here."""
        cell = self.cells.get(self._at_work.get(agent_id, ""))
        if cell is None or job_id not in (cell.job_id, cell.pull_job_id):
            return False
        if moved_on:
            self._works[cell.id].wake()
        self.cells.moved(cell.id)
        self._parts.hub.events.campaign_changed(self.id)
        return True

    def on_machine(self, agent_id: str) -> None:
        """A machine came or went."""
        for cell_id in self._of_machine.get(agent_id, ()):
            if cell_id in self._works:
                self._works[cell_id].wake()
        self.look_again(agent_id)

    def look_again(self, agent_id: str) -> None:
        """What a machine's next cell waited for has happened."""
        if agent_id in self._wakes:
            self._wakes[agent_id].set()

    async def cancel(self, cell_ids: Collection[str] | None) -> None:
        """Cancel all cells that have not ended, or those named."""
        async with self._storing:
            named = self.cells if cell_ids is None else cell_ids
            open_ones = [cell for cell in self.cells.values() if cell.id in named and not cell.ended]
            now = time.time()
            changes = {cell.id: items.cancelled(cell, now) for cell in open_ones}
            campaign = self.campaign
            if cell_ids is None and not self._over:
                campaign = msgspec.structs.replace(campaign, cancelling=True)
            await self._store(changes, campaign=campaign)
        for cell in open_ones:
            if cell.id in self._works:
                self._works[cell.id].cancel()
            self.look_again(cell.agent_id)

    async def rerun(self, cell_ids: Collection[str] | None, *, flagged: bool) -> bool:
        """Measure cells again: those that ended without a result or, on request, those with doubtful flags.

        Cells that are named are measured again in any case, once they have ended.

        Returns:
            False where the run is over, so that another one has to begin.
        """
        async with self._storing:
            if self._over:
                return False
            again = {
                cell.id: outcomes.fresh(cell)
                for cell in self.cells.values()
                if outcomes.wanted_again(cell, cell_ids, flagged=flagged)
            }
            # Storage may have it as over while a cell has not ended: a change that was not heard.
            if again or (self.campaign.state != "running" and self.cells.open):
                await self._store(again, campaign=self._reopened())
        self._wake.set()
        return True

    def _reopened(self) -> Campaign:
        return msgspec.structs.replace(
            self.campaign, state="running", finished_at=None, cancelling=False, judged=False
        )

    async def add(self, machines: Sequence[CampaignMachine], cells: Sequence[CampaignCell]) -> bool:
        """Measure on more machines. False where the run is over, so that another one has to begin."""
        async with self._storing:
            if self._over:
                return False
            all_machines = (*self.campaign.machines, *machines)
            campaign = msgspec.structs.replace(self._reopened(), machines=all_machines)
            await self._save(campaign, cells)
            for cell in cells:
                self._of_machine.setdefault(cell.agent_id, []).append(cell.id)
        self._wake.set()
        return True

    async def count_late(self, cell_id: str, job_id: str, found: CellFigures) -> bool:
        """Count a result that came late for its cell, unless that has one or is being measured again.

        Returns:
            Whether it counts, and the campaign had ended: then it is to be judged again.
        """
        async with self._storing:
            cell = self.cells.get(cell_id)
            if cell is None or cell.state == "done" or cell.begun:
                return False
            if job_id not in (*cell.earlier_jobs, cell.job_id):
                return False
            campaign = msgspec.structs.replace(self.campaign, judged=False)
            await self._store({cell_id: outcomes.measured(job_id, found, time.time())}, campaign=campaign)
            self.look_again(cell.agent_id)
            return campaign.state != "running"

    async def renew(self, *, anyway: bool) -> None:
        """Take over what is stored, where a commit was not heard here, or ``anyway``."""
        await self._storing.renew(anyway=anyway)

    # -- the run --------------------------------------------------------------------------------------

    def hold_locks(self) -> None:
        """Take the locks of machines that were at work before a restart, before any campaign begins."""
        for cell in self.cells.values():
            if cell.begun:
                self._locks.take([_lock_of(cell.agent_id)], self.id)

    async def run(self) -> None:
        """Carry the campaign to its end; everything that it began ends with it."""
        try:
            while True:
                self._wake.clear()
                for agent_id in list(self._of_machine):
                    if agent_id not in self._tasks and self._next(agent_id) is not None:
                        self._begin(agent_id)
                if self._tasks or self.cells.open:
                    await self._wake.wait()
                elif await self._finish():
                    return
        finally:
            await end_tasks(self._tasks.values())

    def _next(self, agent_id: str) -> CampaignCell | None:
        """The machine's next cell: one that was begun before a restart, else the first that has not ended."""
        mine = [self.cells[cell_id] for cell_id in self._of_machine[agent_id]]
        waiting = (cell for cell in mine if not cell.ended)
        return next((cell for cell in mine if cell.begun), None) or next(waiting, None)

    def _begin(self, agent_id: str) -> None:
        self._wakes[agent_id] = asyncio.Event()
        name = f"campaign {self.id} on {agent_id}"
        self._tasks[agent_id] = asyncio.create_task(self._work_through(agent_id), name=name)

    async def _work_through(self, agent_id: str) -> None:
        """Take a machine's cells to their ends, one after the other."""
        try:
            while (cell := self._next(agent_id)) is not None:
                self._wakes[agent_id].clear()
                try:
                    # Another cell may be the next after it.
                    if not await self._storing.renew():
                        await self._step(cell)
                except AlreadyEnded:
                    pass  # an operator's cancellation came before its first step
                # The term ends: whoever leads next goes on with what is stored.
                except LeaseLost as error:
                    log.info("campaign.not_led", campaign=self.id, cell=cell.id, error=error.message)
                    await self._pause(agent_id, _AGAIN_AFTER_FAULT_S)
                # What cannot be stored now: the cell is as it was, and is looked at again.
                except Exception:
                    log.exception("campaign.cell_failed", campaign=self.id, cell=cell.id, agent=agent_id)
                    await self._pause(agent_id, _AGAIN_AFTER_FAULT_S)
        finally:
            del self._tasks[agent_id], self._wakes[agent_id]
            self._locks.give_back([_lock_of(agent_id)], self.id)
            self._wake.set()

    async def _step(self, cell: CampaignCell) -> None:
        """Take a cell to its end, or wait for what it waits for."""
        hindrance = None if cell.begun else self._hindrance(cell)
        if hindrance is None:
            await self._work(cell)
            return
        if hindrance.again_in_s is None:
            # What ends one cell of a machine before it begins ends all that are left there.
            async with self._storing:
                mine = [self.cells[cell_id] for cell_id in self._of_machine[cell.agent_id]]
                await self._store({one.id: hindrance.changes for one in mine if not (one.ended or one.begun)})
            return
        if any(getattr(cell, name) != value for name, value in hindrance.changes.items()):
            await self._update(cell.id, hindrance.changes)
        # Others may measure there meanwhile.
        self._locks.give_back([_lock_of(cell.agent_id)], self.id)
        await self._pause(cell.agent_id, hindrance.again_in_s)

    async def _pause(self, agent_id: str, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wakes[agent_id].wait()

    def _hindrance(self, cell: CampaignCell) -> Hindrance | None:
        """Why a cell cannot begin; takes the lock of its machine where it can."""
        campaign, settings = self.campaign, self._parts.settings
        found = self._machines.hindrance(
            cell.agent_id, self.id, settings, until=campaign.not_after, offline=campaign.on_offline
        )
        if found is not None:
            return found
        left_s = math.inf if campaign.not_after is None else max(0.0, campaign.not_after - time.time())
        begins = next((one.not_before for one in campaign.machines if one.id == cell.agent_id), None)
        if begins is not None and begins > time.time():
            why = failures.waits("turn", "Its schedule lets the machines begin one after the other.")
            return Hindrance(why, min(begins - time.time(), left_s))
        quiet = campaign.quiet_hours
        if quiet is not None:
            wait_s = quiet_s(quiet.range, quiet.time_zone, dt.datetime.now(dt.UTC))
            if wait_s > 0:
                why = failures.waits("quiet_hours", f"The campaign's quiet hours last until {quiet.to}.")
                return Hindrance(why, min(wait_s, left_s, settings.quiet_check_s))
        lock = _lock_of(cell.agent_id)
        if not self._locks.take([lock], self.id):
            self._locks.when_free(lock, lambda: self.look_again(cell.agent_id))
            why = failures.waits("campaign", "Another campaign measures on this machine.")
            return Hindrance(why, min(left_s, settings.quiet_check_s))
        return None

    async def _work(self, cell: CampaignCell) -> None:
        async def update(changes: Changes) -> CampaignCell:
            return await self._update(cell.id, changes)

        work = CellWork(self._parts, self.campaign, cell, update)
        self._works[cell.id], self._at_work[cell.agent_id] = work, cell.id
        try:
            await self._end(cell.id, await work.run())
        except Postponed as later:
            await self._postpone(cell, later)
        finally:
            del self._works[cell.id]
            del self._at_work[cell.agent_id]

    async def _end(self, cell_id: str, changes: Changes) -> None:
        cell = await self._update(cell_id, changes)
        if cell.state != "done" or cell.started_at is None or cell.finished_at is None:
            return
        # What it took is the best estimate of those of its repeats that are to come.
        took = cell.finished_at - cell.started_at
        same = (cell.agent_id, cell.model, cell.plan_hash)
        async with self._storing:
            repeats = [
                one.id
                for one in self.cells.values()
                if (one.agent_id, one.model, one.plan_hash) == same and not one.ended and not one.begun
            ]
            if repeats:
                await self._store({one: {"estimate_s": took} for one in repeats})

    async def _postpone(self, cell: CampaignCell, later: Postponed) -> None:
        """Wait again, unless there is no more to try."""
        changes = items.postponed(self.cells[cell.id], later, self._parts.settings.busy_tries, time.time())
        cell = await self._update(cell.id, changes)
        if not cell.ended and later.again_in_s is not None:
            await self._pause(cell.agent_id, later.again_in_s)

    async def _finish(self) -> bool:
        """Store that it is over; False when an operator began again meanwhile."""
        async with self._storing:
            if self.cells.open:
                return False
            state: CampaignState = "cancelled" if self.campaign.cancelling else "done"
            over = msgspec.structs.replace(self.campaign, state=state, finished_at=time.time())
            await self._store({}, campaign=over)
            self._over = True
        log.info("campaign.finished", campaign=self.id, state=state, cells=len(self.cells))
        return True

    # -- storing --------------------------------------------------------------------------------------

    async def _update(self, cell_id: str, changes: Changes) -> CampaignCell:
        async with self._storing:
            # Ended by an operator, or by a late result, between two steps of its work.
            if self.cells[cell_id].ended:
                raise AlreadyEnded
            await self._store({cell_id: changes})
        return self.cells[cell_id]

    async def _store(self, changes: Mapping[str, Changes], *, campaign: Campaign | None = None) -> None:
        """Store changes, then show them. ``_storing`` is held."""
        await self._save(campaign or self.campaign, list(self.cells.with_changes(changes).values()))

    async def _save(self, campaign: Campaign, changed: Sequence[CampaignCell]) -> None:
        with self._storing.save():
            await self._parts.storage.save_campaign(campaign, changed)
        self.campaign = campaign
        self.cells.put({cell.id: cell for cell in changed})
        self._parts.hub.events.campaign_changed(self.id)

    async def _reload(self) -> None:
        campaign = await self._parts.storage.campaign(self.id)
        stored = await self._parts.storage.campaign_cells(self.id)
        changed = {cell.id: cell for cell in stored if cell != self.cells.get(cell.id)}
        if campaign == self.campaign and not changed:
            return
        for cell in changed.values():
            if cell.id not in self.cells:
                self._of_machine.setdefault(cell.agent_id, []).append(cell.id)
        self.campaign = campaign
        self.cells.put(changed)
        for cell in changed.values():
            if cell.cancelling and cell.id in self._works:
                self._works[cell.id].cancel()
            self.look_again(cell.agent_id)
        self._wake.set()
        self._parts.hub.events.campaign_changed(self.id)


def _lock_of(agent_id: str) -> LockKey:
    """A machine as a whole: no model is called so."""
    return agent_id, ""
