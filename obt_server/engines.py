"""What acts by itself: rollouts, campaigns, schedules, and model sets that converge.

A *term* is the time in which this process may act. Each has engines of its own, which know what is stored and
nothing of an earlier term; so what another process did in between is never overwritten from memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from obt_server.campaigns import CampaignEngine, CampaignSettings
from obt_server.campaigns.evaluation import Evaluation, OnRegression
from obt_server.campaigns.schedules import Schedules
from obt_server.hub import Hub
from obt_server.result_index import ResultIndex
from obt_server.rollouts import RolloutEngine, RolloutSettings
from obt_server.rollouts.fleet_models import FleetModels
from obt_server.rollouts.sets import ModelSets
from obt_server.saved_plans import NamedPlans
from obt_server.storage import ServerStorage
from obt_server.tasks import end_tasks, every


@dataclass(frozen=True, kw_only=True)
class EngineParts:
    """What engines of all terms share. ``on_regression`` is called with each that is new or changed."""

    plans: NamedPlans
    results: ResultIndex
    models: FleetModels
    rollout_settings: RolloutSettings
    campaign_settings: CampaignSettings
    on_regression: OnRegression


class Engines:
    """The engines of one term. Without ``start`` they answer what is stored, and refuse to change it.

    Args:
        parts: what they share with those of other terms.
        hub: the live agents.
        storage: what lasts; all that they write goes through it.
    """

    def __init__(self, parts: EngineParts, hub: Hub, storage: ServerStorage) -> None:
        self.rollouts = RolloutEngine(hub, storage, parts.rollout_settings)
        """What carries rollouts out."""
        self.campaigns = CampaignEngine(
            hub, storage, self.rollouts, parts.plans, parts.results, parts.campaign_settings
        )
        """What carries campaigns out."""
        self.evaluation = Evaluation(storage, parts.results, parts.on_regression)
        """What compares campaigns with their baselines."""
        self.campaigns.judge = self.evaluation.judge
        self.model_sets = ModelSets(hub, storage, self.rollouts, parts.models)
        """Model sets against what machines have."""
        self.schedules = Schedules(storage, self.campaigns)
        """What begins campaigns at their times."""
        self.running = False
        """Whether they have begun, and have not been ended."""
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Carry on with all that is stored as running; called once."""
        await self.rollouts.start()
        await self.campaigns.start()
        converge_every_s = self.rollouts.settings.converge_every_s
        self._tasks = [
            every(converge_every_s, self.model_sets.converge_automatically, "converge model sets"),
            asyncio.create_task(self.schedules.run(), name="schedules"),
        ]
        self.running = True

    async def close(self) -> None:
        """End all tasks. What they were at is stored, and goes on with the next term, here or elsewhere."""
        self.running = False
        # What begins something before what carries it out.
        await end_tasks(self._tasks)
        await self.campaigns.close()
        await self.rollouts.close()


class EngineTerms:
    """The engines of now: those of a term, or between two terms such as nobody started.

    Args:
        make: makes engines on a hub and a storage.
        hub: the live agents.
        storage: where they read between terms.
    """

    def __init__(
        self, make: Callable[[Hub, ServerStorage], Engines], hub: Hub, storage: ServerStorage
    ) -> None:
        self._make = make
        self._hub = hub
        self._storage = storage
        self.now = make(hub, storage)
        """The engines to ask; other ones after each beginning and end of a term."""

    @contextlib.asynccontextmanager
    async def term(self, hub: Hub | None = None, storage: ServerStorage | None = None) -> AsyncIterator[None]:
        """Run engines for as long as the context lasts.

        Args:
            hub: by which they ask agents; the hub of always where it is omitted.
            storage: what they write through; likewise.
        """
        engines = self.now = self._make(hub or self._hub, storage or self._storage)
        try:
            await engines.start()
            yield
        finally:
            # First: who asks from here on is told what is stored, and not what ends.
            self.now = self._make(self._hub, self._storage)
            await engines.close()
