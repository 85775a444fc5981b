"""What OBT's page asks for, answered for agents and, in shared lists, for OBT's own clients too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Annotated, Any, Protocol

import msgspec
from fastapi import APIRouter, FastAPI, Query, Response
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from obt_agent.benchmark.obt_format import ObtResult
from obt_agent.errors import AgentError
from obt_server.contrib.obt.benchmarks import MAX_LISTED, MAX_RUNS, ObtBenchmarks, ObtStatus, StartRequest
from obt_server.contrib.obt.clients import ObtClients, as_listed, healthy
from obt_server.rest import audit, generate, models, obt_interface, responses
from obt_server.rest.context import Context, api_router
from obt_server.rest.obt_interface import LegacyClient, legacy_clients
from obt_server.rest.problems import STATUS_OF_KIND, error_object


class ObtPromptText(Protocol):
    """A prompt of OBT's."""

    @property
    def id(self) -> str:
        """What the page names it by."""

    @property
    def content(self) -> str:
        """The text."""


Prompts = Callable[[], Awaitable[Iterable[ObtPromptText]]]
"""OBT's ``get_available_prompts``."""


class StartBody(BaseModel):
    """What the page sends to start benchmarks: each model with each prompt.

    ``prompts`` are ids or texts; without any, all of OBT's prompts. ``hardware`` is ``use_gpu`` and
    ``gpu_id``; what else the page puts there describes the browser's machine, and is not read.
    """

    client_id: str
    models: Annotated[list[str], Field(min_length=1, max_length=MAX_RUNS)]
    prompts: Annotated[list[str | None], Field(max_length=MAX_RUNS)] | None = None
    hardware: dict[str, Any] | None = None


def page_application(context: Context, clients: ObtClients, prompts: Prompts | None) -> FastAPI:
    """Return the application that answers for agents."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    # Those made here first: they stand in place of the lists that know agents alone.
    parts = (_lists(context, clients), _benchmarks(context, clients, prompts))
    for part in (*parts, *(one.routes(context) for one in (obt_interface, models, generate))):
        app.routes.extend(part.routes)
    return app


def _lists(context: Context, clients: ObtClients) -> APIRouter:
    router = api_router(context, "OBT's page", responses.AGENT)

    async def agents() -> list[LegacyClient]:
        return await legacy_clients(context, taken=clients)

    @router.get("/models/clients")
    async def every_client() -> JSONResponse:
        now = datetime.now()  # noqa: DTZ005 - OBT's own times have no zone
        own = [as_listed(client_id, client, now) for client_id, client in healthy(clients, now).items()]
        return _json([*own, *map(msgspec.to_builtins, await agents())])

    @router.get("/hardware")
    @router.get("/hardware/")
    async def hardware() -> JSONResponse:
        now = datetime.now()  # noqa: DTZ005 - OBT's own times have no zone
        known = healthy(clients, now).items()
        own = {client_id: client["hardware"] for client_id, client in known if client.get("hardware")}
        return _json(own | {one.id: msgspec.to_builtins(one.hardware) for one in await agents()})

    @router.get("/hardware/gpu")
    async def gpus() -> JSONResponse:
        now = datetime.now()  # noqa: DTZ005 - OBT's own times have no zone
        known = healthy(clients, now).items()
        found: list[tuple[str, Any]] = [
            (client_id, client.get("hardware") or {}) for client_id, client in known
        ]
        found += [(one.id, msgspec.to_builtins(one.hardware)) for one in await agents()]
        return _json(
            [
                # The page reads an id, and the memory in GB.
                {**gpu, "id": gpu["index"], "memory": round(gpu["vram_size"] / 1024), "client_id": client_id}
                for client_id, hardware in found
                for gpu in hardware.get("gpus") or ()
            ]
        )

    return router


def _json(value: Any) -> JSONResponse:
    # OBT's own entries hold its pydantic models and times.
    return JSONResponse(jsonable_encoder(value))


def _benchmarks(context: Context, clients: ObtClients, prompts: Prompts | None) -> APIRouter:
    router = api_router(context, "OBT's page", responses.AGENT)
    benchmarks = ObtBenchmarks(context, clients)

    @router.post("/benchmarks/start")
    async def start(body: StartBody) -> JSONResponse:
        try:
            texts = await _prompt_texts(body.prompts, prompts)
            request = StartRequest(body.client_id, tuple(body.models), texts, body.hardware or {})
            audit.note(*([body.client_id] if body.client_id else []))
            ids, errors = await benchmarks.start(request)
        except AgentError as error:
            return _refused(error)
        return JSONResponse({"benchmark_ids": ids, "errors": errors})

    @router.get("/benchmarks")
    @router.get("/benchmarks/results")
    async def results(
        model_name: str | None = None,
        client_id: str | None = None,
        status: ObtStatus | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 50,
    ) -> Response:
        return _json_text(await benchmarks.listed(model_name, client_id, status, limit))

    @router.get("/benchmarks/status/{benchmark_id}")
    async def one(benchmark_id: str) -> Response:
        return _json_text(await benchmarks.one(benchmark_id))

    @router.delete("/benchmarks/results/{benchmark_id}")
    @router.delete("/benchmarks/{benchmark_id}")
    async def remove(benchmark_id: str) -> JSONResponse:
        try:
            forgotten = await benchmarks.delete(benchmark_id)
        except AgentError as error:
            return _refused(error)
        # One that has not ended ends now, and can be forgotten then.
        return JSONResponse({"status": "ok" if forgotten else "cancelling"})

    return router


def _json_text(value: ObtResult | list[ObtResult]) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


async def _prompt_texts(named: Iterable[str | None] | None, prompts: Prompts | None) -> tuple[str, ...]:
    """Return the texts of ids; what is no id is a text itself, as one of the page's forms sends it."""
    known = {} if prompts is None else {one.id: one.content for one in await prompts()}
    # A form of the page sends null for a whole list of prompts.
    given = [name for name in named or () if name]
    return tuple(known.get(name, name) for name in given) if given else tuple(known.values())


def _refused(error: AgentError) -> JSONResponse:
    """An error in this project's shape, and in the one word that OBT's page reads."""
    body = {"error": error_object(error), "detail": error.message}
    return JSONResponse(body, status_code=STATUS_OF_KIND.get(error.kind, 502))
