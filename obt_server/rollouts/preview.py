"""What a rollout would do on each machine, from what is known here; nothing is asked or sent. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from obt_server.hub.storage import AgentRecord
from obt_server.rollout_storage import Rollout, model_key
from obt_server.rollouts.fleet_models import Capacity, InstalledVersion
from obt_server.rollouts.permissions import permission

Would = Literal[
    "pull", "update?", "nothing", "create", "copy", "delete", "load", "unload", "wait", "skip", "refused"
]
"""``update?``: the machine has the model, and the registry decides whether there is a newer one."""


class TargetPreview(msgspec.Struct, frozen=True, kw_only=True):
    """What would happen on a machine. ``bytes``: of the model, where another machine has it."""

    agent_id: str
    agent_name: str
    online: bool
    would: Would
    reason: str | None = None
    bytes: int | None = None
    free_bytes: int | None = None


@dataclass(frozen=True)
class FleetView:
    """What is known of all machines."""

    online: frozenset[str]
    models: Mapping[str, Mapping[str, InstalledVersion]]
    """By machine and model."""
    loaded: Mapping[str, frozenset[str]]
    """By machine, the models that are in memory."""
    sizes: Mapping[str, int]
    """By model and by digest."""
    capacities: Mapping[str, Capacity]


def previews(rollout: Rollout, records: Sequence[AgentRecord], view: FleetView) -> list[TargetPreview]:
    """Return what would happen on each machine."""
    return [_preview(rollout, record, view) for record in records]


def _preview(rollout: Rollout, record: AgentRecord, view: FleetView) -> TargetPreview:
    online = record.id in view.online
    size = None
    if rollout.action == "pull":
        size = view.sizes.get(rollout.digest or "") or view.sizes.get(model_key(rollout.model))
    free = view.capacities.get(record.id, Capacity()).free_bytes
    would, reason = _would(rollout, record, view, size, free)
    if would not in ("nothing", "refused") and not online:
        would, reason = ("wait" if rollout.offline == "wait" else "skip"), "The machine is offline."
    return TargetPreview(
        agent_id=record.id,
        agent_name=record.name,
        online=online,
        would=would,
        reason=reason,
        bytes=size,
        free_bytes=free,
    )


def _would(
    rollout: Rollout, record: AgentRecord, view: FleetView, size: int | None, free: int | None
) -> tuple[Would, str | None]:
    allowed = permission(rollout.action, record.capabilities)
    # A machine that never said what it allows is asked.
    if record.capabilities and not allowed.allowed:
        return "refused", f"Its owner does not allow it: {allowed.remedy}."
    models = view.models.get(record.id, {})
    here = models.get(model_key(rollout.model))
    if rollout.action == "pull":
        return _would_pull(rollout, here, size, free)
    if rollout.action == "create":
        return "create", None
    if here is None:
        missing = "It does not have the model."
        return ("nothing" if rollout.action == "delete" else "refused"), missing
    loaded = model_key(rollout.model) in view.loaded.get(record.id, frozenset())
    there = models.get(model_key(rollout.destination or ""))
    done = {
        "copy": there is not None and there.digest == here.digest,
        "load": loaded,
        "unload": not loaded,
        "delete": False,
    }[rollout.action]
    return "nothing" if done else rollout.action, None


def _would_pull(
    rollout: Rollout, here: InstalledVersion | None, size: int | None, free: int | None
) -> tuple[Would, str | None]:
    if here is not None:
        if rollout.digest is not None and here.digest == rollout.digest:
            return "nothing", "It has this version."
        return "update?", None
    if size is not None and free is not None and size > free:
        return "refused", "Its disk has too little room."
    return "pull", None
