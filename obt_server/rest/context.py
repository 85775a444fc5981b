"""What every route has at hand, and what every route does first: Host, Origin, authentication, errors."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection

from obt_agent.errors import AgentError, StorageFailed
from obt_server.auth import Authenticate, OriginPolicy, Principal
from obt_server.auth.limiter import FailureLimiter
from obt_server.campaigns import CampaignEngine, CampaignSettings
from obt_server.campaigns.evaluation import Evaluation
from obt_server.campaigns.schedules import Schedules
from obt_server.connections import address_key, recognise
from obt_server.engines import EngineParts, Engines, EngineTerms
from obt_server.hub import Hub
from obt_server.replica_storage import LeaderLease
from obt_server.replicas.limits import SharedLimits
from obt_server.replicas.parts import Replicas
from obt_server.rest import audit
from obt_server.rest.fleet import Fleet
from obt_server.rest.forwarding import Forwarding, Handler, is_by_leader, is_forwarded
from obt_server.rest.json_body import JsonRequest
from obt_server.rest.problems import error_response, failure, wrong_request
from obt_server.rest.responses import GATED, Responses
from obt_server.rest.run_news import RunNews
from obt_server.rest.shared_runs import SharedRuns
from obt_server.rest.socket import LinkTraffic
from obt_server.rest.sse import EventStream
from obt_server.rest.struct_route import StructRoute
from obt_server.result_index import ResultIndex
from obt_server.rollouts import RolloutEngine, RolloutSettings
from obt_server.rollouts.fleet_models import FleetModels
from obt_server.rollouts.sets import ModelSets
from obt_server.saved_plans import NamedPlans
from obt_server.storage import ServerStorage
from obt_server.verdict_storage import Regression

PREFIX: Final = "/api/v1"
"""What agents append to the address of their server, which may have a path of its own before it."""


Chore = Callable[[LeaderLease], Coroutine[Any, Any, None]]
"""What one replica alone does, beside the engines: it runs until it is cancelled, or ends by itself."""


@dataclass(frozen=True)
class Context:
    """The parts that the routes speak to.

    Args:
        hub: the live agents.
        storage: what lasts.
        authenticate: who asks.
        origin: which Host and Origin may ask.
        traffic: what agents' sockets carried, for whoever watches the server.
        joins: slows down unknown join tokens and credentials, by address; and known join tokens that are
            refused, each by itself.
        max_body_bytes: largest request body; images in a prompt are the largest honest ones.
        recheck_s: seconds between two looks at whether who reads an open stream may still do so.
        rollout_settings: the numbers of rollouts.
        campaign_settings: the numbers of campaigns.
        prefix: the path before ``/api/v1``, like ``/obt``; empty for none.
        legacy: whether OBT's own interface is served, too.
        join_pins: of the keys that join tokens name, for agents to pin.
        replicas: the other server processes; None where this one is alone.
        chores: what runs beside the engines while this replica leads.
    """

    hub: Hub
    storage: ServerStorage
    authenticate: Authenticate
    origin: OriginPolicy
    traffic: LinkTraffic = field(default_factory=LinkTraffic)
    joins: FailureLimiter = field(default_factory=lambda: FailureLimiter(free=20))
    max_body_bytes: int = 32 << 20
    recheck_s: float = 5.0
    rollout_settings: RolloutSettings = field(default_factory=RolloutSettings)
    campaign_settings: CampaignSettings = field(default_factory=CampaignSettings)
    prefix: str = ""
    legacy: bool = True
    join_pins: tuple[str, ...] = ()
    replicas: Replicas | None = None
    chores: tuple[Chore, ...] = ()

    @functools.cached_property
    def fleet(self) -> Fleet:
        """The agents, rollouts and campaigns as all viewers see them."""
        return Fleet(self.hub, self._run_news, self.shared_runs)

    @functools.cached_property
    def _run_news(self) -> RunNews:
        return RunNews(self.hub, self.engines)

    @functools.cached_property
    def shared_runs(self) -> SharedRuns | None:
        """Rollouts and campaigns as the leader shows them; None where this process is alone."""
        return None if self.replicas is None else SharedRuns(self.replicas, self.hub.events, self._run_news)

    @functools.cached_property
    def forwarding(self) -> Forwarding | None:
        """Hands requests to the leader; None where this process is alone."""
        return None if self.replicas is None else Forwarding(self.replicas)

    @functools.cached_property
    def limits(self) -> SharedLimits | None:
        """What counts in all replicas; None where this process is alone."""
        if self.replicas is None:
            return None
        limits = SharedLimits(self.replicas)
        limits.share("join", self.joins)
        return limits

    @functools.cached_property
    def engines(self) -> EngineTerms:
        """What acts by itself; the router begins and ends its terms."""
        parts = EngineParts(
            plans=self.plans,
            results=self.results,
            models=self.fleet_models,
            rollout_settings=self.rollout_settings,
            campaign_settings=self.campaign_settings,
            on_regression=self.say_regression,
        )
        return EngineTerms(functools.partial(Engines, parts), self.hub, self.storage)

    @property
    def rollouts(self) -> RolloutEngine:
        """What carries rollouts out now: another one in each term."""
        return self.engines.now.rollouts

    @functools.cached_property
    def results(self) -> ResultIndex:
        """Every result in short, a few kilobytes each: one index for lists, plans and campaigns."""
        return ResultIndex(self.storage)

    @functools.cached_property
    def plans(self) -> NamedPlans:
        """Presets and saved plans."""
        return NamedPlans(self.storage)

    @property
    def campaigns(self) -> CampaignEngine:
        """What carries campaigns out now: another one in each term."""
        return self.engines.now.campaigns

    @functools.cached_property
    def fleet_models(self) -> FleetModels:
        """What all machines have."""
        return FleetModels(self.storage)

    @property
    def model_sets(self) -> ModelSets:
        """Model sets against what machines have."""
        return self.engines.now.model_sets

    @property
    def evaluation(self) -> Evaluation:
        """What compares campaigns with their baselines."""
        return self.engines.now.evaluation

    @property
    def schedules(self) -> Schedules:
        """What begins campaigns at their times."""
        return self.engines.now.schedules

    def say_regression(self, regression_id: int, regression: Regression | None) -> None:
        """Tell everybody who listens of a regression; None: it is gone."""
        view = None if regression is None else msgspec.json.encode(regression)
        self.hub.events.regression_changed(regression_id, view)

    async def gate(self, connection: HTTPConnection, *, metrics: bool = False) -> Principal | JSONResponse:
        """Who asks, or the answer to somebody who may not; ``metrics``: tokens of that scope may, too.

        While the database is away nobody can be known, and everybody is answered that.
        """
        try:
            return await self._who_asks(connection, metrics=metrics)
        except StorageFailed as error:
            return error_response(error)

    async def _who_asks(
        self, connection: HTTPConnection, *, metrics: bool = False
    ) -> Principal | JSONResponse:
        # First of all: a page of another site must not even learn whether this browser is signed in. Of what
        # another replica hands on, that one checked it, which may go by other names.
        refusal = None if is_forwarded(connection) else self.origin.check(connection.headers)
        if refusal is not None:
            return failure(refusal.status, "origin_refused", refusal.message)
        principal = await self.authenticate(connection)
        if principal is None:
            return failure(
                401,
                "not_signed_in",
                "Sign in, or send an API token (Authorization: Bearer ...).",
                headers={"WWW-Authenticate": "Bearer"},
            )
        # Least privilege: what is handed to a chat program must open nothing of the operators' interface.
        if principal.inference is not None:
            return failure(
                403, "wrong_scope", "This API token is for inference: it works below /ollama alone."
            )
        if principal.metrics_only and not metrics:
            return failure(403, "wrong_scope", "This API token is for metrics: it reads /metrics alone.")
        # Only now does the connection count as an operator's, or a client's. Strangers have places of their
        # own, and cannot take these.
        if not recognise(connection, "client" if principal.metrics_only else "operator"):
            return failure(
                503,
                "busy",
                "As many requests of operators are open as this server takes; close pages and try again.",
                headers={"Retry-After": "5"},
            )
        return principal

    async def until_refused(self, connection: HTTPConnection) -> JSONResponse:
        """The refusal, once who opened a stream may ask no more: signed out, or the token was revoked."""
        while True:
            # Asked again each time: a sign-out or a revoked token takes effect here too, whichever process
            # wrote it. All open streams at once, so that those of one person share a read.
            now = asyncio.get_running_loop().time()
            await asyncio.sleep(self.recheck_s - now % self.recheck_s)
            # Who was let in before stays while the database is away: nothing says otherwise.
            with contextlib.suppress(StorageFailed):
                passed = await self._who_asks(connection)
                if isinstance(passed, JSONResponse):
                    return passed

    def public_gate(self, connection: HTTPConnection) -> JSONResponse | None:
        """For routes that bring a secret of their own: Host and Origin only."""
        refusal = self.origin.check(connection.headers)
        return None if refusal is None else failure(refusal.status, "origin_refused", refusal.message)


Gate = Callable[[HTTPConnection], Coroutine[Any, Any, Principal | JSONResponse]]


def api_router(
    context: Context, tag: str, documented: Responses = GATED, *, public: bool = False
) -> APIRouter:
    """Return a router for one part of the interface.

    Its routes are whole: the path, the tag, what is documented of every answer. A router that is included in
    another has each of its routes made anew, with its validators, which was most of a server's start.
    """
    kind = public_route_class(context) if public else route_class(context, context.gate)
    return APIRouter(prefix=context.prefix + PREFIX, route_class=kind, tags=[tag], responses=documented)


def route_class(context: Context, gate: Gate) -> type[APIRoute]:
    """Routes that are gated before anything of the request is read, and whose errors are answered as JSON."""

    class GatedRoute(StructRoute):
        def get_route_handler(self) -> Handler:
            inner, audited, action = super().get_route_handler(), audit.is_audited(self), action_of(self)
            if is_by_leader(self) and context.forwarding is not None:
                inner = context.forwarding.around(inner)

            async def handle(request: Request) -> Response:
                # Before anything of the body is read: a stranger cannot make the server hold megabytes.
                passed = await gate(request)
                if isinstance(passed, Response):
                    return passed
                request.state.principal = passed
                if audited:
                    with audit.line(request, action, passed) as entry:
                        answer = await answered(inner, request, context.max_body_bytes)
                        audit.answered(entry, answer)
                else:
                    answer = await answered(inner, request, context.max_body_bytes)
                # It may last for hours, and outlive the permission with which it was opened.
                if isinstance(answer, EventStream):
                    answer.until_refused = lambda: context.until_refused(request)
                return answer

            return handle

    return GatedRoute


def public_route_class(context: Context) -> type[APIRoute]:
    """Routes that bring a secret of their own (enrolment, sign-in)."""

    class PublicRoute(StructRoute):
        def get_route_handler(self) -> Handler:
            inner, action = super().get_route_handler(), action_of(self)

            async def handle(request: Request) -> Response:
                refused = context.public_gate(request)
                if refused is not None:
                    return refused
                # Who it is, the route finds out; until then it is nobody.
                with audit.line(request, action, None) as entry:
                    # A join token or a password fits many times; whoever sends more has shown no credential
                    # yet.
                    answer = await answered(inner, request, 64 << 10)
                    audit.answered(entry, answer)
                return answer

            return handle

    return PublicRoute


def action_of(route: APIRoute) -> str:
    """Return what a route does, as the audit line names it: ``POST /rollouts/{rollout_id}/cancel``."""
    _, _, path = route.path.rpartition(PREFIX)
    return f"{' '.join(sorted(route.methods or ()))} {path}"


async def answered(inner: Handler, request: Request, max_body_bytes: int) -> Response:
    """Run a handler; what it raises on purpose becomes the answer."""
    # The framework reads a body whole: its size is refused here or nowhere.
    length = request.headers.get("content-length")
    if length is not None and (not length.isdigit() or int(length) > max_body_bytes):
        return failure(413, "too_large", f"A request may have {max_body_bytes} bytes.")
    # A body in chunks says no size beforehand, and no client of this interface sends one.
    if length is None and "transfer-encoding" in request.headers:
        return failure(411, "length_required", "Send the body with a Content-Length.")
    try:
        return await inner(JsonRequest(request.scope, request.receive))
    except AgentError as error:
        return error_response(error)
    # The framework's own answer has another shape than every other error here, and says less.
    except RequestValidationError as error:
        return error_response(wrong_request(error, request.headers.get("content-type", "")))


def client_address(connection: HTTPConnection) -> str:
    """Return where a request comes from, for limits by address: of IPv6 the /64."""
    return address_key(connection.client.host) if connection.client is not None else "unknown"


def now() -> float:
    """Unix seconds."""
    return time.time()
