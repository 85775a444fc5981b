"""``WS /agents/connect``: where agents dial."""

from __future__ import annotations

import time

from fastapi import APIRouter, WebSocket
from starlette.responses import JSONResponse, Response

from obt_agent.errors import Busy, StorageFailed
from obt_agent.protocol.limits import SUBPROTOCOL
from obt_server.auth import secrets
from obt_server.auth.operators import bearer
from obt_server.connections import recognise
from obt_server.hub import StoredCredential
from obt_server.hub.errors import Draining
from obt_server.rest.context import PREFIX, Context, client_address
from obt_server.rest.problems import error_response, failure
from obt_server.rest.socket import StarletteSocket, refuse


def routes(context: Context) -> APIRouter:
    """The route."""
    router = APIRouter(prefix=context.prefix + PREFIX)

    @router.websocket("/agents/connect")
    async def connect(websocket: WebSocket) -> None:
        # Everything is refused before the upgrade: a status with a reason says more than a close code, and a
        # proxy's log has it too.
        admitted = await _credential(context, websocket)
        if isinstance(admitted, Response):
            await refuse(websocket, admitted)
            return
        await websocket.accept(subprotocol=SUBPROTOCOL)
        # Nobody reads them again, and the scope lasts as long as the session.
        websocket.scope["headers"] = []
        await context.hub.serve(StarletteSocket(websocket, context.traffic), admitted)

    @router.get("/agents/connect", include_in_schema=False)
    async def without_upgrade() -> JSONResponse:
        # Without this route the path would be that of an agent called "connect", answered 401, and the agent
        # would blame its credential for what a proxy's configuration does.
        return failure(
            426,
            "upgrade_missing",
            "This address is for WebSockets, and the request came without Upgrade. Let the proxy pass it "
            "on (nginx: proxy_http_version 1.1, proxy_set_header Upgrade and Connection; Apache: "
            "ProxyPass ... upgrade=websocket). docs/how-to/server.md has tried configurations.",
            headers={"Upgrade": "websocket"},
        )

    return router


async def _credential(context: Context, websocket: WebSocket) -> StoredCredential | Response:
    """The credential that the agent comes with, or the refusal of the upgrade."""
    # Agents send no Origin; a browser that does is another site's page which tries its luck.
    refused = context.public_gate(websocket)
    if refused is not None:
        return refused
    if SUBPROTOCOL not in websocket.scope.get("subprotocols", []):
        return failure(
            426,
            "subprotocol",
            f"Ask for the WebSocket subprotocol {SUBPROTOCOL}.",
            headers={"Upgrade": "websocket", "Sec-WebSocket-Protocol": SUBPROTOCOL},
        )
    try:
        # Before the database is asked: a server that is full or stops must answer a returning fleet cheaply.
        context.hub.check_capacity()
    except Draining as error:
        return error_response(error)
    try:
        return await _check_token(context, websocket)
    # The database is away: agents come back by themselves.
    except StorageFailed as error:
        return error_response(error)


async def _check_token(context: Context, websocket: WebSocket) -> StoredCredential | Response:
    """A credential that is known passes whatever others tried: strangers must not lock the fleet out."""
    token = bearer(websocket)
    found = None if token is None else await context.storage.credential(secrets.sha256(token))
    if found is not None:
        try:
            context.hub.check_dials(found.agent_id)
        except Busy as error:
            return error_response(error)
        # The credential is known: the connection leaves the places of strangers, which a flood may fill.
        if recognise(websocket, "agent"):
            return found
        return error_response(Draining("The server has as many agents as it takes.", retry_after_ms=60_000))
    address, at = client_address(websocket), time.monotonic()
    # Asked after the lookup, so that a wrong neighbour behind the same address delays no agent that is known.
    wait = context.joins.wait_s(address, at)
    if wait > 0:
        retry = {"Retry-After": str(int(wait) + 1)}
        return failure(429, "too_many_attempts", "Too many refused credentials.", headers=retry)
    context.joins.failed(address, at)
    return failure(
        401,
        "credential_refused",
        "This credential is not known here: enrol the agent (obt-agent enroll URL).",
        headers={"WWW-Authenticate": "Bearer"},
    )
