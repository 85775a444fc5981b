"""All rollouts: begun, carried on after a restart, cancelled, tried again, forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from obt_agent.errors import AgentError
from obt_server.hub import Hub
from obt_server.machine_jobs.runs import Runs
from obt_server.machine_jobs.unheard import UnheardCommits
from obt_server.rollout_storage import Rollout, RolloutFilter, RolloutTarget, RolloutTotals, model_key
from obt_server.rollouts.fleet_models import Capacities
from obt_server.rollouts.locks import ModelLocks
from obt_server.rollouts.run import RolloutRun
from obt_server.rollouts.settings import RolloutSettings
from obt_server.rollouts.work import RolloutParts
from obt_server.storage import ServerStorage

log = structlog.get_logger(__name__)

ALL: Final = 1_000_000
"""More rollouts than any storage keeps."""


LISTED_WITHIN_S: Final = 30.0
"""A machine lists its models within 5 s of a change, unless its link was lost."""


@dataclass(frozen=True)
class RolloutNews:
    """A rollout with all its targets, and those of them that changed."""

    rollout: Rollout
    targets: list[RolloutTarget]
    changed: list[RolloutTarget]


class RolloutOpen(AgentError):
    """The rollout has not ended."""

    kind = "rollout_open"


class RolloutEngine:
    """Carries rollouts out. ``start`` before anything else; ``close`` ends its tasks, and loses nothing.

    Each is called once: whoever goes on later makes another engine, which knows what is stored.

    Args:
        hub: the live agents.
        storage: what lasts; a state is there before anybody sees it.
        settings: numbers.
    """

    def __init__(self, hub: Hub, storage: ServerStorage, settings: RolloutSettings | None = None) -> None:
        self.settings = settings or RolloutSettings()
        self._hub = hub
        self._storage = storage
        self.capacities = Capacities(hub, storage)
        self._parts = RolloutParts(hub, storage, self.settings, self.capacities, self._note_done)
        self._locks = ModelLocks()
        self._runs: Runs[RolloutRun, RolloutNews] = Runs(hub, "rollout", self.settings.poll_s, _news)
        # By machine and model: loop time at which a target was done last.
        self._done: dict[tuple[str, str], float] = {}
        # One change of which rollouts run at a time: a retry must not begin one twice.
        self._changing = asyncio.Lock()
        self._unheard = UnheardCommits("rollout", self.settings.poll_s, self._look_for)

    # -- lifetime -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Carry on with all rollouts that storage has as running."""
        await self._runs.start()
        async with self._changing:
            running = await self._storage.rollouts(RolloutFilter(state="running", limit=ALL))
            # The oldest first, so that who came first on a model and machine is first there again.
            found = [totals.rollout for totals in reversed(running)]
            # None that a request was the first to begin.
            runs = [await self._loaded(rollout) for rollout in found if self._runs.get(rollout.id) is None]
            for run in runs:
                run.hold_locks()
            for run in runs:
                self._runs.begin(run)

    async def close(self) -> None:
        """End all tasks; what they were at is stored, and goes on with the engine that is made next."""
        await self._unheard.close()
        await self._runs.close()

    async def _loaded(self, rollout: Rollout) -> RolloutRun:
        targets = await self._storage.rollout_targets(rollout.id)
        return self._made(rollout, targets)

    def _made(self, rollout: Rollout, targets: Sequence[RolloutTarget]) -> RolloutRun:
        return RolloutRun(self._parts, rollout, targets, self._locks, self._runs.machines)

    async def _open(self, rollout_id: str) -> RolloutRun | None:
        """A rollout that runs; or one that is stored so and was not begun, for its commit was not heard.

        ``_changing`` is held. Raises NotStored.
        """
        run = self._runs.get(rollout_id)
        if run is not None:
            return run
        rollout = await self._storage.rollout(rollout_id)
        return await self._loaded(rollout) if rollout.state == "running" else None

    def _go_on(self, run: RolloutRun) -> None:
        """Begin one that ``_open`` returned, unless it runs."""
        if self._runs.get(run.id) is None:
            log.info("rollout.taken_up", rollout=run.id)
            self._runs.begin(run)
            self._hub.events.rollout_changed(run.id)

    async def _take_up(self, rollout_id: str) -> bool:
        run = await self._open(rollout_id)
        if run is not None:
            self._go_on(run)
        return run is not None

    async def _look_for(self, rollout_id: str) -> bool:
        async with self._changing:
            run = self._runs.get(rollout_id)
            if run is None:
                return await self._take_up(rollout_id)
            await run.renew()
            # Whether what was changed is there, nobody knows: it is looked at until nothing more can come.
            return False

    # -- what people ask ------------------------------------------------------------------------------

    async def create(self, rollout: Rollout, targets: Sequence[RolloutTarget]) -> tuple[Rollout, bool]:
        """Store a rollout and begin with it; one whose ``key`` is known is that one, and nothing begins.

        One that is stored without this having heard of it is begun when it is found; see ``UnheardCommits``.

        Returns:
            The rollout, and whether it is new.

        Raises:
            TooManyRollouts: all that are kept still run.
        """
        async with self._changing:
            run = self._made(rollout, targets)
            with self._unheard.watch(rollout.id):
                stored = await self._storage.create_rollout(rollout, targets)
            if stored.id != rollout.id:
                if stored.state == "running":
                    await self._take_up(stored.id)
                return stored, False
            self._runs.begin(run)
        log.info(
            "rollout.created",
            rollout=rollout.id,
            action=rollout.action,
            model=rollout.model,
            targets=len(targets),
            operator=rollout.created_by,
        )
        self._hub.events.rollout_changed(rollout.id)
        return rollout, True

    async def get(self, rollout_id: str) -> tuple[Rollout, list[RolloutTarget]]:
        """A rollout and its targets. Raises NotStored."""
        run = self._runs.get(rollout_id)
        if run is not None:
            return run.rollout, list(run.targets.values())
        rollout = await self._storage.rollout(rollout_id)
        return rollout, list(await self._storage.rollout_targets(rollout_id))

    async def find(self, which: RolloutFilter) -> Sequence[RolloutTotals]:
        """Rollouts that pass a filter, the newest first."""
        return await self._storage.rollouts(which)

    async def cancel(self, rollout_id: str, agent_ids: Collection[str] | None) -> None:
        """Cancel what has not ended of a rollout, on all machines or on those named. Raises NotStored."""
        self._runs.check()
        run = self._runs.get(rollout_id)
        if run is not None:
            with self._unheard.watch(rollout_id):
                await run.cancel(agent_ids)
            return
        async with self._changing:
            run = await self._open(rollout_id)
            if run is not None:
                # Before it begins, so that no machine is asked for anything.
                await run.cancel(agent_ids)
                self._go_on(run)

    async def retry(self, rollout_id: str, agent_ids: Collection[str] | None) -> None:
        """Begin again where a rollout did not succeed, everywhere or on those named. Raises NotStored."""
        self._runs.check()
        while True:
            async with self._changing:
                run = self._runs.get(rollout_id)
                if run is None:
                    run = await self._loaded(await self._storage.rollout(rollout_id))
                    with self._unheard.watch(rollout_id):
                        await run.retry(agent_ids)
                    if run.rollout.state == "running":
                        self._runs.begin(run)
                    return
                with self._unheard.watch(rollout_id):
                    if await run.retry(agent_ids):
                        return
            # It has just ended; its task is about to. Then it is loaded and begun as any other.
            await self._runs.ended(rollout_id)

    async def delete(self, rollout_id: str) -> None:
        """Forget a rollout that has ended. Raises NotStored, RolloutOpen."""
        self._runs.check()
        async with self._changing:
            rollout = await self._storage.rollout(rollout_id)
            if rollout.state == "running" or self._runs.get(rollout_id) is not None:
                raise RolloutOpen(f"Rollout {rollout_id} has not ended: cancel it first.")
            await self._storage.delete_rollout(rollout_id)
        self._runs.keep_news(rollout_id, None)
        self._hub.events.rollout_changed(rollout_id)

    def take_news(self, rollout_id: str) -> RolloutNews | None:
        """Return a rollout with what changed since the last call; None for one that was deleted.

        Raises:
            KeyError: there is nothing new of it.
        """
        return self._runs.take_news(rollout_id)

    def running(self) -> list[tuple[Rollout, list[RolloutTarget]]]:
        """Return all rollouts that run, with their targets."""
        return [(run.rollout, list(run.targets.values())) for run in self._runs]

    def under_way(self) -> frozenset[tuple[str, str]]:
        """Machines and models on which something is wanted, at work, or was done a moment ago.

        A machine lists its models some seconds after a change; until then it seems not to have it.
        """
        recent = asyncio.get_running_loop().time() - LISTED_WITHIN_S
        self._done = {key: at for key, at in self._done.items() if at > recent}
        at_work = {
            (target.agent_id, model_key(run.rollout.destination or run.rollout.model))
            for run in self._runs
            for target in run.targets.values()
            if not target.ended
        }
        return frozenset(at_work | self._done.keys())

    def _note_done(self, agent_id: str, key: str) -> None:
        self._done[agent_id, key] = asyncio.get_running_loop().time()


def _news(run: RolloutRun) -> RolloutNews:
    return RolloutNews(run.rollout, list(run.targets.values()), run.targets.take_changed())
