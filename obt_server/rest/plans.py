"""Plans by name, and what a plan would measure and take."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from obt_agent.benchmark.expansion import Cell, expand
from obt_agent.benchmark.plan import Plan, plan_hash
from obt_agent.benchmark.presets import PRESETS
from obt_agent.errors import InvalidParams
from obt_agent.protocol import codec
from obt_server.rest.context import Context, api_router
from obt_server.rest.result_index import IndexedResult, ResultIndex
from obt_server.rest.struct_route import Shape
from obt_server.storage import SavedPlan, ServerStorage

ANY_MODEL: Final = "model"
"""Stands in for the model of a saved plan, which has none: the hash leaves the model out."""
USUAL_WARMUPS: Final = 2
PlanFields = Annotated[msgspec.Raw, Shape(Plan, partial=True)]
"""A plan without its model; what is left out has the plan's default."""
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


class NamedPlans:
    """The presets and the saved plans.

    Args:
        storage: where saved plans are.
    """

    def __init__(self, storage: ServerStorage) -> None:
        self._storage = storage

    async def all(self) -> list[SavedPlan]:
        """Presets first; a saved plan never has a preset's name."""
        presets = [
            SavedPlan(name=name, plan=msgspec.json.encode(dict(fields)), saved_at=0.0)
            for name, fields in PRESETS.items()
        ]
        return [*presets, *await self._storage.plans()]

    async def by_hash(self) -> dict[str, str]:
        """Names by the plans' hashes; where two have one hash, the first."""
        names: dict[str, str] = {}
        for one in await self.all():
            hashed = hash_of(one.plan)
            if hashed is not None:
                # Presets come first, so that a saved copy of one does not rename its results.
                names.setdefault(hashed, one.name)
        return names


@functools.lru_cache(maxsize=256)
def hash_of(fields: bytes) -> str | None:
    """The hash of a saved plan; None where this release cannot read it."""
    # Kept: every list of results names its plans, and a hash takes as long as sorting some thousand of them.
    try:
        # A newer release may have saved it, with fields that this one refuses: it stays in the list without a
        # hash.
        return plan_hash(_plan({**msgspec.json.decode(fields, type=dict[str, Any]), "model_name": ANY_MODEL}))
    except InvalidParams:
        return None


def _plan(fields: dict[str, Any]) -> Plan:
    return codec.convert(msgspec.Raw(msgspec.json.encode(fields)), Plan)


def plan_routes(context: Context, index: ResultIndex, plans: NamedPlans) -> APIRouter:
    """The routes."""
    router = api_router(context, "benchmarks")

    @router.get("/plans", summary="Presets and saved plans, with how many results each has")
    async def every() -> list[PlanView]:
        # Counted from the index in memory: no query for each plan.
        counted = Counter(line.digest.environment.plan_hash for line in await index.lines())
        return [_plan_view(one, counted) for one in await plans.all()]

    @router.put("/plans/{name}", status_code=204, summary="Save a plan under a name")
    async def save(name: PlanName, body: PlanBody) -> None:
        # A name means one plan on every server: results carry no plan beside its hash.
        if name in PRESETS:
            raise InvalidParams(f"{name!r} is a preset: choose another name.", field="name")
        fields = {key: value for key, value in body.plan.items() if key != "model_name"}
        # Checked when it is saved: a plan that cannot run would fail on the machine, days later.
        _plan({**fields, "model_name": ANY_MODEL})
        saved = SavedPlan(name=name, plan=msgspec.json.encode(fields), saved_at=time.time())
        await context.storage.save_plan(saved)

    @router.delete("/plans/{name}", status_code=204, summary="Forget a saved plan")
    async def remove(name: PlanName) -> None:
        if name in PRESETS:
            raise InvalidParams(f"{name!r} is a preset: it stays.", field="name")
        await context.storage.delete_plan(name)

    @router.post(
        "/benchmarks/estimate", summary="What a plan would measure, and about how long it would take"
    )
    async def estimate(body: EstimateBody) -> EstimateView:
        agent = await context.hub.find(body.agent)
        plan = _plan(body.plan)
        hashed = plan_hash(plan)
        lines = await index.lines()
        return estimated(plan, agent.id, lines, (await plans.by_hash()).get(hashed))

    return router


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
    # The newest run of the same model on this machine; a run of another model says nothing of its speed.
    like = next(
        (line for line in lines if line.stored.agent_id == agent_id and line.model == plan.model_name), None
    )
    seconds = None if like is None else _seconds(plan, cells, like, halves)
    return EstimateView(
        plan_hash=plan_hash(plan),
        plan_name=name,
        cells=[cell.label for cell in cells],
        iterations=plan.num_iterations * len(cells) * halves,
        most_iterations=plan.most_iterations * len(cells) * halves,
        seconds=seconds,
        basis="" if seconds is None or like is None else f"from its run of {_day(like)}",
    )


def _seconds(plan: Plan, cells: Sequence[Cell], like: IndexedResult, halves: int) -> float | None:
    """Prompt and answer at the speeds of that run; warm-ups count as iterations do."""
    # Medians, so that one slow iteration (another program, a load) does not stretch the estimate.
    decode, prefill = like.medians.get("decode_tps_corrected"), like.medians.get("prefill_tps_ttft")
    if not decode:
        return None
    warmups = USUAL_WARMUPS if plan.warmup_iterations is None else plan.warmup_iterations
    total = 0.0
    for cell in cells:
        # Plain text has no count of tokens; its prefill is left out, and the estimate is called one.
        prompt = (cell.prompt.prompt_tokens or 0) / prefill if prefill else 0.0
        one = prompt + cell.prompt.completion_tokens / decode
        # An adaptive plan runs until both are reached: its number, and its time.
        least = max(plan.num_iterations, plan.min_duration_s / one if plan.max_iterations else 0.0)
        count = min(least, plan.most_iterations) * halves + warmups
        total += count * one
    # The agent ends the run there, whatever is left.
    return min(total, plan.max_duration_s)


def _day(line: IndexedResult) -> str:
    return datetime.fromtimestamp(line.stored.created_at).astimezone().strftime("%d %b %Y")
