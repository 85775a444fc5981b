"""Models across machines: a model's version is its digest, and machines drift apart."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime

import msgspec
from fastapi import APIRouter

from obt_agent.hardware.inventory import Inventory
from obt_agent.hardware.legacy import LegacyHardwareInfo, legacy_hardware_info
from obt_agent.ollama.payloads import InstalledModel
from obt_server.rest import responses
from obt_server.rest.context import Context, api_router
from obt_server.storage import Hardware, ModelVersion


class DigestOnAgent(msgspec.Struct, frozen=True, kw_only=True):
    """A digest on one agent."""

    agent_id: str
    agent_name: str
    digest: str
    current: bool
    first_seen: float
    last_seen: float


class NameView(msgspec.Struct, frozen=True, kw_only=True):
    """A model's name with every digest seen under it. ``drifted``: machines have different ones now."""

    name: str
    drifted: bool
    digests: list[str]
    versions: list[DigestOnAgent]


class LegacyModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model as OBT's own interface lists it."""

    name: str
    tags: list[str]
    size: int
    modified: int
    version: str
    digest: str


class LegacyClient(msgspec.Struct, frozen=True, kw_only=True):
    """A client as OBT's own interface lists it; ``hardware`` is OBT's ``HardwareInfo`` where it is known."""

    id: str
    version: str
    available: bool
    model_count: int
    hardware: LegacyHardwareInfo | None
    last_heartbeat: float | None
    missed_heartbeats: int


def routes(context: Context) -> APIRouter:
    """The routes; those of OBT's own interface last."""
    router = api_router(context, "models", responses.AGENT)
    hub, storage = context.hub, context.storage

    @router.get("/models", summary="Every model name, with the digests and machines that have it")
    async def models(name: str | None = None, *, drifted: bool = False) -> list[NameView]:
        # Names from memory: the join over all versions would cost more than both lists.
        names = {agent.id: agent.name for agent in (await hub.directory.current()).values()}
        # Without details: they are by far the most of what is stored, and this list shows none.
        versions = await storage.versions(name=name, details=False)
        views = await asyncio.to_thread(by_name, versions, names)  # ten thousand of them take a while
        return [view for view in views if view.drifted or not drifted]

    legacy = api_router(context, "OBT's own interface", responses.AGENT)

    @legacy.get("/models/clients", summary="Agents, as OBT's own interface shows clients")
    async def clients() -> list[LegacyClient]:
        views = []
        versions = await storage.versions(details=False)
        # One pass over all versions instead of a query for each machine.
        counts = Counter(version.agent_id for version in versions if version.current)
        for agent in await storage.agents():
            presence = hub.presence(agent.id)
            heard = hub.heard_ago_s(agent.id)
            views.append(
                LegacyClient(
                    id=agent.id,
                    version=agent.version,
                    available=presence is not None,
                    model_count=counts[agent.id],
                    hardware=_legacy_hardware(await storage.hardware(agent.id)),
                    last_heartbeat=heard if presence is not None else None,
                    missed_heartbeats=0,
                )
            )
        return views

    @legacy.get(
        "/models/", summary="Models of a client (id or unique name), as OBT's own interface shows them"
    )
    async def client_models(client_id: str | None = None) -> list[LegacyModel]:
        agent_id = None if client_id is None else (await hub.find(client_id)).id
        versions = await storage.versions(agent_id=agent_id)
        return [_legacy(version) for version in versions if version.current]

    router.routes.extend(legacy.routes)
    return router


def by_name(versions: Sequence[ModelVersion], agent_names: dict[str, str]) -> list[NameView]:
    """Versions gathered under their names."""
    groups: dict[str, list[ModelVersion]] = defaultdict(list)
    for version in versions:
        groups[version.name].append(version)
    return [_name_view(name, group, agent_names) for name, group in sorted(groups.items())]


def _name_view(name: str, group: list[ModelVersion], agent_names: dict[str, str]) -> NameView:
    # Old digests do not count: a machine that was updated has not drifted from the others.
    current = {version.digest for version in group if version.current}
    return NameView(
        name=name,
        drifted=len(current) > 1,
        digests=sorted({version.digest for version in group}),
        versions=[
            DigestOnAgent(
                agent_id=version.agent_id,
                agent_name=agent_names.get(version.agent_id, ""),
                digest=version.digest,
                current=version.current,
                first_seen=version.first_seen,
                last_seen=version.last_seen,
            )
            for version in group
        ],
    )


def _legacy(version: ModelVersion) -> LegacyModel:
    details = msgspec.json.decode(version.details, type=InstalledModel)
    # From the right: the name of a registry may hold a port.
    _, _, tag = version.name.rpartition(":")
    return LegacyModel(
        name=version.name,
        tags=[tag] if ":" in version.name else [],
        size=details.size_bytes,
        modified=_epoch(details.modified_at),
        version=version.digest[:12],
        digest=version.digest,
    )


def _legacy_hardware(hardware: Hardware | None) -> LegacyHardwareInfo | None:
    """OBT's ``HardwareInfo``; None where no inventory came, or one that this release cannot read."""
    if hardware is None:
        return None
    try:
        return legacy_hardware_info(msgspec.json.decode(hardware.inventory, type=Inventory))
    except (msgspec.MsgspecError, OverflowError):  # a clock of 10^400 Hz is no reason to fail for all agents
        return None


def _epoch(text: str | None) -> int:
    """Unix seconds of an RFC 3339 time; 0, as OBT's integers may not be null, where it is not known."""
    try:
        return int(datetime.fromisoformat(text or "").timestamp())
    except ValueError:
        return 0
