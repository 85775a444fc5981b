"""Schedules: campaigns that begin by themselves, at times of a time zone."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from obt_agent.errors import InvalidParams
from obt_agent.protocol import codec
from obt_server.campaigns.due_times import DueTimes
from obt_server.campaigns.requests import CampaignRequest
from obt_server.rest import responses
from obt_server.rest.context import Context, api_router, now
from obt_server.rest.forwarding import by_leader
from obt_server.schedule_storage import SchedulePause, ScheduleRun, StoredSchedule

MAX_SCHEDULES: Final = 200
ScheduleName = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[^/\\\x00-\x1f]+$")]
_EXAMPLE: Final[dict[str, Any]] = {
    "cron": "0 2 * * *",
    "time_zone": "Europe/Berlin",
    "jitter_s": 600,
    "campaign": {"plans": [{"name": "standard"}], "models": ["llama3.2:1b"], "targets": {"all": True}},
}


class ScheduleBody(BaseModel):
    """A schedule as it is to be."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    cron: Annotated[str, Field(min_length=1, max_length=200, description="minute hour day month weekday")]
    time_zone: Annotated[str, Field(min_length=1, max_length=64, description="such as Europe/Berlin")]
    campaign: Annotated[dict[str, Any], Field(description="the body of POST /campaigns")]
    jitter_s: Annotated[
        float, Field(ge=0, le=86_400, description="machines begin spread over so many seconds")
    ] = 0.0
    late_s: Annotated[
        float, Field(ge=0, le=604_800, description="how late a campaign may begin after the server was away")
    ] = 3600.0


class PauseBody(BaseModel):
    """Why nothing is to begin."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, Field(min_length=1, max_length=500)]


class ScheduleView(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule. ``next`` are its next times, ``last`` what became of the last one, in Unix seconds."""

    name: str
    cron: str
    time_zone: str
    jitter_s: float
    late_s: float
    campaign: CampaignRequest
    paused: SchedulePause | None
    next: list[float]
    last: ScheduleRun | None
    created_by: str
    updated_at: float


def routes(context: Context) -> APIRouter:
    """The routes."""
    router = api_router(context, "schedules", responses.ROLLOUT)
    _keeping(router, context)
    _running(router, context)
    return router


def _keeping(router: APIRouter, context: Context) -> None:
    storage = context.storage

    @router.get("/schedules", summary="All schedules, by name")
    async def every() -> list[ScheduleView]:
        return [await _view(context, one) for one in await storage.schedules()]

    @router.get("/schedules/{name}", summary="One schedule")
    async def one(name: ScheduleName) -> ScheduleView:
        return await _view(context, await storage.schedule(name))

    @router.put("/schedules/{name}", summary="Keep a schedule, in place of one of the same name")
    @by_leader
    async def put(name: ScheduleName, body: ScheduleBody, request: Request) -> ScheduleView:
        known = {one.name for one in await storage.schedules()}
        if name not in known and len(known) >= MAX_SCHEDULES:
            raise InvalidParams(f"There are {len(known)} schedules, the most that are kept.", field="name")
        # Both are checked when it is saved: what cannot be read would fail at night.
        DueTimes(body.cron, body.time_zone)
        text = msgspec.json.encode(body.campaign)
        wanted = codec.convert(text, CampaignRequest, where="body.campaign")
        await context.campaigns.prepare(wanted, request.state.principal.name)
        schedule = StoredSchedule(
            name=name,
            cron=body.cron,
            time_zone=body.time_zone,
            jitter_s=body.jitter_s,
            late_s=body.late_s,
            campaign=msgspec.to_builtins(wanted),
            # Times before this are none of the new schedule's.
            done_until=now(),
            created_by=request.state.principal.name,
            updated_at=now(),
        )
        # A pause stays: somebody paused it for a reason that another time does not undo.
        stored = await storage.save_schedule(schedule)
        context.schedules.changed()
        return await _view(context, stored)

    @router.delete("/schedules/{name}", status_code=204, summary="Forget a schedule; its campaigns stay")
    async def remove(name: ScheduleName) -> None:
        await storage.delete_schedule(name)


def _running(router: APIRouter, context: Context) -> None:
    storage = context.storage

    @router.get("/schedules/{name}/runs", summary="What became of a schedule's times, the newest first")
    async def runs(
        name: ScheduleName, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> list[ScheduleRun]:
        await storage.schedule(name)
        return list(await storage.schedule_runs(name, limit))

    @router.post("/schedules/{name}/pause", summary="Begin nothing until it is resumed; each time is told")
    async def pause(name: ScheduleName, body: PauseBody, request: Request) -> ScheduleView:
        paused = SchedulePause(reason=body.reason, by=request.state.principal.name, at=now())
        return await _view(context, await storage.pause_schedule(name, paused))

    @router.post("/schedules/{name}/resume", summary="Begin again with the next time")
    @by_leader
    async def resume(name: ScheduleName) -> ScheduleView:
        # What came while it was paused is told as skipped before anything is due again.
        await context.schedules.look()
        return await _view(context, await storage.pause_schedule(name, None))

    @router.post("/schedules/{name}/run", status_code=201, summary="Begin its campaign now")
    @by_leader
    async def run(name: ScheduleName, request: Request) -> ScheduleRun:
        return await context.schedules.run_now(name, request.state.principal.name)


async def _view(context: Context, schedule: StoredSchedule) -> ScheduleView:
    runs = await context.storage.schedule_runs(schedule.name, 1)
    own = {
        name: getattr(schedule, name)
        for name in ScheduleView.__struct_fields__
        if name not in ("campaign", "next", "last")
    }
    times = DueTimes(schedule.cron, schedule.time_zone).next(now())
    campaign = msgspec.convert(schedule.campaign, CampaignRequest)
    return ScheduleView(**own, campaign=campaign, next=times, last=runs[0] if runs else None)
