"""Campaigns: plans on models on many machines; see ``obt_server.campaigns``."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from obt_agent.protocol import codec
from obt_server.campaign_storage import CampaignFilter, CampaignOrder, CampaignState, CampaignTotals
from obt_server.campaigns.preview import CampaignPreview, preview
from obt_server.campaigns.requests import MAX_MODELS, MAX_PLANS, MAX_REPEAT, CampaignRequest
from obt_server.rest import audit, responses
from obt_server.rest.campaign_views import CampaignSummary, CampaignView, live_summary, summary, view
from obt_server.rest.context import Context, api_router
from obt_server.rest.forwarding import by_leader
from obt_server.rest.paging import Before, BeforeId
from obt_server.rest.rollouts import SelectorBody, selector
from obt_server.storage import NotStored

_EXAMPLE: Final[dict[str, Any]] = {
    "name": "nightly",
    "plans": [{"name": "standard"}],
    "models": ["llama3.2:1b"],
    "targets": {"labels": ["gpu"]},
    "repeat": 3,
    "pull_missing": True,
}


class PlanChoiceBody(BaseModel):
    """A preset or a saved plan by its name, or the plan itself."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str | None, Field(max_length=64)] = None
    version: Annotated[int | None, Field(ge=1, description="of a saved plan; the newest when omitted")] = None
    plan: Annotated[
        dict[str, Any] | None, Field(description="the protocol's plan; model_name is left out")
    ] = None
    label: Annotated[str | None, Field(max_length=64, description="what tables call it")] = None


class QuietHoursBody(BaseModel):
    """Local times in which no cell begins."""

    model_config = ConfigDict(extra="forbid")

    from_: Annotated[str, Field(alias="from", max_length=5, examples=["07:00"])]
    to: Annotated[str, Field(max_length=5, examples=["22:00"])]
    time_zone: Annotated[
        str | None, Field(max_length=64, description="such as Europe/Berlin; the server's own when omitted")
    ] = None


class SettleBody(BaseModel):
    """What a machine waits for before each cell."""

    model_config = ConfigDict(extra="forbid")

    idle_for_s: Annotated[float, Field(ge=0, le=3600, description="seconds without other work")]
    max_wait_s: Annotated[float, Field(ge=0, le=86_400, description="then it measures, and says so")]


class BaselineBody(BaseModel):
    """What results are compared with."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["rolling", "pinned", "none"] = "rolling"
    last: Annotated[int, Field(ge=1, le=100, description="rolling: so many earlier results")] = 7
    results: Annotated[list[str], Field(max_length=1000, description="pinned: ids of jobs")] = []


class StartCampaign(BaseModel):
    """What shall be measured, and where."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    name: Annotated[str | None, Field(max_length=200)] = None
    plans: Annotated[list[PlanChoiceBody], Field(min_length=1, max_length=MAX_PLANS)]
    models: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=512)]],
        Field(min_length=1, max_length=MAX_MODELS),
    ]
    targets: SelectorBody
    metric: Annotated[str, Field(max_length=64, description="what cells show: headline, or a metric")] = (
        "headline"
    )
    order: Annotated[
        CampaignOrder, Field(description="of a machine's cells: all of a model, all of a plan, or shuffled")
    ] = "model"
    repeat: Annotated[int, Field(ge=1, le=MAX_REPEAT)] = 1
    not_after: Annotated[
        float | None,
        Field(allow_inf_nan=False, description="Unix seconds; what is not begun by then is skipped"),
    ] = None
    on_offline: Annotated[
        Literal["skip", "wait"], Field(description="what becomes of machines that are offline")
    ] = "wait"
    pull_missing: Annotated[bool, Field(description="pull models that a machine lacks, by a rollout")] = False
    quiet_hours: QuietHoursBody | None = None
    settle: SettleBody | None = None
    baseline: BaselineBody | None = None
    key: Annotated[
        str | None, Field(min_length=1, max_length=128, description="names the request: a repeat is the same")
    ] = None

    def request(self) -> CampaignRequest:
        """As the engine takes it. Raises InvalidParams."""
        given = msgspec.json.encode(self.model_dump(by_alias=True, exclude_none=True))
        return codec.convert(msgspec.Raw(given), CampaignRequest, where="body")


class SomeCells(BaseModel):
    """Some cells of a campaign, by id; all that the action concerns where none is named."""

    model_config = ConfigDict(extra="forbid")

    cells: Annotated[list[str] | None, Field(max_length=10_000)] = None


class RerunCells(SomeCells):
    """Which cells are measured again: those named, or all that ended without a result, or flagged ones."""

    only: Annotated[
        Literal["failed", "flagged"],
        Field(description="flagged: whose result bears a flag that another run may be free of"),
    ] = "failed"


class MoreMachines(BaseModel):
    """Machines that a campaign measures on as well."""

    model_config = ConfigDict(extra="forbid")

    targets: SelectorBody


def routes(context: Context) -> APIRouter:
    """The routes."""
    router = api_router(context, "campaigns", responses.CAMPAIGN)
    _beginning(router, context)
    _reading(router, context)
    _changing(router, context)
    return router


def _beginning(router: APIRouter, context: Context) -> None:
    @router.post(
        "/campaigns",
        status_code=201,
        responses={200: {"description": "The campaign that was begun with this `key` before."}},
        summary="Measure plans on models on machines; refused and offline ones are states of cells",
    )
    @by_leader
    async def begin(body: StartCampaign, request: Request, response: Response) -> CampaignView:
        stored, new = await context.campaigns.create(body.request(), request.state.principal.name)
        campaign, cells = await context.campaigns.get(stored.id)
        audit.note(*dict.fromkeys(cell.agent_id for cell in cells), campaign=campaign.id)
        # A double click, or a client that did not get the answer.
        response.status_code = 201 if new else 200
        return view(context.hub, campaign, cells)

    @router.post("/campaigns/preview", summary="What a campaign would do in each cell, and about how long")
    @audit.reads_only
    async def would(body: StartCampaign, request: Request) -> CampaignPreview:
        campaign, cells = await context.campaigns.prepare(body.request(), request.state.principal.name)
        records = await context.hub.directory.current()
        return preview(campaign, cells, records, await context.model_sets.view())


def _reading(router: APIRouter, context: Context) -> None:
    hub = context.hub

    @router.get("/campaigns", summary="Campaigns, the newest first")
    async def campaigns(
        state: CampaignState | None = None,
        schedule: str | None = None,
        before: Before = None,
        before_id: BeforeId = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[CampaignSummary]:
        which = CampaignFilter(
            state=state, schedule=schedule, before=before, before_id=before_id, limit=limit
        )
        return [await _summary(context, totals) for totals in await context.campaigns.find(which)]

    @router.get("/campaigns/{campaign_id}", summary="One campaign, with its cells")
    async def one(campaign_id: str) -> CampaignView:
        return view(hub, *await context.campaigns.get(campaign_id))


async def _summary(context: Context, totals: CampaignTotals) -> CampaignSummary:
    if totals.campaign.state == "running":
        # How long one that runs still takes is in no storage. It may have ended meanwhile, and be forgotten.
        with contextlib.suppress(NotStored):
            return live_summary(context.hub, *await context.campaigns.get(totals.campaign.id))
    return summary(totals)


def _changing(router: APIRouter, context: Context) -> None:
    hub = context.hub

    @router.post("/campaigns/{campaign_id}/cancel", summary="Cancel what has not ended, all cells or some")
    @by_leader
    async def cancel(campaign_id: str, body: SomeCells) -> CampaignView:
        await context.campaigns.cancel(campaign_id, body.cells)
        return view(hub, *await context.campaigns.get(campaign_id))

    @router.post(
        "/campaigns/{campaign_id}/rerun",
        summary="Measure cells again: without a result, with a doubtful one, or those named",
    )
    @by_leader
    async def rerun(campaign_id: str, body: RerunCells) -> CampaignView:
        await context.campaigns.rerun(campaign_id, body.cells, flagged=body.only == "flagged")
        return view(hub, *await context.campaigns.get(campaign_id))

    @router.post("/campaigns/{campaign_id}/machines", summary="Measure the same on more machines")
    @by_leader
    async def add(campaign_id: str, body: MoreMachines) -> CampaignView:
        await context.campaigns.add_machines(campaign_id, selector(body.targets))
        return view(hub, *await context.campaigns.get(campaign_id))

    @router.delete(
        "/campaigns/{campaign_id}", status_code=204, summary="Forget a campaign that has ended; results stay"
    )
    @by_leader
    async def remove(campaign_id: str) -> None:
        await context.campaigns.delete(campaign_id)
