"""The lists of OBT's own interface, made of what agents reported: clients, and a client's models.

A client's id is the agent's name, as an owner of OBT's own client chooses it; the agent's id is taken, too.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Container, Iterable
from datetime import datetime

import msgspec
from fastapi import APIRouter

from obt_agent.hardware.inventory import Inventory
from obt_agent.hardware.legacy import LegacyHardwareInfo, legacy_hardware_info
from obt_agent.ollama.payloads import InstalledModel
from obt_server.hub import AgentRecord
from obt_server.rest import responses
from obt_server.rest.context import Context, api_router
from obt_server.storage import Hardware, ModelVersion

_UNKNOWN_MACHINE = Inventory(fingerprint="", collected_at=0.0)


class LegacyModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model as OBT's own interface lists it."""

    name: str
    tags: list[str]
    size: int
    modified: int
    version: str
    digest: str


class LegacyClientHardware(LegacyHardwareInfo, frozen=True, kw_only=True):
    """OBT's ``HardwareInfo``, and what its page reads beside it; ``gpu_memory`` in MB."""

    cpu_threads: int
    gpu_count: int
    gpu_name: str | None
    gpu_memory: int | None


class LegacyClient(msgspec.Struct, frozen=True, kw_only=True):
    """A client as OBT's own interface lists it; ``last_heartbeat`` in seconds ago.

    What is not known of its hardware is 0 or "unknown" there, as OBT's page reads it without looking.
    """

    id: str
    name: str
    version: str
    available: bool
    model_count: int
    models: list[LegacyModel]
    hardware: LegacyClientHardware
    last_heartbeat: float
    missed_heartbeats: int


def routes(context: Context) -> APIRouter:
    """The routes. The list of models without a slash is in ``models``: it is a list of this server's own."""
    router = api_router(context, "OBT's own interface", responses.AGENT)

    @router.get(
        "/models/clients", summary="Agents whose Ollama answers, as OBT's own interface shows clients"
    )
    async def clients() -> list[LegacyClient]:
        return await legacy_clients(context)

    @router.get("/models/", summary="Models of a client (name or id), as OBT's own interface shows them")
    async def client_models(client_id: str | None = None) -> list[LegacyModel]:
        agent_id = None if client_id is None else (await context.hub.find(client_id)).id
        return await legacy_models(context, agent_id)

    return router


def client_ids(agents: Iterable[AgentRecord], taken: Container[str] = ()) -> dict[str, str]:
    """Return the id under which OBT's interface shows each agent: its name, where nobody else goes by it.

    Args:
        agents: all of them.
        taken: ids of clients that are no agents.
    """
    agents = tuple(agents)
    # An id counts as well: who takes another's id as its name must not be asked in its place.
    times = Counter(word for agent in agents for word in {agent.id, agent.name})
    return {
        agent.id: agent.name if times[agent.name] == 1 and agent.name not in taken else agent.id
        for agent in agents
    }


async def legacy_clients(context: Context, taken: Container[str] = ()) -> list[LegacyClient]:
    """Return the agents that could answer a prompt now, as clients: connected, and their Ollama answers."""
    records = await context.hub.directory.current()
    shown = client_ids(records.values(), taken)
    return [
        await _client(context, record, shown[record.id])
        for record in records.values()
        if _is_healthy(context, record.id)
    ]


def _is_healthy(context: Context, agent_id: str) -> bool:
    presence = context.hub.presence(agent_id)
    return presence is not None and presence.ollama is not None and presence.ollama.reachable


async def _client(context: Context, agent: AgentRecord, client_id: str) -> LegacyClient:
    models = await legacy_models(context, agent.id)
    return LegacyClient(
        id=client_id,
        name=agent.name,
        version=agent.version,
        available=True,
        model_count=len(models),
        models=models,
        hardware=legacy_hardware(await context.storage.hardware(agent.id)),
        # It may have left since it was looked at: then it was heard just now.
        last_heartbeat=context.hub.heard_ago_s(agent.id) or 0.0,
        missed_heartbeats=0,
    )


async def legacy_models(context: Context, agent_id: str | None) -> list[LegacyModel]:
    """Return an agent's models as OBT lists them; all agents' without one."""
    versions = await context.storage.versions(agent_id=agent_id)
    return [_model(version) for version in versions if version.current]


def _model(version: ModelVersion) -> LegacyModel:
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


def legacy_hardware(hardware: Hardware | None) -> LegacyClientHardware:
    """Return OBT's form of an inventory; of one that did not come, or cannot be read, what is unknown."""
    info = legacy_hardware_info(_UNKNOWN_MACHINE)
    if hardware is not None:
        # A clock of 10^400 Hz, or a newer agent's form, is no reason to fail for all agents.
        with contextlib.suppress(msgspec.MsgspecError, OverflowError):
            info = legacy_hardware_info(msgspec.json.decode(hardware.inventory, type=Inventory))
    first = info.gpus[0] if info.gpus else None
    return LegacyClientHardware(
        **msgspec.structs.asdict(info),
        cpu_threads=info.cpu.threads,
        gpu_count=len(info.gpus),
        gpu_name=None if first is None else first.name,
        gpu_memory=None if first is None else first.vram_size,
    )


def _epoch(text: str | None) -> int:
    """Unix seconds of an RFC 3339 time; 0, as OBT's integers may not be null, where it is not known."""
    try:
        return int(datetime.fromisoformat(text or "").timestamp())
    except ValueError:
        return 0
