"""For the owner of OBT: agents as clients of its page, beside OBT's own clients.

In ``backend/app/main.py``, after the application and its CORS middleware are made:

    from obt_server.contrib.obt import mount_agents

    mount_agents(
        app,
        database="agents.sqlite3",
        clients=ollama.ollama_clients,
        prompts=get_available_prompts,
        origins=["http://localhost:5173", "http://127.0.0.1:5173"],
        local_page=True,
    )

``docs/how-to/obt.md`` has the steps, what the page then does, and who may do it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Final

from fastapi import APIRouter, FastAPI
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection

from obt_server.auth import Authenticate, OriginPolicy, Principal
from obt_server.auth.operators import Operators
from obt_server.contrib.obt.clients import ObtClients
from obt_server.contrib.obt.local_page import is_local_page
from obt_server.contrib.obt.page import Prompts, page_application
from obt_server.contrib.obt.requests import AgentsBesideClients
from obt_server.hub import AgentHub
from obt_server.rest.context import Context
from obt_server.router import router_for
from obt_server.store import Database, OperatorStore, SqlStorage

PREFIX: Final = "/obt"
"""The path before ``/api/v1`` of all that is not OBT's own. Agents dial ``http://HOST:8881/obt``."""


def mount_agents(
    app: FastAPI,
    *,
    database: str | Path,
    clients: ObtClients,
    prompts: Prompts | None = None,
    origins: Iterable[str] = (),
    authenticate: Authenticate | None = None,
    local_page: bool = False,
) -> AgentHub:
    """Show agents as clients of OBT's page, and serve the REST interface and the agents under ``PREFIX``.

    Call it before the application starts. OBT's own routes stay, and answer for its own clients.

    Args:
        app: OBT's application.
        database: the SQLite file of agents, tokens and results; made where it is missing.
        clients: OBT's ``ollama_clients``. It is read, and never written.
        prompts: OBT's ``get_available_prompts``: what a benchmark runs that names prompts, or none.
        origins: where OBT's page is served from, as the application's CORS middleware has it.
        authenticate: who asks; API tokens of ``obt-server operators token`` when omitted.
        local_page: whether the page, which sends no token, may drive agents from a browser on this machine.
            Whoever may use this machine may then do through those paths what the agents' owners allow; the
            paths under ``PREFIX`` still ask for a token.

    Returns:
        The hub, for code of the application's own.

    Raises:
        ValueError: one of ``origins`` is no origin.
        RuntimeError: the application has begun to serve.
        SchemaTooNew: a newer release wrote the database.
    """
    if app.middleware_stack is not None:
        raise RuntimeError("mount_agents comes before the application's first request")
    store = Database.sqlite(Path(database))
    storage = SqlStorage(store)
    hub = AgentHub(storage)
    known = authenticate or Operators(OperatorStore(store)).authenticate
    # OBT does not know its own names. The local page is held to those of the loopback.
    policy = OriginPolicy.of(None, https_only=False, origins=origins)
    context = Context(hub, storage, known, policy, prefix=PREFIX, legacy=False)
    app.include_router(_with_store(router_for(context), store))

    async def known_or_local(connection: HTTPConnection) -> Principal | None:
        found = await known(connection)
        # After a token or cookie: a log then names who it was.
        if found is None and local_page and is_local_page(connection):
            return Principal("page on this machine")
        return found

    of_page = dataclasses.replace(context, authenticate=known_or_local, prefix="", legacy=True)
    page = page_application(of_page, clients, prompts)
    # The innermost: the application's CORS middleware answers for these paths, too.
    app.user_middleware.append(Middleware(AgentsBesideClients, page=page, context=of_page, clients=clients))
    return hub


def _with_store(router: APIRouter, store: Database) -> APIRouter:
    """The router's routes, with a lifespan at whose end the database is closed, after the agents left."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with router.lifespan_context(app):
            yield
        await asyncio.to_thread(store.close)

    whole = APIRouter(lifespan=lifespan)
    whole.routes.extend(router.routes)
    return whole
