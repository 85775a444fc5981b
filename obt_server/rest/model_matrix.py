"""Models by machines: what each has, what its owner allows, what fits; and the history of changes."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query

from obt_server.hub.storage import AgentRecord
from obt_server.rest import responses
from obt_server.rest.context import Context, api_router
from obt_server.rollout_storage import ChangeFilter, ModelChange, model_key
from obt_server.rollouts.fleet_models import Capacity, InstalledVersion, usual_digests
from obt_server.rollouts.permissions import Permissions, permissions
from obt_server.rollouts.selection import labels_of


class MatrixAgent(msgspec.Struct, frozen=True, kw_only=True):
    """A column: a machine. ``allowed`` is null for one that never said; bytes that are not known are null.

    ``free_bytes`` is of the disk that holds Ollama's models.
    """

    id: str
    name: str
    presence: Literal["online", "offline"]
    labels: list[str]
    allowed: Permissions | None
    free_bytes: int | None
    vram_bytes: int | None
    ram_bytes: int | None


class MatrixCell(msgspec.Struct, frozen=True, kw_only=True):
    """A model on a machine. ``drift``: it has another version than most machines that have the model.

    ``name`` is as that machine's Ollama shows it. ``loaded`` is false for a machine that is offline.
    """

    agent_id: str
    name: str
    digest: str
    size_bytes: int
    quantization: str | None
    loaded: bool
    drift: bool
    last_seen: float


class MatrixModel(msgspec.Struct, frozen=True, kw_only=True):
    """A row: a model. The name, sizes and the rest are those of the version that most machines have.

    ``key`` is the name in lower case, without a default registry: equal for all spellings of one model.
    """

    key: str
    name: str
    drifted: bool
    digests: list[str]
    usual_digest: str
    size_bytes: int
    quantization: str | None
    parameter_size: str | None
    context_length: int | None
    family: str | None
    capabilities: tuple[str, ...]
    remote: bool
    cells: list[MatrixCell]


class ModelMatrix(msgspec.Struct, frozen=True, kw_only=True):
    """All machines, and all models that one of them has."""

    agents: list[MatrixAgent]
    models: list[MatrixModel]


class ChangedBy(msgspec.Struct, frozen=True, kw_only=True):
    """Who changed a model. All null: it was done at the machine."""

    rollout_id: str | None
    set: str | None
    operator: str | None


class ModelChangeView(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a model on a machine; a null digest: the model was not there. ``at`` is Unix seconds."""

    id: int
    at: float
    agent_id: str
    agent_name: str
    name: str
    digest_before: str | None
    digest_after: str | None
    by: ChangedBy


def routes(context: Context) -> APIRouter:
    """The routes. Before those of single models, whose paths take every word."""
    router = api_router(context, "models", responses.AGENT)
    hub, storage = context.hub, context.storage

    @router.get(
        "/models/matrix", summary="Every model on every machine, what is allowed there, and what fits"
    )
    async def whole() -> ModelMatrix:
        records = await hub.directory.current()
        known = await context.fleet_models.current()
        capacities = await context.rollouts.capacities.of(list(records.values()))
        columns = [_column(record, context, capacities[record.id]) for record in records.values()]
        loaded = {one.id: _loaded(context, one.id) for one in columns}
        # Twenty models of a thousand machines take a while.
        return ModelMatrix(agents=columns, models=await asyncio.to_thread(rows, known.cells, loaded))

    @router.get("/models/changes", summary="What changed on which machine, and who did it, the newest first")
    async def changes(
        agent: str | None = None,
        name: str | None = None,
        before: Annotated[int | None, Query(description="only changes with a smaller id")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[ModelChangeView]:
        agent_id = None if agent is None else (await hub.find(agent)).id
        key = None if name is None else model_key(name)
        which = ChangeFilter(agent_id=agent_id, name=key, before=before, limit=limit)
        names = {record.id: record.name for record in (await hub.directory.current()).values()}
        return [_change(one, names) for one in await storage.model_changes(which)]

    return router


def _column(record: AgentRecord, context: Context, capacity: Capacity) -> MatrixAgent:
    return MatrixAgent(
        id=record.id,
        name=record.name,
        presence="offline" if context.hub.presence(record.id) is None else "online",
        labels=sorted(labels_of(record)),
        allowed=permissions(record.capabilities),
        free_bytes=capacity.free_bytes,
        vram_bytes=capacity.vram_bytes,
        ram_bytes=capacity.ram_bytes,
    )


def _loaded(context: Context, agent_id: str) -> frozenset[str]:
    presence = context.hub.presence(agent_id)
    if presence is None:
        return frozenset()
    beat = presence.heartbeat
    # The heartbeat's list is newer, and the first sync comes before any.
    names = [model.name for model in presence.running] if beat is None else beat.loaded
    return frozenset(map(model_key, names))


def rows(cells: Sequence[InstalledVersion], loaded: Mapping[str, frozenset[str]]) -> list[MatrixModel]:
    """Return the rows of the matrix, by name."""
    usual = usual_digests(cells)
    groups: dict[str, list[InstalledVersion]] = defaultdict(list)
    for cell in cells:
        groups[cell.key].append(cell)
    return [_row(key, group, usual[key], loaded) for key, group in sorted(groups.items())]


def _row(
    key: str, group: Sequence[InstalledVersion], usual: str, loaded: Mapping[str, frozenset[str]]
) -> MatrixModel:
    typical = next(cell for cell in group if cell.digest == usual)
    digests = sorted({cell.digest for cell in group})
    return MatrixModel(
        key=key,
        name=typical.name,
        drifted=len(digests) > 1,
        digests=digests,
        usual_digest=usual,
        size_bytes=typical.details.size_bytes,
        quantization=typical.details.quantization_level,
        parameter_size=typical.details.parameter_size,
        context_length=typical.details.context_length,
        family=typical.details.family,
        capabilities=typical.details.capabilities,
        remote=typical.details.remote_model is not None,
        cells=[
            MatrixCell(
                agent_id=cell.agent_id,
                name=cell.name,
                digest=cell.digest,
                size_bytes=cell.details.size_bytes,
                quantization=cell.details.quantization_level,
                loaded=key in loaded.get(cell.agent_id, frozenset()),
                drift=cell.digest != usual,
                last_seen=cell.last_seen,
            )
            for cell in group
        ],
    )


def _change(change: ModelChange, names: Mapping[str, str]) -> ModelChangeView:
    return ModelChangeView(
        id=change.id,
        at=change.at,
        agent_id=change.agent_id,
        agent_name=names.get(change.agent_id, ""),
        name=change.name,
        digest_before=change.digest_before,
        digest_after=change.digest_after,
        by=ChangedBy(rollout_id=change.rollout_id, set=change.model_set, operator=change.operator),
    )
