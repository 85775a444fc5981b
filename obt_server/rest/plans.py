"""Plans by name, and what a plan would measure and take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from obt_agent.benchmark.expansion import expand
from obt_agent.benchmark.plan import Plan, plan_hash
from obt_agent.benchmark.presets import PRESETS
from obt_server.estimates import Estimates
from obt_server.rest import audit
from obt_server.rest.context import Context, api_router
from obt_server.rest.views import PlanFields
from obt_server.result_index import IndexedResult
from obt_server.saved_plans import hash_of, read_plan
from obt_server.storage import NotStored, SavedPlan

PlanName = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[^/\\\x00-\x1f]+$")]


class PlanView(msgspec.Struct, frozen=True, kw_only=True):
    """A plan by its name. ``plan`` has no ``model_name``; ``results`` counts stored results of this plan."""

    name: str
    builtin: bool
    plan_hash: str | None
    plan: PlanFields
    results: int


class PlanBody(BaseModel):
    """A plan to be saved."""

    plan: Annotated[dict[str, Any], Field(description="the protocol's plan; model_name is left out")]


class EstimateBody(BaseModel):
    """What would be run, and where."""

    agent: Annotated[str, Field(description="id or unique name")]
    plan: Annotated[dict[str, Any], Field(description="at least model_name")]


class EstimateView(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan measures and about how long it takes.

    ``iterations`` and ``most_iterations`` are the least and the largest number of measured iterations over
    all ``cells``. ``seconds`` is an estimate from the newest result of the same model on the same machine,
    which ``basis`` names; null where there is none.
    """

    plan_hash: str
    plan_name: str | None
    cells: list[str]
    iterations: int
    most_iterations: int
    seconds: float | None
    basis: str


class SavedPlanBody(PlanBody):
    """A plan to be saved as the next version of its name."""

    model_config = ConfigDict(extra="forbid")

    comment: Annotated[str | None, Field(max_length=500, description="what changed, for people")] = None


class SavedPlanView(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a saved plan. ``hash`` names what it measures; the model is no part of it."""

    name: str
    version: int
    hash: str | None
    plan: PlanFields
    comment: str | None
    created_at: float
    created_by: str


def routes(context: Context) -> APIRouter:
    """The routes."""
    router = api_router(context, "benchmarks")
    _named(router, context)
    _versions(router, context)
    _estimate(router, context)
    return router


def _named(router: APIRouter, context: Context) -> None:
    plans = context.plans

    @router.get("/plans", summary="Presets and saved plans, with how many results each has")
    async def every() -> list[PlanView]:
        # Counted from the index in memory: no query for each plan.
        counted = Counter(line.digest.environment.plan_hash for line in await context.results.lines())
        return [_plan_view(one, counted) for one in await plans.all()]

    @router.put("/plans/{name}", status_code=204, summary="Save a plan under a name")
    async def save(name: PlanName, body: PlanBody, request: Request) -> None:
        await plans.save(name, body.plan, request.state.principal.name)

    @router.delete("/plans/{name}", status_code=204, summary="Forget a saved plan")
    async def remove(name: PlanName) -> None:
        await plans.remove(name)


def _versions(router: APIRouter, context: Context) -> None:
    plans, storage = context.plans, context.storage

    @router.get("/saved-plans", summary="The newest version of each saved plan; or all that have one hash")
    async def saved(
        hash: Annotated[str | None, Query(max_length=64)] = None,  # noqa: A002 - the query's own name
    ) -> list[SavedPlanView]:
        found = await (storage.plans() if hash is None else storage.plans_of_hash(hash))
        return [saved_plan_view(one) for one in found]

    @router.put("/saved-plans/{name}", summary="Save a plan: a new version where it measures something else")
    async def save(name: PlanName, body: SavedPlanBody, request: Request) -> SavedPlanView:
        stored = await plans.save(name, body.plan, request.state.principal.name, body.comment)
        return saved_plan_view(stored)

    @router.get("/saved-plans/{name}", summary="A saved plan, in its newest version unless one is named")
    async def one(name: PlanName, version: Annotated[int | None, Query(ge=1)] = None) -> SavedPlanView:
        return saved_plan_view(await plans.find(name, version))

    @router.get("/saved-plans/{name}/versions", summary="All versions that are kept, the newest first")
    async def versions(name: PlanName) -> list[SavedPlanView]:
        found = await storage.plan_versions(name)
        if not found:
            raise NotStored(f"There is no saved plan {name!r}.")
        return [saved_plan_view(one) for one in found]

    @router.delete("/saved-plans/{name}", status_code=204, summary="Forget a saved plan's name")
    async def remove(name: PlanName) -> None:
        await plans.remove(name)


def _estimate(router: APIRouter, context: Context) -> None:
    @router.post(
        "/benchmarks/estimate", summary="What a plan would measure, and about how long it would take"
    )
    @audit.reads_only
    async def estimate(body: EstimateBody) -> EstimateView:
        agent = await context.hub.find(body.agent)
        plan = read_plan(body.plan)
        lines = await context.results.lines()
        return estimated(plan, agent.id, lines, (await context.plans.by_hash()).get(plan_hash(plan)))


def saved_plan_view(one: SavedPlan) -> SavedPlanView:
    """Return a version as the interface shows it."""
    return SavedPlanView(
        name=one.name,
        version=one.version,
        hash=one.hash,
        plan=msgspec.Raw(one.plan),
        comment=one.comment,
        created_at=one.saved_at,
        created_by=one.saved_by,
    )


def _plan_view(one: SavedPlan, counted: Counter[str | None]) -> PlanView:
    hashed = hash_of(one.plan)
    return PlanView(
        name=one.name,
        builtin=one.name in PRESETS,
        plan_hash=hashed,
        plan=msgspec.Raw(one.plan),
        results=0 if hashed is None else counted[hashed],
    )


def estimated(plan: Plan, agent_id: str, lines: Sequence[IndexedResult], name: str | None) -> EstimateView:
    """Return the estimate. ``lines`` are the newest first.

    Raises:
        TooLarge, InvalidParams: the plan does not expand.
    """
    cells = expand(plan)
    halves = 2 if plan.cache_mode == "pair" else 1
    found = Estimates(lines).of(plan, agent_id)
    return EstimateView(
        plan_hash=plan_hash(plan),
        plan_name=name,
        cells=[cell.label for cell in cells],
        iterations=plan.num_iterations * len(cells) * halves,
        most_iterations=plan.most_iterations * len(cells) * halves,
        seconds=None if found is None else found.seconds,
        basis="" if found is None else f"from its run of {_day(found.like)}",
    )


def _day(like: IndexedResult) -> str:
    return datetime.fromtimestamp(like.stored.created_at).astimezone().strftime("%d %b %Y")
