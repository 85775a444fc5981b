"""Begins campaigns at their times: once each, late after a restart, and with a word where one is left out.

What is due is asked of storage and of the clock alone, so that a restart changes nothing: a campaign is
begun under a key made of schedule and time, and the time is noted as done afterwards. A server that dies
between the two begins it again under the same key, which gives the campaign that is there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from obt_agent.errors import AgentError, Busy, StorageFailed
from obt_server.campaign_storage import CampaignFilter
from obt_server.campaigns import due_times
from obt_server.campaigns.due_times import Decision, DueTimes
from obt_server.campaigns.engine import CampaignEngine
from obt_server.campaigns.requests import CampaignRequest
from obt_server.schedule_storage import ScheduleRun, StoredSchedule, believed
from obt_server.storage import ServerStorage

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 20.0
"""The longest wait between two looks at the clock, which may be set, and jumps when a machine wakes up."""
ON_TIME_S: Final = 60.0
"""A campaign that begins so long after its time is not late: the server was busy, or looked elsewhere."""
SURE_AFTER_S: Final = 600.0
"""For which a clock must go on to contradict what is stored, before that is given up: one that is behind, as
before a machine has asked for the time, is set within minutes."""
AGAIN_AFTER_S: Final = 5.0
"""After a fault of the storage, and after whatever else passes."""


class Schedules:
    """The schedules' task. ``run`` begins what is due until it is cancelled.

    Args:
        storage: where schedules are.
        engine: begins campaigns.
        clock: Unix seconds.
    """

    def __init__(
        self, storage: ServerStorage, engine: CampaignEngine, clock: Callable[[], float] = time.time
    ) -> None:
        self._storage = storage
        self._engine = engine
        self._clock = clock
        # Set when a schedule changed: its next time may be sooner than what is waited for.
        self._changed = asyncio.Event()
        # One look at a time: "run now" and the task must not note runs of one schedule beside each other.
        self._looking = asyncio.Lock()
        # Of schedules that are done up to a time far ahead: when that was seen first, by this clock and by
        # the loop's.
        self._ahead: dict[str, tuple[float, float]] = {}

    async def run(self) -> None:
        """Begin what is due, and wait for what comes next."""
        while True:
            self._changed.clear()
            try:
                wait_s = await self.look()
            # A full disk for a minute must not end all schedules for good.
            except Exception:
                log.exception("schedules.failed")
                wait_s = AGAIN_AFTER_S
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def changed(self) -> None:
        """A schedule was saved: look at once."""
        self._changed.set()

    async def look(self) -> float:
        """Begin what is due now; return how many seconds later to look again."""
        async with self._looking:
            nearest = LOOK_EVERY_S
            for schedule in await self._storage.schedules():
                try:
                    nearest = min(nearest, await self._look_at(schedule))
                # Stays due.
                except (StorageFailed, Busy) as error:
                    log.warning("schedule.postponed", schedule=schedule.name, error=error.message)
                    nearest = min(nearest, AGAIN_AFTER_S)
                # One that this release cannot read, or cannot store now, holds up no other.
                except Exception:
                    log.exception("schedule.failed", schedule=schedule.name)
            return nearest

    async def _look_at(self, schedule: StoredSchedule) -> float:
        """Begin what is due of a schedule, and return in how many seconds it is due again."""
        times, now = DueTimes(schedule.cron, schedule.time_zone), self._clock()
        done = schedule.done_until
        if believed(done, now) == done:
            self._ahead.pop(schedule.name, None)
        else:
            loop_now = asyncio.get_running_loop().time()
            since, seen_at = self._ahead.setdefault(schedule.name, (now, loop_now))
            if loop_now < seen_at + SURE_AFTER_S:
                return LOOK_EVERY_S
            # Stored, so that the times from then on are due: those that came meanwhile are late.
            log.warning("schedule.set_back", schedule=schedule.name, done_until=done)
            await self._storage.note_runs(schedule.name, [], since, since)
            done = since
        # On a thread: after a long absence there are many times to pass over.
        due = await asyncio.to_thread(times.between, done, now)
        if due:
            await self._come_to(schedule, due, now)
        upcoming = times.next(now, 1)
        return max(upcoming[0] - self._clock(), 0.0) if upcoming else LOOK_EVERY_S

    async def _come_to(self, schedule: StoredSchedule, due: list[float], now: float) -> None:
        if schedule.paused is not None:
            reason = f"paused: {schedule.paused.reason}"
            runs = [ScheduleRun(due_at=time, state="skipped", reason=reason) for time in due]
        else:
            decision = due_times.decide(due, now, schedule.late_s, on_time_s=ON_TIME_S)
            runs = [
                ScheduleRun(due_at=time, state="skipped", reason=reason) for time, reason in decision.skipped
            ]
            if decision.start is not None:
                runs.append(await self._begin(schedule, decision, now))
        await self._storage.note_runs(schedule.name, runs, due[-1], now)
        for run in runs:
            log.info("schedule.run", schedule=schedule.name, state=run.state, reason=run.reason)

    async def _begin(self, schedule: StoredSchedule, decision: Decision, now: float) -> ScheduleRun:
        due = decision.start or now
        key = f"schedule {schedule.name} {due:.0f}"
        # The one of this very time may run already, where the server died before it was noted.
        busy = await self._still_running(schedule.name, key)
        if busy is not None:
            reason = f"the campaign before ({busy}) still runs"
            return ScheduleRun(due_at=due, state="skipped", reason=reason)
        try:
            campaign_id = await self._start(schedule, key, now)
        # A moment later it may be there, or somebody else lead: the time is not over.
        except (StorageFailed, Busy):
            raise
        # Machines that are gone, a plan that was deleted: the next time may find them again.
        except AgentError as error:
            return ScheduleRun(due_at=due, state="skipped", reason=error.message)
        return ScheduleRun(
            due_at=due,
            started_at=now,
            state="late" if decision.late else "started",
            reason=f"{now - due:.0f} s late: the server or its database was away" if decision.late else None,
            campaign_id=campaign_id,
        )

    async def _still_running(self, name: str, key: str) -> str | None:
        running = await self._storage.campaigns(CampaignFilter(state="running", schedule=name, limit=10))
        return next((one.campaign.id for one in running if one.campaign.key != key), None)

    async def _start(self, schedule: StoredSchedule, key: str, now: float) -> str:
        def not_before(agent_ids: Sequence[str]) -> dict[str, float]:
            # From now, and not from when it was due: what begins late is spread as well.
            return {one: now + due_times.delay_s(schedule.name, one, schedule.jitter_s) for one in agent_ids}

        request = msgspec.convert(schedule.campaign, CampaignRequest)
        campaign, _ = await self._engine.create(
            request,
            f"schedule {schedule.name}",
            schedule=schedule.name,
            key=key,
            not_before=not_before if schedule.jitter_s else None,
        )
        return campaign.id

    async def run_now(self, name: str, operator: str) -> ScheduleRun:
        """Begin a schedule's campaign at once, also of one that is paused.

        Raises:
            NotStored: there is no such schedule; and what ``CampaignEngine.create`` raises.
        """
        async with self._looking:
            schedule = await self._storage.schedule(name)
            now = self._clock()
            request = msgspec.convert(schedule.campaign, CampaignRequest)
            key = f"schedule {name} now {now:.3f}"
            campaign, _ = await self._engine.create(request, operator, schedule=name, key=key)
            run = ScheduleRun(
                due_at=now,
                started_at=now,
                state="started",
                reason=f"{operator} asked for it",
                campaign_id=campaign.id,
            )
            # No time of the schedule is done by this.
            await self._storage.note_runs(name, [run], believed(schedule.done_until, now), now)
            return run
