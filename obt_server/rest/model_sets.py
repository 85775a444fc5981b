"""Model sets: models that machines with certain labels are to have, and how far they have them."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from obt_agent.errors import InvalidParams
from obt_agent.labels import Label
from obt_agent.protocol import codec
from obt_server.machine_jobs.local_times import check_times
from obt_server.rest import audit, responses
from obt_server.rest.context import Context, api_router, now
from obt_server.rest.forwarding import by_leader
from obt_server.rest.rollout_views import RolloutSummary, live_summary
from obt_server.rollout_storage import ModelSet, WantedModel, model_key
from obt_server.rollouts.drift import DriftReport, PlannedStep
from obt_server.rollouts.requests import shown_digest, shown_name

MAX_SETS: Final = 200
_EXAMPLE: Final[dict[str, Any]] = {
    "models": [{"name": "llama3.2:1b"}],
    "labels": ["gpu"],
    "converge": "automatic",
    "quiet_hours": "22:00-07:00",
    "time_zone": "Europe/Berlin",
}
SetName = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[^/\\\x00-\x1f]+$")]


class WantedModelBody(BaseModel):
    """A model of a set, and the version that it must have, if any."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=512)]
    digest: str | None = None


class ModelSetBody(BaseModel):
    """A set as it is to be."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    models: Annotated[list[WantedModelBody], Field(max_length=500)]
    labels: Annotated[list[str], Field(max_length=64, description="machines with one of them")]
    prune: Annotated[bool, Field(description="delete other models of these machines")] = False
    converge: Literal["manual", "automatic"] = "manual"
    quiet_hours: Annotated[
        str | None, Field(max_length=32, description="in which nothing converges by itself")
    ] = None
    time_zone: Annotated[str | None, Field(max_length=64, description="the server's own when omitted")] = None


class ConvergeBody(BaseModel):
    """How far to converge."""

    model_config = ConfigDict(extra="forbid")

    update: Annotated[
        bool, Field(description="also pull what other machines have in a newer version, where none is named")
    ] = False


class ModelSetView(msgspec.Struct, frozen=True, kw_only=True):
    """A model set. Times are Unix seconds."""

    name: str
    models: tuple[WantedModel, ...]
    labels: tuple[str, ...]
    prune: bool
    converge: Literal["manual", "automatic"]
    quiet_hours: str | None
    time_zone: str | None
    saved_at: float
    saved_by: str


def routes(context: Context) -> APIRouter:
    """The routes."""
    router = api_router(context, "model sets", responses.ROLLOUT)
    _keeping(router, context)
    _converging(router, context)
    return router


def _keeping(router: APIRouter, context: Context) -> None:
    storage = context.storage

    @router.get("/model-sets", summary="All model sets, by name")
    async def every() -> list[ModelSetView]:
        return [_view(one) for one in await storage.model_sets()]

    @router.put("/model-sets/{name}", summary="Keep a model set, in place of one of the same name")
    async def put(name: SetName, body: ModelSetBody, request: Request) -> ModelSetView:
        wanted = _wanted(name, body, request.state.principal.name)
        names = {one.name for one in await storage.model_sets()}
        # Each is compared with all machines: their number is bounded, not only their size.
        if name not in names and len(names) >= MAX_SETS:
            raise InvalidParams(f"There are {len(names)} model sets, the most that are kept.", field="name")
        await storage.save_model_set(wanted)
        return _view(wanted)

    @router.delete("/model-sets/{name}", status_code=204, summary="Forget a model set; no machine changes")
    async def remove(name: SetName) -> None:
        await storage.delete_model_set(name)


def _converging(router: APIRouter, context: Context) -> None:
    @router.get("/model-sets/{name}/drift", summary="How the machines of a set differ from it")
    async def report(name: SetName) -> DriftReport:
        return await context.model_sets.drift(name)

    @router.post("/model-sets/{name}/preview", summary="What converging would do now; nothing is sent")
    @by_leader
    @audit.reads_only
    async def preview(name: SetName, body: ConvergeBody | None = None) -> list[PlannedStep]:
        return await context.model_sets.preview(name, update=body is not None and body.update)

    @router.post(
        "/model-sets/{name}/converge",
        summary="Make machines like a set; an empty list: there is nothing to do",
    )
    @by_leader
    async def converge(
        name: SetName, request: Request, body: ConvergeBody | None = None
    ) -> list[RolloutSummary]:
        update = body is not None and body.update
        begun = await context.model_sets.converge(name, request.state.principal.name, update=update)
        audit.note(rollouts=", ".join(rollout.id for rollout in begun))
        return [live_summary(context.hub, *await context.rollouts.get(rollout.id)) for rollout in begun]


def _wanted(name: str, body: ModelSetBody, operator: str) -> ModelSet:
    """Return what is stored of a set. Raise InvalidParams."""
    check_times(body.quiet_hours, body.time_zone)
    models = tuple(
        WantedModel(
            name=shown_name(model.name, f"body.models.{index}.name"),
            digest=shown_digest(model.digest, f"body.models.{index}.digest"),
        )
        for index, model in enumerate(body.models)
    )
    if len({model_key(model.name) for model in models}) < len(models):
        raise InvalidParams("body.models: a model is named twice.", field="body.models")
    # By the type that machines' labels have: another word could never match.
    text = msgspec.json.encode(body.labels)
    labels = tuple(dict.fromkeys(codec.convert(text, tuple[Label, ...], where="body.labels")))
    return ModelSet(
        name=name,
        models=models,
        labels=labels,
        prune=body.prune,
        converge=body.converge,
        quiet_hours=body.quiet_hours,
        time_zone=body.time_zone,
        saved_at=now(),
        saved_by=operator,
    )


def _view(wanted: ModelSet) -> ModelSetView:
    return ModelSetView(**{name: getattr(wanted, name) for name in ModelSetView.__struct_fields__})
