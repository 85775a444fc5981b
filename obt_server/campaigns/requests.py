"""What somebody asks for, checked and put into the words that are stored."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from obt_agent.errors import InvalidParams
from obt_agent.identity.uuid7 import uuid7
from obt_server.campaign_storage import (
    Campaign,
    CampaignBaseline,
    CampaignCell,
    CampaignMachine,
    CampaignOrder,
    CampaignPlan,
    CampaignQuietHours,
    CampaignSettle,
)
from obt_server.campaigns.figures import HEADLINE, METRIC_NAMES
from obt_server.estimates import Estimates
from obt_server.hub.storage import AgentRecord
from obt_server.machine_jobs.local_times import check_end, check_times
from obt_server.rollout_storage import model_key
from obt_server.rollouts.requests import shown_name
from obt_server.rollouts.selection import Selector
from obt_server.saved_plans import MAX_PLAN_BYTES, NamedPlans, read_plan, without_model

MAX_PLANS: Final = 50
MAX_MODELS: Final = 200
MAX_REPEAT: Final = 20


class PlanChoice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A plan of a campaign: a preset or a saved plan by name, or the plan itself.

    Of a saved plan it is the newest version, unless one is named. ``label`` is what tables call it.
    """

    name: Annotated[str, Meta(max_length=64)] | None = None
    version: int | None = None
    plan: dict[str, Any] | None = None
    label: Annotated[str, Meta(max_length=64)] | None = None


class CampaignRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A campaign as somebody asks for it; the body of ``POST /campaigns``."""

    name: Annotated[str, Meta(max_length=200)] | None = None
    plans: Annotated[tuple[PlanChoice, ...], Meta(min_length=1, max_length=MAX_PLANS)]
    models: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=512)], ...],
        Meta(min_length=1, max_length=MAX_MODELS),
    ]
    targets: Selector
    metric: str = HEADLINE
    order: CampaignOrder = "model"
    repeat: Annotated[int, Meta(ge=1, le=MAX_REPEAT)] = 1
    not_after: float | None = None
    on_offline: Literal["skip", "wait"] = "wait"
    pull_missing: bool = False
    quiet_hours: CampaignQuietHours | None = None
    settle: CampaignSettle | None = None
    baseline: CampaignBaseline = CampaignBaseline()
    key: Annotated[str, Meta(min_length=1, max_length=128)] | None = None


@dataclass(frozen=True)
class RequestedBy:
    """Who asks: an operator, or a schedule in the name of one."""

    name: str
    schedule: str | None = None


async def make(request: CampaignRequest, plans: NamedPlans, by: RequestedBy) -> Campaign:
    """Return what is stored of a request, without machines.

    Raises:
        InvalidParams: a part of it is none.
        NotStored: there is no plan of that name.
    """
    _check(request)
    models = tuple(shown_name(model, "models") for model in request.models)
    if len({model_key(model) for model in models}) < len(models):
        raise InvalidParams("models: one is named twice.", field="models")
    found = tuple([await _plan(choice, plans) for choice in request.plans])
    if len({plan.hash for plan in found}) < len(found):
        raise InvalidParams("plans: two of them measure the same.", field="plans")
    if len(msgspec.json.encode(found)) > MAX_PLAN_BYTES:
        raise InvalidParams(f"plans: they have more than {MAX_PLAN_BYTES} bytes.", field="plans")
    return Campaign(
        id=str(uuid7()),
        name=request.name,
        schedule=by.schedule,
        key=request.key,
        plans=found,
        models=models,
        machines=(),
        metric=request.metric,
        order=request.order,
        repeat=request.repeat,
        not_after=request.not_after,
        on_offline=request.on_offline,
        pull_missing=request.pull_missing,
        quiet_hours=request.quiet_hours,
        settle=request.settle,
        baseline=request.baseline,
        created_at=time.time(),
        created_by=by.name[:200],
    )


def _check(request: CampaignRequest) -> None:
    check_end(request.not_after, time.time(), "not_after")
    if request.metric != HEADLINE and request.metric not in METRIC_NAMES:
        raise InvalidParams(f"metric: there is no {request.metric[:64]!r}.", field="metric")
    quiet = request.quiet_hours
    if quiet is not None:
        check_times(quiet.range, quiet.time_zone)


async def _plan(choice: PlanChoice, plans: NamedPlans) -> CampaignPlan:
    if (choice.name is None) == (choice.plan is None):
        raise InvalidParams("plans: each has either a name or a plan.", field="plans")
    if choice.plan is not None:
        text, hashed = without_model(choice.plan)
        return CampaignPlan(hash=hashed, label=choice.label or hashed[:8], plan=_fields(text))
    saved = await plans.find(choice.name or "", choice.version)
    if saved.hash is None:
        raise InvalidParams(f"plans: this release cannot read {saved.name!r}.", field="plans")
    preset = saved.saved_at == 0.0
    label = saved.name if preset else f"{saved.name} v{saved.version}"
    return CampaignPlan(
        name=saved.name,
        version=None if preset else saved.version,
        hash=saved.hash,
        label=choice.label or label,
        plan=_fields(saved.plan),
    )


def _fields(plan: bytes) -> dict[str, object]:
    return msgspec.json.decode(plan, type=dict[str, object])


def machines_of(records: Iterable[AgentRecord]) -> tuple[CampaignMachine, ...]:
    """Machines as a campaign names them."""
    return tuple(CampaignMachine(id=record.id, name=record.name) for record in records)


def cell_count(campaign: Campaign, machines: int) -> int:
    """How many cells so many machines give."""
    return machines * len(campaign.models) * len(campaign.plans) * campaign.repeat


def cells_of(
    campaign: Campaign, machines: Sequence[CampaignMachine], estimates: Estimates, *, first: int = 1
) -> list[CampaignCell]:
    """Return the cells of machines in the order in which each takes its own; numbers go on from ``first``."""
    cells: list[CampaignCell] = []
    plans = {plan.hash: plan.plan for plan in campaign.plans}
    for machine in machines:
        seconds = {
            (model, hashed): _estimate_s(fields, model, machine.id, estimates)
            for model in campaign.models
            for hashed, fields in plans.items()
        }
        for model, plan_hash, repeat in _ordered(campaign, machine.id):
            cells.append(
                CampaignCell(
                    id=f"c{first + len(cells)}",
                    agent_id=machine.id,
                    agent_name=machine.name,
                    model=model,
                    plan_hash=plan_hash,
                    repeat=repeat,
                    estimate_s=seconds[model, plan_hash],
                )
            )
    return cells


def _ordered(campaign: Campaign, agent_id: str) -> list[tuple[str, str, int]]:
    """Models, plans and repeats of a machine, in its order."""
    models, hashes = campaign.models, [plan.hash for plan in campaign.plans]
    repeats = range(1, campaign.repeat + 1)
    if campaign.order == "plan":
        return [(model, hashed, repeat) for hashed in hashes for repeat in repeats for model in models]
    # Repeats outside plans: what drifts with time then meets all plans of a model alike.
    found = [(model, hashed, repeat) for model in models for repeat in repeats for hashed in hashes]
    if campaign.order == "random":
        # Another order on each machine, and the same one if it is asked for again.
        random.Random(f"{campaign.id} {agent_id}").shuffle(found)  # noqa: S311 - an order, no secret
    return found


def _estimate_s(fields: dict[str, object], model: str, agent_id: str, estimates: Estimates) -> float | None:
    found = estimates.of(read_plan({**fields, "model_name": model}), agent_id)
    return None if found is None else found.seconds
