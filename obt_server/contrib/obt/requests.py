"""Which requests are about agents, and which are OBT's own."""

from __future__ import annotations

from typing import Final

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from obt_agent.errors import AgentError
from obt_server.contrib.obt.clients import ObtClients
from obt_server.hub import UnknownAgent
from obt_server.rest.context import PREFIX, Context

# Lists in which agents stand beside OBT's own clients.
_SHARED_LISTS: Final = frozenset({"/models/clients", "/hardware", "/hardware/gpu"})
_GENERATE: Final = "/models/generate/"


class AgentsBesideClients:
    """Hands requests about agents to the page's application, and all others on to OBT.

    Who may not see agents gets OBT's own lists from OBT itself, as if there were none.

    Args:
        app: OBT.
        page: what answers for agents.
        context: who may ask, and which agents there are.
        clients: OBT's own clients.
    """

    def __init__(self, app: ASGIApp, *, page: ASGIApp, context: Context, clients: ObtClients) -> None:
        self._app = app
        self._page = page
        self._context = context
        self._clients = clients

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Choose who answers."""
        if scope["type"] in ("http", "websocket") and await self._is_about_agents(HTTPConnection(scope)):
            # A copy: the inner application notes in it which application and router it went through.
            await self._page(dict(scope), receive, send)
        else:
            await self._app(scope, receive, send)

    async def _is_about_agents(self, connection: HTTPConnection) -> bool:
        scope = connection.scope
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        if not path.startswith(f"{PREFIX}/"):
            return False
        path = path.removeprefix(PREFIX)
        # OBT has the code of these routes and does not serve them.
        if path == "/benchmarks" or path.startswith("/benchmarks/"):
            return bool(scope["type"] == "http")
        if scope["type"] == "websocket":
            return path.startswith(_GENERATE) and await self._is_agent(connection)
        # Registrations, heartbeats and reports are those of OBT's own clients.
        if scope["method"] not in ("GET", "HEAD"):
            return False
        path = path.rstrip("/")
        if path in _SHARED_LISTS:
            return not isinstance(await self._context.gate(connection), Response)
        return path == "/models" and await self._is_agent(connection)

    async def _is_agent(self, connection: HTTPConnection) -> bool:
        client_id = connection.query_params.get("client_id", "")
        # OBT's own clients keep their ids: an agent of the same name goes by its own id.
        if not client_id or client_id in self._clients:
            return False
        try:
            await self._context.hub.find(client_id)
        except UnknownAgent:
            return False
        # Several of that name: the answer says so.
        except AgentError:
            return True
        return True
