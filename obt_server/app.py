"""The reference application: router, operators, guards and headers around a database."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from obt_server import page
from obt_server.auth.operators import Operators
from obt_server.auth.origin import LOOPBACK_NAMES, OriginPolicy
from obt_server.campaigns import CampaignSettings
from obt_server.gateway import GatewaySettings
from obt_server.hub import AgentHub, Hub, HubSettings
from obt_server.request_log import RequestLogMiddleware
from obt_server.rest import health, metrics, responses, session
from obt_server.rest.context import PREFIX, Context, api_router
from obt_server.rest.health import Readiness
from obt_server.rest.metrics import MetricsExporter
from obt_server.rest.problems import failure
from obt_server.rest.server_metrics import ReplicaFigures
from obt_server.rest.socket import refuse
from obt_server.rollouts import RolloutSettings
from obt_server.router import router_for
from obt_server.store import AgentQuota, Database, OperatorStore, SqlStorage
from obt_server.store.leases import FencedDatabase
from obt_server.store.retention import Retention, RetentionSettings

if TYPE_CHECKING:
    from obt_server.bus import Bus
    from obt_server.replicas.fleet_hub import FleetHub
    from obt_server.replicas.limits import SharedLimits
    from obt_server.replicas.membership import Membership

# Nothing inline and nothing from elsewhere: what a machine puts into a name or an answer cannot run. Images
# as data: the charts that are saved as files, and those attached to a prompt.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
ROOT_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")
"""A path that a proxy may serve this server under."""
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def version() -> str:
    """The installed release."""
    return metadata.version("obt-agent")


@dataclass(frozen=True)
class AppSettings:
    """How the reference application is set.

    Args:
        database: the SQLite file, or an address that ``Database.open`` takes.
        hosts: names that it goes by, besides those of the loopback.
        https: whether browsers reach it by https alone.
        hub: the hub's numbers.
        quota: what each agent may make the database keep.
        recheck_s: see ``Context``.
        root_path: the path under which a proxy serves this server, like ``/obt``; empty for none.
        forwarded_prefix: whether ``X-Forwarded-Prefix`` names that path, request by request.
        rollouts: the numbers of rollouts.
        gateway: the bounds of the gateway below ``/ollama``; None for no gateway.
        campaigns: the numbers of campaigns.
        retention: what is removed when it is old.
        request_log: whether each request is a line of the log.
        join_pins: of the keys that join tokens name.
        bus: to the other server processes on the same database; None for one process alone.
    """

    database: Path | str
    hosts: tuple[str, ...] = ()
    https: bool = False
    hub: HubSettings = field(default_factory=lambda: HubSettings(version=version()))
    quota: AgentQuota = field(default_factory=AgentQuota)
    recheck_s: float = 5.0
    root_path: str = ""
    forwarded_prefix: bool = False
    rollouts: RolloutSettings = field(default_factory=RolloutSettings)
    gateway: GatewaySettings | None = None
    campaigns: CampaignSettings = field(default_factory=CampaignSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    request_log: bool = False
    join_pins: tuple[str, ...] = ()
    bus: Bus | None = None


@dataclass(frozen=True)
class Server:
    """The parts of the reference application, for those who build around it.

    ``hub`` reaches every agent; ``local_hub`` is that of the agents whose sockets this process has.
    """

    app: FastAPI
    hub: Hub
    local_hub: AgentHub
    storage: SqlStorage
    operators: Operators
    database: Database
    context: Context
    exporter: MetricsExporter
    readiness: Readiness


def build(settings: AppSettings) -> Server:
    """Open the database and put everything together. The caller closes ``database`` at the end.

    Routes may be added to ``app`` afterwards. ``Host`` and ``Origin`` are checked before them as before all
    others; who asks is theirs to find out (``await context.gate(request)``).
    """
    # One database for machines and operators: a token that is revoked on the command line is gone for both.
    database = Database.open(settings.database)
    storage, operators = SqlStorage(database, settings.quota), Operators(OperatorStore(database))
    retention = Retention(database, settings.retention)
    local_hub = AgentHub(storage, settings.hub)
    fleet = None if settings.bus is None else _fleet_hub(local_hub, storage, settings.bus)
    hub: Hub = fleet or local_hub
    # Somebody on the server's own machine always gets in by its loopback, whatever names it has outside.
    policy = OriginPolicy.of([*LOOPBACK_NAMES, *settings.hosts], https_only=settings.https)
    context = Context(
        hub,
        storage,
        operators.authenticate,
        policy,
        recheck_s=settings.recheck_s,
        rollout_settings=settings.rollouts,
        campaign_settings=settings.campaigns,
        join_pins=settings.join_pins,
        replicas=fleet,
        chores=(lambda lease: retention.run(FencedDatabase(database, lease)),),
    )
    _share_limits(operators, context.limits)
    router = router_for(context, settings.gateway)
    # Of several processes the one that leads removes what is old.
    lifespan = router.lifespan_context
    app = _empty(_with_retention(lifespan, retention) if fleet is None else lifespan)
    # Taken as they are: to include a router would make each of its routes anew.
    app.routes.extend(router.routes)
    # Signing in is the reference application's own: an application that mounts the router has its own.
    app.routes.extend(session.routes(context, operators, secure_cookie=settings.https).routes)
    app.routes.extend(_description(context, app).routes)
    exporter = MetricsExporter(context, storage, database, lambda: retention.removed)
    if fleet is not None:
        exporter.replicas = lambda: _replica_figures(fleet.membership)
    app.routes.extend(metrics.routes(context, exporter).routes)
    readiness = Readiness(lambda: hub.draining, storage.ping)
    app.routes.extend(health.routes(readiness).routes)
    page.mount(app)
    app.add_exception_handler(HTTPException, _no_such_route)
    app.add_middleware(SecurityMiddleware, policy=policy)
    # the last one added is the outermost: everything inside sees one path and one prefix
    app.add_middleware(
        PrefixMiddleware, root_path=settings.root_path, forwarded_prefix=settings.forwarded_prefix
    )
    if settings.request_log:
        app.add_middleware(RequestLogMiddleware)
    return Server(app, hub, local_hub, storage, operators, database, context, exporter, readiness)


def _share_limits(operators: Operators, limits: SharedLimits | None) -> None:
    """Let failed sign-ins count in all server processes."""
    if limits is not None:
        for name, limiter in operators.limiters.items():
            limits.share(name, limiter)
        operators.claim = limits.claim


def _fleet_hub(local_hub: AgentHub, storage: SqlStorage, bus: Bus) -> FleetHub:
    # Only here: one process alone has nothing of it in memory.
    from obt_server.replicas.fleet_hub import FleetHub  # noqa: PLC0415
    from obt_server.replicas.membership import Membership  # noqa: PLC0415
    from obt_server.replicas.own_state import own_state  # noqa: PLC0415

    membership = Membership(storage)
    fleet = FleetHub(local_hub, storage, bus, membership)
    membership.describe = lambda: own_state(fleet, version())
    return fleet


def _replica_figures(membership: Membership) -> ReplicaFigures:
    state = membership.describe()
    return ReplicaFigures(
        running=1 + len(membership.others),
        leading=membership.leading,
        epoch=membership.epoch,
        bus_connected=state.bus_connected,
        exchanges=state.exchanges,
    )


def _empty(lifespan: Lifespan[FastAPI]) -> FastAPI:
    """An application without routes."""
    return FastAPI(
        lifespan=lifespan,
        title="OBT server",
        version=version(),
        description="Drives obt-agents: models, hardware, generation and benchmarks on machines behind NAT. "
        "Agents have a WebSocket of their own (docs/reference/protocol.md); generation has one at "
        "`/api/v1/models/generate/{model}?client_id={agent}` (docs/how-to/server.md).",
        # The framework's own pages would load scripts from elsewhere, and describe the interface to
        # strangers.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # An address that is wrong by a slash is answered 404, as every other that is wrong.
        redirect_slashes=False,
    )


def _with_retention(lifespan: Lifespan[FastAPI], retention: Retention) -> Lifespan[FastAPI]:
    """The lifespan, with old rows removed meanwhile."""

    @contextlib.asynccontextmanager
    async def both(app: FastAPI) -> AsyncIterator[None]:
        async with lifespan(app):
            removing = asyncio.create_task(retention.run(), name="retention")
            try:
                yield
            finally:
                # Before the database closes; a batch that runs is committed or undone as a whole.
                removing.cancel()
                await asyncio.gather(removing, return_exceptions=True)

    return both


def _description(context: Context, app: FastAPI) -> APIRouter:
    router = api_router(context, "description")

    @router.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> JSONResponse:
        # Behind the gate as everything else: whoever may not ask needs no description.
        document = responses.with_security(app.openapi(), PREFIX)
        root: str = request.scope.get("root_path", "")
        return JSONResponse({**document, "servers": [{"url": root}]} if root else document)

    return router


async def _no_such_route(request: Request, error: Exception) -> JSONResponse:
    """What the framework itself refuses (no such path, no such method), in the shape of every other error."""
    # The framework raises this type alone here; its handler's signature says Exception.
    status = error.status_code if isinstance(error, HTTPException) else 500
    kind = {404: "not_found", 405: "method_not_allowed"}.get(status, "invalid_request")
    message = f"{request.method} {request.url.path[:200]}: {getattr(error, 'detail', 'refused')}."
    return failure(status, kind, message, headers=getattr(error, "headers", None))


class PrefixMiddleware:
    """Serve under a path of somebody else's host, whether the proxy takes the path off or leaves it on.

    Args:
        app: what is served.
        root_path: the path; empty for none.
        forwarded_prefix: whether ``X-Forwarded-Prefix`` may name it. Whoever forges it changes no more than
            the path of the own cookie.
    """

    def __init__(self, app: ASGIApp, root_path: str, *, forwarded_prefix: bool) -> None:
        self._app = app
        self._root_path = root_path
        self._forwarded_prefix = forwarded_prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put the prefix into ``root_path``, and in front of the path where the proxy took it off."""
        prefix = self._root_path
        # A prefix that the operator configured wins over one that a request brings.
        if scope["type"] != "lifespan" and self._forwarded_prefix and not prefix:
            named = Headers(scope=scope).get("x-forwarded-prefix", "").rstrip("/")
            prefix = named if ROOT_PATH.fullmatch(named) else ""
        if scope["type"] == "lifespan" or not prefix:
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if path == prefix:
            # the page's own files are relative: they need the slash at the end
            await RedirectResponse(f"{prefix}/")(scope, receive, send)
            return
        # Some proxies take the prefix off and others leave it on: the application sees it in either case.
        if not path.startswith(f"{prefix}/"):
            path = prefix + path
        await self._app({**scope, "path": path, "root_path": prefix}, receive, send)


class SecurityMiddleware:
    """Around everything: Host and Origin before, headers after.

    Args:
        app: what it guards.
        policy: which Host and Origin may ask.
    """

    def __init__(self, app: ASGIApp, policy: OriginPolicy) -> None:
        self._app = app
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or let through with headers."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        # Around everything, the page's files too: a site that points its own name here must not even load the
        # page.
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        # Probes ask by the address of a machine or container, which is no name of the server's.
        refusal = None if path in health.PATHS else self._policy.check(Headers(scope=scope))
        if refusal is None:
            # A WebSocket's answer has no page to protect, and the server's own headers must stay as they are.
            await self._app(scope, receive, _with_headers(send) if scope["type"] == "http" else send)
            return
        response = failure(refusal.status, "origin_refused", refusal.message)
        if scope["type"] == "websocket":
            await refuse(WebSocket(scope, receive, send), response)
        else:
            await response(scope, receive, send)


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                # A route may say otherwise for its own answer; none is stricter.
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers
