"""What campaigns' results say: the matrix, verdicts, histories, baselines and regressions."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from obt_agent.errors import InvalidParams
from obt_server.campaigns.evaluation import FigureAsked
from obt_server.campaigns.history import key_of
from obt_server.campaigns.line_history import LineHistory
from obt_server.campaigns.matrix import CampaignMatrix
from obt_server.rest import responses
from obt_server.rest.context import Context, api_router, now
from obt_server.rest.paging import Before, BeforeNumber
from obt_server.rollout_storage import model_key
from obt_server.verdict_storage import (
    Acknowledgement,
    LineKey,
    PinnedBaseline,
    Regression,
    RegressionFilter,
    Verdict,
)

AgentName = Annotated[str, Query(max_length=200, description="id or unique name")]
PlanHash = Annotated[str, Query(max_length=64, description="a plan's hash")]
MetricName = Annotated[
    str, Query(max_length=64, description="a metric's name, or `headline`: the campaign's own")
]

PointName = Annotated[
    str | None,
    Query(max_length=700, description="a point's label of the plan's sweep; the first unless given"),
]


class PinBody(BaseModel):
    """The result that later ones of its model and plan are compared with; what is named must be its own."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str | None, Field(min_length=1, max_length=512)] = None
    plan_hash: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    result: Annotated[str, Field(min_length=1, max_length=128, description="the id of its job")]


class AcknowledgeBody(BaseModel):
    """Why somebody knows of it, for others."""

    model_config = ConfigDict(extra="forbid")

    note: Annotated[str | None, Field(max_length=500)] = None


class BaselineView(msgspec.Struct, frozen=True, kw_only=True):
    """A pinned result. Times are Unix seconds."""

    agent_id: str
    model: str
    plan_hash: str
    job_id: str
    at: float
    by: str


def routes(context: Context) -> APIRouter:
    """The routes."""
    router = api_router(context, "campaigns", responses.AGENT)
    _comparing(router, context)
    _baselines(router, context)
    _regressions(router, context)
    return router


def _comparing(router: APIRouter, context: Context) -> None:
    hub = context.hub

    @router.get(
        "/campaigns/{campaign_id}/matrix",
        summary="Models and plans by machines, by any metric, with ratios to baselines or another campaign",
    )
    async def matrix(
        campaign_id: str,
        metric: MetricName = "headline",
        point: PointName = None,
        against: Annotated[str | None, Query(max_length=64, description="another campaign's id")] = None,
    ) -> CampaignMatrix:
        campaign, cells = await context.campaigns.get(campaign_id)
        others = None if against is None else (await context.campaigns.get(against))[1]
        return await context.evaluation.matrix(campaign, cells, FigureAsked(metric, point), others)

    @router.get(
        "/campaigns/{campaign_id}/verdicts",
        summary="Slower, faster or no difference shown: each model and plan on each machine",
    )
    async def verdicts(campaign_id: str) -> list[Verdict]:
        await context.campaigns.get(campaign_id)
        return list(await context.storage.verdicts(campaign_id))

    @router.get("/history", summary="All results of a model and plan on a machine, and what changed")
    async def history(
        agent: AgentName,
        model: Annotated[str, Query(max_length=512)],
        plan: PlanHash,
        metric: MetricName = "headline",
        point: PointName = None,
    ) -> LineHistory:
        key = LineKey((await hub.find(agent)).id, model_key(model), plan)
        return await context.evaluation.history(key, FigureAsked(metric, point))


def _baselines(router: APIRouter, context: Context) -> None:
    hub, storage = context.hub, context.storage

    @router.get("/baselines", summary="Pinned baselines")
    async def every(
        agent: AgentName | None = None,
        model: Annotated[str | None, Query(max_length=512)] = None,
        plan: PlanHash | None = None,
    ) -> list[BaselineView]:
        agent_id = None if agent is None else (await hub.find(agent)).id
        key = None if model is None else model_key(model)
        return [
            _baseline(one)
            for one in await storage.pinned_baselines()
            if agent_id in (None, one.agent_id) and key in (None, one.model) and plan in (None, one.plan_hash)
        ]

    @router.put("/baselines/{agent_id}", summary="Compare a machine's model and plan with this result")
    async def pin(agent_id: str, body: PinBody, request: Request) -> BaselineView:
        agent = await hub.find(agent_id)
        job = await storage.job_by_id(body.result, agent.id)
        lines = await context.results.lines()
        found = next(
            (one for one in lines if (one.stored.agent_id, one.stored.job_id) == (agent.id, job.job_id)), None
        )
        # Another plan's result, or another model's, would be compared with what it does not measure.
        if (
            found is None
            or (body.model is not None and model_key(body.model) != key_of(found).model)
            or body.plan_hash not in (None, key_of(found).plan_hash)
        ):
            raise InvalidParams(
                f"{body.result[:64]!r} is no result of such a model and plan on {agent.name}.",
                field="body.result",
            )
        line = key_of(found)._asdict()
        pinned = PinnedBaseline(**line, job_id=job.job_id, at=now(), by=request.state.principal.name)
        await storage.pin_baseline(pinned)
        return _baseline(pinned)

    @router.delete("/baselines/{agent_id}", status_code=204, summary="Compare with the last nights again")
    async def unpin(agent_id: str, model: Annotated[str, Query(max_length=512)], plan_hash: PlanHash) -> None:
        await storage.unpin_baseline(LineKey((await hub.find(agent_id)).id, model_key(model), plan_hash))


def _regressions(router: APIRouter, context: Context) -> None:
    hub, storage = context.hub, context.storage

    @router.get("/regressions", summary="What became slower, the newest first")
    async def regressions(
        state: Literal["open", "acknowledged"] | None = None,
        agent: AgentName | None = None,
        before: Before = None,
        before_id: BeforeNumber = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[Regression]:
        agent_id = None if agent is None else (await hub.find(agent)).id
        which = RegressionFilter(
            state=state, agent_id=agent_id, before=before, before_id=before_id, limit=limit
        )
        return list(await storage.regressions(which))

    @router.post(
        "/regressions/{regression_id}/acknowledge",
        summary="Say that somebody knows: the new speed is what later nights are compared with",
    )
    async def acknowledge(
        regression_id: int, request: Request, body: AcknowledgeBody | None = None
    ) -> Regression:
        note = None if body is None else body.note
        known = Acknowledgement(by=request.state.principal.name, at=now(), note=note)
        found = await storage.acknowledge(regression_id, known)
        context.say_regression(regression_id, found)
        return found

    @router.delete(
        "/regressions/{regression_id}/acknowledge", status_code=204, summary="Open a regression again"
    )
    async def reopen(regression_id: int) -> None:
        context.say_regression(regression_id, await storage.acknowledge(regression_id, None))


def _baseline(pinned: PinnedBaseline) -> BaselineView:
    return BaselineView(**{name: getattr(pinned, name) for name in BaselineView.__struct_fields__})
