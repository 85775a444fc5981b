"""Rollouts: one action on a model, on many machines at once; see ``obt_server.rollouts``."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from obt_agent.protocol import codec
from obt_server.rest import audit, responses
from obt_server.rest.context import Context, api_router
from obt_server.rest.forwarding import by_leader
from obt_server.rest.rollout_views import RolloutSummary, RolloutView, live_summary, summary, view
from obt_server.rollout_storage import (
    CreateSpec,
    RolloutAction,
    RolloutFilter,
    RolloutState,
    RolloutTotals,
    model_key,
)
from obt_server.rollouts.preview import TargetPreview, previews
from obt_server.rollouts.requests import RolloutRequest, make
from obt_server.rollouts.selection import Selector, select
from obt_server.storage import NotStored

_EXAMPLE: Final[dict[str, Any]] = {
    "action": "pull",
    "model": "llama3.2:1b",
    "targets": {"labels": ["gpu"]},
    "parallelism": 4,
    "offline": "wait",
}


class SelectorBody(BaseModel):
    """Machines: those named, those with one of the labels, or all; the union counts."""

    model_config = ConfigDict(extra="forbid")

    agents: Annotated[list[str], Field(max_length=10_000, description="ids or unique names")] = []
    labels: Annotated[
        list[str], Field(max_length=100, description="the operators', or the machine's own")
    ] = []
    all: bool = False


class CreateBody(BaseModel):
    """What a new model is made from, as Ollama's create takes it."""

    model_config = ConfigDict(extra="forbid")

    from_: Annotated[str, Field(alias="from", min_length=1, max_length=512)]
    system: str | None = None
    template: str | None = None
    parameters: dict[str, Any] | None = None
    quantize: Annotated[str | None, Field(max_length=64)] = None


class StartRollout(BaseModel):
    """What shall be done, and where."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    action: RolloutAction
    model: Annotated[str, Field(min_length=1, max_length=512)]
    destination: Annotated[str | None, Field(max_length=512, description="of a copy: the new name")] = None
    digest: Annotated[str | None, Field(description="of a pull: the version that it must bring")] = None
    create: CreateBody | None = None
    targets: SelectorBody
    parallelism: Annotated[int, Field(ge=1, le=64, description="machines at work at once")] = 4
    offline: Annotated[
        Literal["skip", "wait"], Field(description="what becomes of machines that are offline")
    ] = "skip"
    until: Annotated[
        float | None,
        Field(allow_inf_nan=False, description="Unix seconds; what is not begun by then is skipped"),
    ] = None
    key: Annotated[
        str | None, Field(min_length=1, max_length=128, description="names the request: a repeat is the same")
    ] = None


class SomeTargets(BaseModel):
    """Some machines of a rollout; all that the action concerns where none is named."""

    model_config = ConfigDict(extra="forbid")

    agents: Annotated[list[str] | None, Field(max_length=10_000, description="ids or unique names")] = None


def routes(context: Context) -> APIRouter:
    """The routes."""
    router = api_router(context, "rollouts", responses.ROLLOUT)
    _beginning(router, context)
    _reading(router, context)
    _changing(router, context)
    return router


def _request(body: StartRollout) -> RolloutRequest:
    given = body.model_dump(exclude={"targets", "create"})
    create = None
    if body.create is not None:
        fields = msgspec.json.encode(body.create.model_dump(by_alias=True, exclude_none=True))
        create = codec.convert(fields, CreateSpec, where="body.create")
    return RolloutRequest(**given, create=create)


def selector(body: SelectorBody) -> Selector:
    """As the engines take it."""
    return Selector(agents=tuple(body.agents), labels=tuple(body.labels), all=body.all)


def _beginning(router: APIRouter, context: Context) -> None:
    most = context.rollout_settings.max_targets

    @router.post(
        "/rollouts",
        status_code=201,
        responses={200: {"description": "The rollout that was begun with this `key` before."}},
        summary="Do something with a model on many machines; refused and offline ones are states of it",
    )
    @by_leader
    async def begin(body: StartRollout, request: Request, response: Response) -> RolloutView:
        records = await select(context.hub, selector(body.targets), most)
        rollout, targets = make(_request(body), records, request.state.principal.name)
        stored, new = await context.rollouts.create(rollout, targets)
        audit.note(*(target.agent_id for target in targets), rollout=stored.id, work=rollout.action)
        # A double click, or a client that did not get the answer.
        response.status_code = 201 if new else 200
        return view(context.hub, *await context.rollouts.get(stored.id))

    @router.post("/rollouts/preview", summary="What a rollout would do on each machine; nothing is sent")
    @audit.reads_only
    async def preview(body: StartRollout, request: Request) -> list[TargetPreview]:
        records = await select(context.hub, selector(body.targets), most)
        rollout, _ = make(_request(body), records, request.state.principal.name)
        return previews(rollout, records, await context.model_sets.view())


def _reading(router: APIRouter, context: Context) -> None:
    hub = context.hub

    @router.get("/rollouts", summary="Rollouts, the newest first")
    async def rollouts(
        state: RolloutState | None = None,
        model: str | None = None,
        agent: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[RolloutSummary]:
        agent_id = None if agent is None else (await hub.find(agent)).id
        which = RolloutFilter(
            state=state, model=None if model is None else model_key(model), agent_id=agent_id, limit=limit
        )
        return [await _summary(context, totals) for totals in await context.rollouts.find(which)]

    @router.get("/rollouts/{rollout_id}", summary="One rollout, with its state on each machine")
    async def one(rollout_id: str) -> RolloutView:
        return view(hub, *await context.rollouts.get(rollout_id))


async def _summary(context: Context, totals: RolloutTotals) -> RolloutSummary:
    if totals.rollout.state == "running":
        # Bytes of what runs are in no storage. It may have ended meanwhile, and be forgotten.
        with contextlib.suppress(NotStored):
            return live_summary(context.hub, *await context.rollouts.get(totals.rollout.id))
    return summary(totals)


def _changing(router: APIRouter, context: Context) -> None:
    hub = context.hub

    async def ids(body: SomeTargets) -> list[str] | None:
        if body.agents is None:
            return None
        # By id without a look into the directory: a machine that was forgotten is still a target.
        records = await hub.directory.current()
        return [one if one in records else (await hub.find(one)).id for one in body.agents]

    @router.post("/rollouts/{rollout_id}/cancel", summary="Cancel what has not ended, everywhere or on some")
    @by_leader
    async def cancel(rollout_id: str, body: SomeTargets) -> RolloutView:
        await context.rollouts.cancel(rollout_id, await ids(body))
        return view(hub, *await context.rollouts.get(rollout_id))

    @router.post(
        "/rollouts/{rollout_id}/retry", summary="Begin again where it did not succeed, everywhere or on some"
    )
    @by_leader
    async def retry(rollout_id: str, body: SomeTargets) -> RolloutView:
        await context.rollouts.retry(rollout_id, await ids(body))
        return view(hub, *await context.rollouts.get(rollout_id))

    @router.delete("/rollouts/{rollout_id}", status_code=204, summary="Forget a rollout that has ended")
    @by_leader
    async def remove(rollout_id: str) -> None:
        await context.rollouts.delete(rollout_id)
