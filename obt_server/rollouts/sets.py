"""Model sets: how machines differ from them, and converging, on request and by itself."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from obt_agent.errors import AgentError, Busy, StorageFailed
from obt_server.hub import Hub
from obt_server.hub.storage import AgentRecord
from obt_server.machine_jobs.local_times import quiet_s
from obt_server.rollout_storage import ModelSet, Rollout, TooManyRollouts, model_key
from obt_server.rollouts import drift
from obt_server.rollouts.drift import DriftReport, PlannedStep
from obt_server.rollouts.engine import RolloutEngine
from obt_server.rollouts.fleet_models import FleetModels
from obt_server.rollouts.preview import FleetView
from obt_server.rollouts.requests import RolloutRequest, make
from obt_server.storage import JobFilter, NotStored, ServerStorage

log = structlog.get_logger(__name__)

ASKED_WITHIN_S: Final = 7 * 86400.0
"""How long a converge that somebody asked for waits for machines that are offline."""
AGAIN_AFTER_S: Final = 6 * 3600.0
"""Between two tries of the same step where a set converges by itself and the first did not succeed."""
_MAX_TRIED: Final = 100_000
_OPEN_STATES: Final = ("starting", "accepted", "queued", "running")


@dataclass(frozen=True)
class _FleetState:
    records: list[AgentRecord]
    sets: list[ModelSet]
    view: FleetView


class ModelSets:
    """Model sets against what machines have.

    Args:
        hub: the live agents.
        storage: where sets are.
        engine: carries out what converging takes.
        models: what machines have.
    """

    def __init__(
        self,
        hub: Hub,
        storage: ServerStorage,
        engine: RolloutEngine,
        models: FleetModels,
    ) -> None:
        self._hub = hub
        self._storage = storage
        self._engine = engine
        self._models = models
        # One converge at a time: the second of two sees what the first began.
        self._converging = asyncio.Lock()
        # By set, machine, model and version: loop time of the last try by itself.
        self._tried: dict[tuple[str, str, str, str], float] = {}

    async def view(self) -> FleetView:
        """What is known of all machines now."""
        records = await self._hub.directory.current()
        known = await self._models.current()
        return FleetView(
            online=self._hub.online(),
            models=known.by_agent,
            loaded={agent_id: self._loaded(agent_id) for agent_id in records},
            sizes=known.sizes,
            capacities=await self._engine.capacities.of(list(records.values())),
        )

    def _loaded(self, agent_id: str) -> frozenset[str]:
        presence = self._hub.presence(agent_id)
        running = () if presence is None else presence.running
        return frozenset(model_key(model.name) for model in running)

    async def _known(self) -> _FleetState:
        records = list((await self._hub.directory.current()).values())
        return _FleetState(records, list(await self._storage.model_sets()), await self.view())

    async def drift(self, name: str) -> DriftReport:
        """How the machines of a set differ from it. Raises NotStored."""
        known = await self._known()
        return drift.report(_named(known.sets, name), known.sets, known.records, known.view)

    async def preview(self, name: str, *, update: bool) -> list[PlannedStep]:
        """What converging would do now. Raises NotStored."""
        known = await self._known()
        return self._plan(_named(known.sets, name), known, update=update)

    def _plan(self, which: ModelSet, known: _FleetState, *, update: bool) -> list[PlannedStep]:
        report = drift.report(which, known.sets, known.records, known.view)
        under_way = self._engine.under_way()
        return [
            step
            for step in drift.plan(which, report, known.view, update=update)
            if (step.agent_id, model_key(step.model)) not in under_way
        ]

    async def converge(self, name: str, operator: str, *, update: bool) -> list[Rollout]:
        """Begin what makes the machines of a set like it; nothing where they are. Raises NotStored."""
        async with self._converging:
            known = await self._known()
            which = _named(known.sets, name)
            begun = []
            for request, steps in _requests(which, self._plan(which, known, update=update)):
                begun.append(await self._begin(request, steps, known, operator))
            return begun

    async def converge_automatically(self) -> None:
        """Converge the sets that do so by themselves, on machines that are here and measure nothing."""
        if not any(one.converge == "automatic" for one in await self._storage.model_sets()):
            return
        async with self._converging:
            known = await self._known()
            measuring = await self._measuring()
            for one in known.sets:
                if one.converge != "automatic" or quiet(one, dt.datetime.now(dt.UTC)):
                    continue
                steps = [
                    step
                    for step in self._plan(one, known, update=False)
                    if step.online and step.agent_id not in measuring and self._may_try(one, step)
                ]
                for request, group in _requests(one, steps):
                    await self._try(one, request, group, known)

    async def _try(
        self, which: ModelSet, request: RolloutRequest, steps: Sequence[PlannedStep], known: _FleetState
    ) -> None:
        """Begin a rollout that a set wants by itself; one that cannot begin holds up no other."""
        try:
            await self._begin(request, steps, known, f"set {which.name}")
        except AgentError as error:
            log.warning("model_set.not_begun", set=which.name, model=request.model, error=error.message)
            # What could not begin now was not tried.
            if isinstance(error, (StorageFailed, Busy, TooManyRollouts)):
                return
        self._note_try(which, steps)

    async def _measuring(self) -> frozenset[str]:
        """Machines that have a benchmark which has not ended."""
        found: set[str] = set()
        for state in _OPEN_STATES:
            jobs = await self._storage.jobs(JobFilter(kind="benchmark", state=state, limit=10_000))
            found |= {job.agent_id for job in jobs}
        return frozenset(found)

    def _may_try(self, which: ModelSet, step: PlannedStep) -> bool:
        """Whether a step was not tried a moment ago: one that fails must not fail each minute."""
        tried = self._tried.get(_step_key(which, step))
        return tried is None or asyncio.get_running_loop().time() >= tried + AGAIN_AFTER_S

    def _note_try(self, which: ModelSet, steps: Iterable[PlannedStep]) -> None:
        now = asyncio.get_running_loop().time()
        for step in steps:
            self._tried[_step_key(which, step)] = now
            if len(self._tried) > _MAX_TRIED:
                del self._tried[next(iter(self._tried))]

    async def _begin(
        self, request: RolloutRequest, steps: Sequence[PlannedStep], known: _FleetState, operator: str
    ) -> Rollout:
        by_id = {record.id: record for record in known.records}
        rollout, targets = make(request, [by_id[step.agent_id] for step in steps], operator)
        rollout, _ = await self._engine.create(rollout, targets)
        log.info("model_set.converges", set=request.model_set, rollout=rollout.id, operator=operator)
        return rollout


def _requests(
    which: ModelSet, steps: Iterable[PlannedStep]
) -> Iterator[tuple[RolloutRequest, list[PlannedStep]]]:
    """Yield the rollout of each model and action, and its steps."""
    groups: dict[tuple[str, str, str | None], list[PlannedStep]] = {}
    for step in steps:
        groups.setdefault((step.action, step.model, step.digest), []).append(step)
    for (action, model, digest), group in groups.items():
        request = RolloutRequest(
            action="pull" if action == "pull" else "delete",
            model=model,
            digest=digest,
            offline="wait",
            until=time.time() + ASKED_WITHIN_S,
            model_set=which.name,
        )
        yield request, group


def _step_key(which: ModelSet, step: PlannedStep) -> tuple[str, str, str, str]:
    return which.name, step.agent_id, model_key(step.model), f"{step.action} {step.digest}"


def _named(sets: Sequence[ModelSet], name: str) -> ModelSet:
    found = next((one for one in sets if one.name == name), None)
    if found is None:
        raise NotStored(f"There is no model set {name[:64]!r}.")
    return found


def quiet(which: ModelSet, now: dt.datetime) -> bool:
    """Whether it is one of the set's quiet hours."""
    if which.quiet_hours is None:
        return False
    return quiet_s(which.quiet_hours, which.time_zone, now) > 0
