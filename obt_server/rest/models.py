"""Models across machines: a model's version is its digest, and machines drift apart."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, cast

import msgspec
from fastapi import APIRouter, Query

from obt_server.rest import responses
from obt_server.rest.context import Context, api_router
from obt_server.rest.obt_interface import legacy_models
from obt_server.storage import ModelVersion


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


def routes(context: Context) -> APIRouter:
    """The routes."""
    router = api_router(context, "models", responses.AGENT)
    hub, storage = context.hub, context.storage

    @router.get("/models", summary="Every model name, with the digests and machines that have it")
    async def models(
        name: str | None = None,
        client_id: Annotated[str | None, Query(include_in_schema=False)] = None,
        *,
        drifted: bool = False,
    ) -> list[NameView]:
        # OBT's page leaves the slash out, and its own server redirects it to the list of one client's models.
        if context.legacy and client_id is not None:
            found = await hub.find(client_id)
            return cast("list[NameView]", await legacy_models(context, found.id))
        # Names from memory: the join over all versions would cost more than both lists.
        names = {agent.id: agent.name for agent in (await hub.directory.current()).values()}
        # Without details: they are by far the most of what is stored, and this list shows none.
        versions = await storage.versions(name=name, details=False)
        views = await asyncio.to_thread(by_name, versions, names)  # ten thousand of them take a while
        return [view for view in views if view.drifted or not drifted]

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
