"""One rollout while it runs: which machine's turn it is, what is stored, and when it is over."""

from __future__ import annotations

import asyncio
import dataclasses
import heapq
import math
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence

import structlog

from obt_agent.errors import StorageFailed
from obt_server.machine_jobs import failures, items
from obt_server.machine_jobs.attempt import AlreadyEnded, Postponed
from obt_server.machine_jobs.failures import Changes
from obt_server.machine_jobs.items import RunItems
from obt_server.machine_jobs.machines import Machines
from obt_server.machine_jobs.unheard import Storing
from obt_server.replica_storage import LeaseLost
from obt_server.rollout_storage import (
    REPEATABLE,
    ChangeCause,
    Rollout,
    RolloutState,
    RolloutTarget,
    model_key,
)
from obt_server.rollouts import outcomes
from obt_server.rollouts.locks import LockKey, ModelLocks
from obt_server.rollouts.work import RolloutParts, TargetWork
from obt_server.tasks import end_tasks

log = structlog.get_logger(__name__)

_AGAIN_AFTER_FAULT_S = 30.0
"""A full disk here must not end a rollout: what cannot be stored is tried again."""


class RolloutRun:
    """A rollout that runs. Each of its machines has at most one task; all end with ``run``.

    Args:
        parts: hub, storage and numbers.
        rollout: what is done.
        targets: its targets, as they are stored.
        locks: on models of machines, shared by all rollouts.
        machines: who is there, and who waits for whom.
    """

    def __init__(
        self,
        parts: RolloutParts,
        rollout: Rollout,
        targets: Sequence[RolloutTarget],
        locks: ModelLocks,
        machines: Machines,
    ) -> None:
        self._parts = parts
        self.rollout = rollout
        # As stored, in the rollout's order.
        self.targets = RunItems({target.agent_id: target for target in targets})
        self._locks = locks
        self._machines = machines
        self._storing = Storing(self._reload)
        # Whose turn may have come; those who wait for something else come back here when it happens.
        self._ready: deque[str] = deque()
        # Those who came back there since the last look: they wait for their turn now.
        self._returned: set[str] = set()
        # Loop time at which a target is looked at again, whatever happens: as a heap, and by target, for an
        # earlier wish of a target stays in the heap and does not count.
        self._timers: list[tuple[float, str]] = []
        self._due_at: dict[str, float] = {}
        self._works: dict[str, TargetWork] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        # Set when the end is stored: nothing begins in this run any more.
        self._over = False

    @property
    def id(self) -> str:
        """The rollout's id."""
        return self.rollout.id

    @property
    def machines(self) -> Iterable[str]:
        """Its targets."""
        return self.targets

    # -- what others ask of it ------------------------------------------------------------------------

    def on_job(self, agent_id: str, job_id: str, *, moved_on: bool) -> bool:
        """A job changed; ``moved_on``: more than its progress. Return whether it is one of this rollout."""
        target, work = self.targets.get(agent_id), self._works.get(agent_id)
        if target is None or work is None or target.job_id != job_id:
            return False
        if moved_on:
            work.wake()
        self._say(agent_id)
        return True

    def on_machine(self, agent_id: str) -> None:
        """A machine came or went."""
        if agent_id in self._works:
            self._works[agent_id].wake()

    def look_again(self, agent_id: str) -> None:
        """What a target waited for has happened: it is the next."""
        self._ready.appendleft(agent_id)
        self._returned.add(agent_id)
        self._wake.set()

    async def cancel(self, agent_ids: Collection[str] | None) -> None:
        """Cancel all targets that have not ended, or those named."""
        async with self._storing:
            named = self.targets if agent_ids is None else agent_ids
            open_ones = [
                target for agent_id, target in self.targets.items() if agent_id in named and not target.ended
            ]
            now = time.time()
            changes = {target.agent_id: items.cancelled(target, now) for target in open_ones}
            rollout = self.rollout
            if agent_ids is None:
                rollout = dataclasses.replace(rollout, cancelling=True)
            await self._store(changes, rollout=rollout)
        for target in open_ones:
            if target.agent_id in self._works:
                self._works[target.agent_id].cancel()
        self._wake.set()

    async def retry(self, agent_ids: Collection[str] | None) -> bool:
        """Begin again with the targets that did not succeed, or those of them that are named.

        Returns:
            False where the run is over, so that another one has to begin.
        """
        async with self._storing:
            if self._over:
                return False
            again = {
                agent_id: outcomes.fresh(target)
                for agent_id, target in self.targets.items()
                if target.state in REPEATABLE and (agent_ids is None or agent_id in agent_ids)
            }
            # Storage may have it as over while a target has not ended: a retry that was not heard.
            left = self.rollout.state != "running" and self.targets.open
            if not again and not left:
                return True
            rollout = dataclasses.replace(self.rollout, state="running", finished_at=None, cancelling=False)
            await self._store(again, rollout=rollout)
        self._ready.extend(again)
        self._wake.set()
        return True

    async def renew(self) -> None:
        """Take over what is stored: more than this knows of, perhaps, for a commit was not heard."""
        await self._storing.renew(anyway=True)

    # -- the run --------------------------------------------------------------------------------------

    def hold_locks(self) -> None:
        """Take the locks of what was begun before a restart, before any rollout begins anything."""
        for target in self.targets.values():
            if target.begun:
                self._locks.take(self._keys(target.agent_id), self.rollout.id)

    async def run(self) -> None:
        """Carry the rollout to its end; everything that it began ends with it."""
        for agent_id, target in self.targets.items():
            if target.begun:
                self._start_work(agent_id)
            elif not target.ended:
                self._ready.append(agent_id)
        try:
            while True:
                self._wake.clear()
                self._due()
                await self._renew_if_stale()
                await self._fill()
                if not self._tasks and not self.targets.open:
                    if await self._finish():
                        return
                    continue
                await self._wait()
        finally:
            await end_tasks(self._tasks.values())

    async def _renew_if_stale(self) -> None:
        try:
            await self._storing.renew()
        # What is at work goes on; it is read before anything is stored.
        except StorageFailed as error:
            log.warning("rollout.not_renewed", rollout=self.id, error=error.message)

    async def _wait(self) -> None:
        delay = None
        if self._timers:
            delay = max(0.0, self._timers[0][0] - asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(delay):
                await self._wake.wait()
        except TimeoutError:
            return

    def _due(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._timers and self._timers[0][0] <= now:
            when, agent_id = heapq.heappop(self._timers)
            if self._due_at.get(agent_id) == when:
                del self._due_at[agent_id]
                self._ready.append(agent_id)
                self._returned.add(agent_id)

    async def _fill(self) -> None:
        """Begin with machines whose turn it is, as many as may be at work at once."""
        changes: dict[str, Changes] = {}
        while self._ready and len(self._tasks) < self.rollout.parallelism:
            agent_id = self._ready.popleft()
            target = self.targets[agent_id]
            self._returned.discard(agent_id)
            # It may be here twice: a timer and an event.
            if target.ended or agent_id in self._tasks or agent_id in changes:
                continue
            if target.begun:
                self._start_work(agent_id)
                continue
            hindrance = self._hindrance(target)
            if hindrance is None:
                self._start_work(agent_id)
            elif any(getattr(target, name) != value for name, value in hindrance.items()):
                changes[agent_id] = hindrance
        returned, self._returned = self._returned, set()
        for agent_id in returned:
            if self.targets[agent_id].waiting_for != "turn" and agent_id not in self._tasks:
                changes.setdefault(agent_id, {"waiting_for": "turn", "reason": None})
        if changes:
            async with self._storing:
                # A cancellation may have been stored since the look at them.
                still = {one: fields for one, fields in changes.items() if self._waits(one)}
                if still:
                    await self._store(still)

    def _waits(self, agent_id: str) -> bool:
        """Whether a target has neither begun nor ended."""
        target = self.targets[agent_id]
        return not target.ended and not target.begun

    def _hindrance(self, target: RolloutTarget) -> Changes | None:
        """Why a target cannot begin: how it ends, or for what it waits until it is looked at again."""
        agent_id, rollout = target.agent_id, self.rollout
        found = self._machines.hindrance(
            agent_id, rollout.id, self._parts.settings, until=rollout.until, offline=rollout.offline
        )
        if found is not None:
            if found.again_in_s is not None:
                self._look_again_in(found.again_in_s, agent_id)
            return found.changes
        key = self._locks.held_by_other(self._keys(agent_id), self.rollout.id)
        if key is not None:
            until = math.inf if rollout.until is None else rollout.until
            self._look_again_in(until - time.time(), agent_id)
            self._locks.when_free(key, lambda: self.look_again(agent_id))
            return failures.waits("rollout", "Another rollout works on this model of the machine.")
        return None

    def _look_again_in(self, seconds: float, agent_id: str) -> None:
        """Look at a target after a time, whatever happens; the last such wish counts."""
        when = asyncio.get_running_loop().time() + seconds
        self._due_at[agent_id] = when
        if when < math.inf:
            heapq.heappush(self._timers, (when, agent_id))

    def _keys(self, agent_id: str) -> list[LockKey]:
        rollout = self.rollout
        names = {rollout.model, rollout.destination, rollout.create.from_ if rollout.create else None}
        return [(agent_id, model_key(name)) for name in sorted(name for name in names if name)]

    def _start_work(self, agent_id: str) -> None:
        if agent_id in self._tasks:
            return
        if not self._locks.take(self._keys(agent_id), self.rollout.id):
            key = self._locks.held_by_other(self._keys(agent_id), self.rollout.id)
            if key is not None:
                self._locks.when_free(key, lambda: self.look_again(agent_id))
            return

        async def update(changes: Changes, *causes: ChangeCause) -> RolloutTarget:
            return await self._update(agent_id, changes, causes)

        work = TargetWork(self._parts, self.rollout, self.targets[agent_id], update)
        self._works[agent_id] = work
        name = f"rollout {self.rollout.id} on {agent_id}"
        self._tasks[agent_id] = asyncio.create_task(self._work(agent_id, work), name=name)

    async def _work(self, agent_id: str, work: TargetWork) -> None:
        try:
            await self._attempt(agent_id, work)
        except AlreadyEnded:
            pass  # an operator's cancellation came before its first step
        # The term ends: whoever leads next goes on with what is stored.
        except LeaseLost as error:
            log.info("rollout.not_led", rollout=self.rollout.id, agent=agent_id, error=error.message)
        # What cannot be stored now: the target is as it was, and is looked at again.
        except Exception:
            log.exception("rollout.target_failed", rollout=self.rollout.id, agent=agent_id)
            self._look_again_in(_AGAIN_AFTER_FAULT_S, agent_id)
        finally:
            del self._works[agent_id], self._tasks[agent_id]
            self._locks.give_back(self._keys(agent_id), self.rollout.id)
            self._wake.set()

    async def _attempt(self, agent_id: str, work: TargetWork) -> None:
        try:
            target = await self._update(agent_id, await work.run())
        except Postponed as later:
            await self._postpone(agent_id, later)
            return
        if target.state == "done":
            self._parts.done(agent_id, model_key(self.rollout.destination or self.rollout.model))

    async def _postpone(self, agent_id: str, later: Postponed) -> None:
        """Wait again, unless there is no more to try."""
        tries = self._parts.settings.busy_tries
        changes = items.postponed(self.targets[agent_id], later, tries, time.time())
        target = await self._update(agent_id, changes)
        if not target.ended:
            self._look_again_in(later.again_in_s or 0.0, agent_id)

    async def _finish(self) -> bool:
        """Store that it is over; False when an operator began again meanwhile."""
        async with self._storing:
            if self.targets.open:
                return False
            state: RolloutState = "cancelled" if self.rollout.cancelling else "done"
            over = dataclasses.replace(self.rollout, state=state, finished_at=time.time())
            await self._store({}, rollout=over)
            self._over = True
        counts = self.counts()
        log.info(
            "rollout.finished", rollout=self.rollout.id, state=state, **{k: v for k, v in counts.items() if v}
        )
        return True

    def counts(self) -> dict[str, int]:
        """How many targets are in each state."""
        counts: dict[str, int] = {}
        for target in self.targets.values():
            counts[target.state] = counts.get(target.state, 0) + 1
        return counts

    # -- storing --------------------------------------------------------------------------------------

    async def _update(
        self, agent_id: str, changes: Changes, causes: Sequence[ChangeCause] = ()
    ) -> RolloutTarget:
        async with self._storing:
            # Ended by an operator between two steps of its work.
            if self.targets[agent_id].ended:
                raise AlreadyEnded
            await self._store({agent_id: changes}, causes=causes)
        return self.targets[agent_id]

    async def _store(
        self,
        changes: Mapping[str, Changes],
        *,
        rollout: Rollout | None = None,
        causes: Sequence[ChangeCause] = (),
    ) -> None:
        """Store changes, then show them. ``_storing`` is held."""
        rollout = rollout or self.rollout
        changed = self.targets.with_changes(changes)
        with self._storing.save():
            await self._parts.storage.save_rollout(rollout, list(changed.values()), causes)
        self.rollout = rollout
        self.targets.put(changed)
        self._parts.hub.events.rollout_changed(self.rollout.id)

    async def _reload(self) -> None:
        rollout = await self._parts.storage.rollout(self.id)
        stored = await self._parts.storage.rollout_targets(self.id)
        changed = {one.agent_id: one for one in stored if one != self.targets.get(one.agent_id)}
        if rollout == self.rollout and not changed:
            return
        self.rollout = rollout
        self.targets.put(changed)
        for agent_id, target in changed.items():
            work = self._works.get(agent_id)
            if work is None:
                self._ready.append(agent_id)
            elif target.cancelling:
                work.cancel()
        self._wake.set()
        self._parts.hub.events.rollout_changed(self.id)

    def _say(self, agent_id: str) -> None:
        self.targets.moved(agent_id)
        self._parts.hub.events.rollout_changed(self.rollout.id)
