"""An application of somebody else's with agents in it: its own users, its own routes, the hub's calls.

    pip install './obt-agent[server]'
    COMPANY_KEY=secret uvicorn --factory embedded_hub:build --ws websockets-sansio

Agents dial http://127.0.0.1:8000/agents. A join token for the first one:

    curl -X POST -H 'X-Company-Key: secret' -H 'Content-Type: application/json' -d '{}' \
        http://127.0.0.1:8000/agents/api/v1/join-tokens
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.requests import HTTPConnection

from obt_agent.errors import AgentError
from obt_server.auth import Principal
from obt_server.hub import AgentHub
from obt_server.router import obt_router
from obt_server.store import Database, SqlStorage

ENDED = ("completed", "failed", "cancelled", "interrupted", "lost")
WITHIN_S = 3600.0


async def who_is_this(connection: HTTPConnection) -> Principal | None:
    """Say who asks; here everybody who has the company's key. Called for HTTP requests and WebSockets."""
    key = os.environ["COMPANY_KEY"].encode()
    given = connection.headers.get("x-company-key", "").encode()
    return Principal("colleague") if hmac.compare_digest(given, key) else None


async def signed_in(request: Request) -> Principal:
    """Refuse strangers: routes of the application's own are not the router's to guard."""
    who = await who_is_this(request)
    if who is None:
        raise HTTPException(401, "Send X-Company-Key.")
    return who


Colleague = Annotated[Principal, Depends(signed_in)]


def build(path: Path = Path("agents.sqlite3")) -> FastAPI:
    """Return the application. Run it in one process: an agent's session lives in one."""
    database = Database.sqlite(path)
    storage = SqlStorage(database)
    hub = AgentHub(storage)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        # After the router's own end, in which the agents leave.
        await asyncio.to_thread(database.close)

    app = FastAPI(title="An application with agents", lifespan=lifespan)
    # Everything that operators and agents need, beside the application's own routes.
    app.include_router(obt_router(hub, storage, authenticate=who_is_this, prefix="/agents", legacy=False))
    _own_routes(app, hub, storage)

    @app.exception_handler(AgentError)
    async def refused(_: Request, error: Exception) -> JSONResponse:
        # Offline, not permitted, no such model: the message is written for the person at the screen.
        return JSONResponse({"detail": str(error), "kind": getattr(error, "kind", "error")}, 502)

    return app


def _own_routes(app: FastAPI, hub: AgentHub, storage: SqlStorage) -> None:
    @app.get("/machines")
    async def machines(_: Colleague) -> list[dict[str, Any]]:
        found = []
        for agent in await storage.agents():
            # What its session reported; None while it has none.
            presence = hub.presence(agent.id)
            found.append(
                {
                    "name": agent.name,
                    "online": presence is not None,
                    "models": sorted(presence.models or ()) if presence else [],
                    "gpus": [gpu.name for gpu in presence.gpus] if presence else [],
                }
            )
        return found

    @app.post("/ask/{machine}")
    async def ask(machine: str, model: str, prompt: str, _: Colleague) -> dict[str, Any]:
        agent = await hub.find(machine)
        # Leaving the block cancels the command on the machine, whatever the reason.
        async with hub.stream(agent.id, "generate", {"model": model, "prompt": prompt}) as stream:
            words = [item.chunk["response"] async for item in stream]
            tokens = stream.result.final["eval_count"]
        return {"answer": "".join(words), "tokens": tokens}

    @app.post("/measure/{machine}")
    async def measure(machine: str, model: str, _: Colleague) -> dict[str, Any]:
        agent = await hub.find(machine)
        # Listening before the start: a benchmark that ends at once must not be missed.
        with hub.events.listen() as events:
            job = await hub.start_job(agent.id, "run_benchmark", {"plan": {"model_name": model}})
            async with asyncio.timeout(WITHIN_S):
                # An event says that something changed; what is stored says how it is.
                while (stored := await storage.job_by_id(job.job_id, agent.id)).state not in ENDED:
                    await events.next()
        return {"job": job.job_id, "state": stored.state, "bytes": stored.bytes}
