"""The router: everything under ``/api/v1``, for any FastAPI application.

    hub = AgentHub(storage)
    app.include_router(obt_router(hub, storage, authenticate=my_function))

``my_function`` takes a Starlette ``HTTPConnection`` (an HTTP request or a WebSocket) and gives a
``Principal``, or None for somebody who may not drive machines.
``storage`` implements ``obt_server.storage.ServerStorage``; ``obt_server.store.SqlStorage`` does on any
engine of SQLAlchemy's. Agents bring credentials of their own. ``docs/examples/embedded_hub.py`` is a whole
application.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Final

from fastapi import APIRouter, FastAPI

from obt_agent.struct_types import prepare_all
from obt_server.auth import Authenticate, OriginPolicy
from obt_server.gateway import GatewaySettings, gateway_router
from obt_server.hub import Hub
from obt_server.rest import (
    agents,
    benchmarks,
    campaigns,
    commands,
    connect,
    enroll,
    generate,
    leading,
    model_matrix,
    model_sets,
    models,
    obt_interface,
    plans,
    results,
    rollouts,
    schedules,
    signed,
    tokens,
    verdicts,
)
from obt_server.rest.context import Context
from obt_server.stop_signals import drained_before_stop
from obt_server.storage import ServerStorage
from obt_server.tasks import end_tasks, every

ENFORCE_EVERY_S = 2.0
# enrolment before agents, so that no agent called "enroll" hides it
_PARTS: Final = (
    connect,
    enroll,
    generate,
    obt_interface,
    model_matrix,
    model_sets,
    models,
    agents,
    commands,
    benchmarks,
    results,
    plans,
    rollouts,
    campaigns,
    verdicts,
    schedules,
    signed,
    tokens,
)
_LEGACY: Final = (generate, obt_interface)


def obt_router(  # noqa: PLR0913 - each is a choice of the application's, given by name
    hub: Hub,
    storage: ServerStorage,
    *,
    authenticate: Authenticate,
    hosts: Iterable[str] | None = None,
    origins: Iterable[str] = (),
    prefix: str = "",
    legacy: bool = True,
    gateway: GatewaySettings | None = None,
) -> APIRouter:
    """Everything that agents and operators need, under ``/api/v1``.

    Args:
        hub: the live agents; one hub a process.
        storage: what lasts.
        authenticate: who asks; called for each request but those that agents make with their own secrets.
        hosts: names that this server goes by, checked against ``Host``; omitted where the application, or
            what stands before it, does that. ``Origin`` is checked in any case.
        origins: other sites whose pages may ask, like ``http://localhost:5173``. The application answers
            their browsers with CORS headers (Starlette's ``CORSMiddleware``).
        prefix: the path before ``/api/v1``, like ``/obt``, where the application has routes there of its own.
            It is a part of the address that agents are given: ``https://obt.example.org/obt``.
        legacy: whether the paths of OBT's own interface are served as well (``/models/clients``,
            ``/models/``, the WebSocket ``/models/generate``).
        gateway: serve the gateway below ``/ollama`` (without ``prefix``), within these bounds; omitted, there
            is none.
            ``authenticate`` then gives a ``Principal`` with ``inference`` for the tokens that it takes.

    Raises:
        ValueError: one of ``origins`` is no origin, or ``prefix`` is no path.
    """
    if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
        raise ValueError(f"prefix={prefix!r}: write a path like /obt")
    # Without names Host is left to whoever stands in front; Origin is compared with Host all the same.
    policy = OriginPolicy.of(hosts, https_only=False, origins=origins)
    return router_for(Context(hub, storage, authenticate, policy, prefix=prefix, legacy=legacy), gateway)


def router_for(context: Context, gateway: GatewaySettings | None = None) -> APIRouter:
    """The router on a context of the caller's."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # Requests and the database's threads decode the same types.
        prepare_all()
        # The tasks live as long as the application: nothing of a hub runs before or after it serves.
        hub = context.hub
        seen_every_s = hub.settings.seen_interval_s
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(hub.serving())
            stack.push_async_callback(hub.drain)
            # Before anybody is served: what was begun before a restart has its locks before anything new
            # begins.
            acting = (
                context.engines.term()
                if context.replicas is None
                else leading.serving(context, context.replicas, _answering(router))
            )
            await stack.enter_async_context(acting)
            tasks = [
                # what another process wrote to the storage (a revocation, a request to rotate) takes effect
                # here
                every(ENFORCE_EVERY_S, hub.enforce_credentials, "enforce credentials"),
                every(ENFORCE_EVERY_S, hub.refresh, "refresh agents"),
                every(seen_every_s, hub.store_last_seen, "store last seen"),
            ]
            # Ended before the hub drains: a revocation in mid-work must not meet sessions that are going.
            stack.push_async_callback(end_tasks, tasks)
            # A server that closes sockets before this block ends would leave nobody to take leave of.
            with drained_before_stop(hub.drain):
                yield

    router = APIRouter(lifespan=lifespan)
    for part in _PARTS:
        if part in _LEGACY and not context.legacy:
            continue
        router.routes.extend(part.routes(context).routes)
    if gateway is not None:
        router.routes.extend(gateway_router(context, gateway).routes)
    return router


def _answering(router: APIRouter) -> FastAPI:
    """The routes as an application of their own: what another replica hands on has passed all around them."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.routes.extend(router.routes)
    return app
