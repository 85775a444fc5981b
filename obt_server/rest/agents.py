"""Agents, their hardware, and the news of everything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, cast

import msgspec
import structlog
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from obt_agent.labels import LABEL_RULE, MAX_LABELS, Labels
from obt_agent.protocol import codec
from obt_server.hub.shared_series import Viewer
from obt_server.rest import audit, responses
from obt_server.rest.context import Context, api_router, now
from obt_server.rest.sse import EventStream, after_first, event, event_of_text
from obt_server.rest.views import AgentView, HardwareView, ModelView, agent_view, model_view

log = structlog.get_logger(__name__)


class AgentLabels(BaseModel):
    """The labels that operators give an agent: all of them."""

    labels: Annotated[list[str], Field(max_length=MAX_LABELS, description=LABEL_RULE)]


class AgentName(BaseModel):
    """An operator's name for an agent."""

    name: Annotated[str | None, Field(min_length=1, max_length=150, pattern="^[^/]+$")]


def routes(context: Context) -> APIRouter:
    """Return the routes."""
    router = api_router(context, "agents", responses.AGENT)
    _agents(router, context)
    _reported(router, context)
    _streams(router, context)
    return router


def _agents(router: APIRouter, context: Context) -> None:
    hub, storage = context.hub, context.storage

    @router.get("/agents", summary="All enrolled agents, with presence")
    async def agents() -> list[AgentView]:
        # Each is encoded already, once for all who ask; the cast describes it to OpenAPI.
        return cast("list[AgentView]", await context.fleet.views())

    @router.get("/agents/{agent}", summary="One agent, by id or unique name")
    async def one(agent: str) -> AgentView:
        return agent_view(hub, await hub.find(agent))

    @router.patch("/agents/{agent}", summary="Give an agent a name; null lets it choose its own again")
    async def rename(agent: str, body: AgentName) -> AgentView:
        found = await storage.rename_agent((await hub.find(agent)).id, body.name)
        audit.note(found.id)
        # Every open page learns of it by this: a name or a label is in no heartbeat.
        hub.directory.changed(found.id)
        return agent_view(hub, found)

    @router.put("/agents/{agent}/labels", summary="Replace the labels that operators gave an agent")
    async def label(agent: str, body: AgentLabels) -> AgentView:
        # Checked by the type that an agent's own labels have, so that both are the same words.
        given = codec.convert(msgspec.json.encode(body.labels), Labels, where="body.labels")
        labels = tuple(sorted(set(given)))
        found = await storage.label_agent((await hub.find(agent)).id, labels)
        # For whoever wonders later why a group has changed.
        audit.note(found.id, labels=", ".join(labels))
        hub.directory.changed(found.id)
        return agent_view(hub, found)

    @router.delete("/agents/{agent}", status_code=204, summary="Forget an agent and end its session")
    async def remove(agent: str) -> None:
        found = await hub.find(agent)
        audit.note(found.id)
        # What it reported goes a little at a time: it would go on to report. Locked out first, for an agent
        # whose session ends dials again.
        await storage.revoke_credentials(found.id, now())
        await hub.end_agent(found.id)
        try:
            await storage.delete_agent(found.id)
        finally:
            hub.directory.changed(found.id)


def _reported(router: APIRouter, context: Context) -> None:
    hub, storage = context.hub, context.storage

    @router.get("/agents/{agent}/models", summary="Models of an agent; every version seen with history=true")
    async def models(agent: str, *, history: bool = False) -> list[ModelView]:
        found = await hub.find(agent)
        # All versions are read either way: how many are remembered is bounded (AgentQuota).
        versions = await storage.versions(agent_id=found.id)
        return [model_view(version) for version in versions if version.current or history]

    @router.get("/agents/{agent}/hardware", summary="Inventory, and the last heartbeat's sample")
    async def hardware(agent: str) -> HardwareView:
        found = await hub.find(agent)
        stored = await storage.hardware(found.id)
        # The inventory is stored and outlives the session; the sample is the live session's alone.
        presence = hub.presence(found.id)
        beat = presence.heartbeat if presence is not None else None
        sample = None if beat is None else beat.hardware
        if stored is None:
            return HardwareView(sample=sample)
        return HardwareView(
            fingerprint=stored.fingerprint,
            updated_at=stored.updated_at,
            inventory=msgspec.Raw(stored.inventory),
            sample=sample,
        )


def _streams(router: APIRouter, context: Context) -> None:
    hub = context.hub

    @router.get(
        "/agents/{agent}/hardware/watch",
        response_class=Response,
        responses=responses.events(("sample", responses.SAMPLE), ("end", {})),
        summary="Live samples (SSE): `sample` events {t_us, n, missed, sample}, ends with `end` or `error`",
    )
    async def watch(agent: str, interval_ms: Annotated[int, Query(ge=100, le=60_000)] = 1000) -> Response:
        found = await hub.find(agent)

        async def events() -> AsyncIterator[bytes]:
            # Viewers of one interval share one stream of the agent's, so that ten open pages cost it no more
            # than one.
            async with hub.watch_hardware(found.id, interval_ms) as viewer:
                async for chunk in samples(viewer):
                    yield chunk

        # Within this time a refusal (the owner's policy, an agent that left) is a status with its reason;
        # later it is an event at the end of a stream that looked healthy.
        return EventStream(await after_first(events(), 2.0))

    @router.get(
        "/events",
        response_class=Response,
        responses=responses.events(
            ("agent", {"id": "01a2...", "name": "box", "presence": "online"}),
            ("current", {"agents": ["01a2..."]}),
            ("job", {"agent_id": "01a2...", "job_id": "8256...", "state": "running", "kind": "job"}),
            ("agent_gone", {"id": "01a2..."}),
            ("rollout", {"id": "01a3...", "state": "running", "counts": {"running": 4}, "targets": []}),
            ("rollout_gone", {"id": "01a3..."}),
            ("regression", {"id": 7, "verdict": "slower", "agent_name": "box"}),
            ("regression_gone", {"id": 7}),
        ),
        summary="What changes (SSE): `agent` events, all at first, then `current`; `job`, `rollout`",
    )
    async def news() -> Response:
        return EventStream(context.fleet.news())


async def samples(viewer: Viewer) -> AsyncIterator[bytes]:
    """A live series as events; the sample's number is the event's id, so that a browser can resume."""
    async for number, text in viewer.texts():
        yield event_of_text("sample", text, event_id=number)
    yield event("end", {})
