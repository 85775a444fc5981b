"""What model sets want and what machines have: the difference, and what would close it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from obt_server.hub.storage import AgentRecord
from obt_server.rollout_storage import ModelSet, WantedModel, model_key
from obt_server.rollouts.fleet_models import Capacity, InstalledVersion
from obt_server.rollouts.preview import FleetView
from obt_server.rollouts.selection import labels_of, with_labels


class OtherDigest(msgspec.Struct, frozen=True, kw_only=True):
    """A model of which a machine has another version than it should, or than the set's other machines."""

    name: str
    wanted: str | None
    has: str


class SetConflict(msgspec.Struct, frozen=True, kw_only=True):
    """A model of which several sets want different versions on one machine: nothing is done about it."""

    name: str
    sets: list[str]


class MachineDrift(msgspec.Struct, frozen=True, kw_only=True):
    """A machine's difference from a set. ``extra`` is filled for sets that prune."""

    agent_id: str
    agent_name: str
    online: bool
    missing: list[str]
    different: list[OtherDigest]
    extra: list[str]
    conflicts: list[SetConflict]


class DriftReport(msgspec.Struct, frozen=True, kw_only=True):
    """The differences of all machines of a set; ``in_sync``: there is none."""

    name: str
    in_sync: bool
    agents: list[MachineDrift]
    conflicts: list[SetConflict]


class PlannedStep(msgspec.Struct, frozen=True, kw_only=True):
    """What converging would do on a machine."""

    agent_id: str
    agent_name: str
    online: bool
    action: Literal["pull", "delete"]
    model: str
    digest: str | None
    bytes: int | None
    free_bytes: int | None
    reason: str | None


@dataclass
class _Wishes:
    """Of one model on one machine: by digest (None: any), the sets that want it."""

    sets: dict[str | None, list[str]] = field(default_factory=dict)

    @property
    def conflict(self) -> bool:
        """Whether two sets want different versions."""
        return len([digest for digest in self.sets if digest is not None]) > 1

    @property
    def digest(self) -> str | None:
        """The version that is wanted, where one is."""
        return next((digest for digest in self.sets if digest is not None), None)

    @property
    def names(self) -> list[str]:
        """The sets that want it."""
        return sorted(name for names in self.sets.values() for name in names)


Wanted = Mapping[str, _Wishes]


def wanted_on(record: AgentRecord, sets: Sequence[ModelSet]) -> dict[str, _Wishes]:
    """What all sets together want on a machine, by model."""
    labels = labels_of(record)
    wishes: dict[str, _Wishes] = {}
    for one in sets:
        if labels & frozenset(one.labels):
            for model in one.models:
                of_model = wishes.setdefault(model_key(model.name), _Wishes())
                of_model.sets.setdefault(model.digest, []).append(one.name)
    return wishes


def report(
    which: ModelSet, sets: Sequence[ModelSet], records: Sequence[AgentRecord], view: FleetView
) -> DriftReport:
    """Return how the machines of a set differ from it."""
    mine = with_labels(records, which.labels)
    usual = _usual(which, mine, view)
    agents = [_machine(which, record, wanted_on(record, sets), usual, view) for record in mine]
    conflicts: dict[str, set[str]] = {}
    for agent in agents:
        for conflict in agent.conflicts:
            conflicts.setdefault(conflict.name, set()).update(conflict.sets)
    differs = [one for one in agents if one.missing or one.different or one.extra or one.conflicts]
    return DriftReport(
        name=which.name,
        in_sync=not differs,
        agents=agents,
        conflicts=[SetConflict(name=name, sets=sorted(found)) for name, found in sorted(conflicts.items())],
    )


def _usual(which: ModelSet, mine: Sequence[AgentRecord], view: FleetView) -> dict[str, str]:
    """Of models that the set wants in any version: the newest that one of its machines has.

    A registry's name may mean another version since: who pulled last has it, and the others differ from it.
    """
    newest: dict[str, tuple[float, str]] = {}
    for record in mine:
        for model in which.models:
            cell = view.models.get(record.id, {}).get(model_key(model.name))
            if cell is not None:
                found = cell.first_seen, cell.digest
                newest[cell.key] = max(found, newest.get(cell.key, found))
    return {key: digest for key, (_, digest) in newest.items()}


def _machine(
    which: ModelSet,
    record: AgentRecord,
    wishes: Mapping[str, _Wishes],
    usual: Mapping[str, str],
    view: FleetView,
) -> MachineDrift:
    has = view.models.get(record.id, {})
    missing: list[str] = []
    different: list[OtherDigest] = []
    conflicts: list[SetConflict] = []
    for model in which.models:
        key = model_key(model.name)
        wish, here = wishes[key], has.get(key)
        if wish.conflict:
            conflicts.append(SetConflict(name=model.name, sets=wish.names))
        elif here is None:
            missing.append(model.name)
        elif (wish.digest or usual.get(key, here.digest)) != here.digest:
            different.append(OtherDigest(name=model.name, wanted=wish.digest, has=here.digest))
    extra = [cell.name for key, cell in sorted(has.items()) if key not in wishes] if which.prune else []
    return MachineDrift(
        agent_id=record.id,
        agent_name=record.name,
        online=record.id in view.online,
        missing=missing,
        different=different,
        extra=extra,
        conflicts=conflicts,
    )


def plan(which: ModelSet, drift: DriftReport, view: FleetView, *, update: bool) -> list[PlannedStep]:
    """Return what would close the differences, without those of a conflict.

    ``update``: also pull what is there in another version than other machines have, where the set names none.
    A version that the set names is pulled in any case.
    """
    steps: list[PlannedStep] = []
    models = {model.name: model for model in which.models}
    for agent in drift.agents:
        pulls = [*agent.missing, *(one.name for one in agent.different if update or one.wanted is not None)]
        steps += [_pull(agent, models[name], view) for name in pulls]
        steps += [_step(agent, "delete", name, None, None, view) for name in agent.extra]
    return steps


def _pull(agent: MachineDrift, model: WantedModel, view: FleetView) -> PlannedStep:
    size = view.sizes.get(model.digest or "") or view.sizes.get(model_key(model.name))
    return _step(agent, "pull", model.name, model.digest, size, view)


def _step(
    agent: MachineDrift,
    action: Literal["pull", "delete"],
    model: str,
    digest: str | None,
    size: int | None,
    view: FleetView,
) -> PlannedStep:
    cell: InstalledVersion | None = view.models.get(agent.agent_id, {}).get(model_key(model))
    if action == "delete" and cell is not None:
        size = cell.details.size_bytes
    free = view.capacities.get(agent.agent_id, Capacity()).free_bytes
    reason = None
    if not agent.online:
        reason = "The machine is offline."
    elif action == "pull" and size is not None and free is not None and size > free:
        reason = "Its disk has too little room."
    return PlannedStep(
        agent_id=agent.agent_id,
        agent_name=agent.agent_name,
        online=agent.online,
        action=action,
        model=model,
        digest=digest,
        bytes=size,
        free_bytes=free,
        reason=reason,
    )
