"""The router in somebody else's application, with that application's own authentication and storage."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
import websockets
from fastapi import FastAPI
from starlette.requests import HTTPConnection

from obt_agent.ollama.payloads import InstalledModel
from obt_server.auth import Principal, secrets
from obt_server.hub import AgentHub
from obt_server.router import obt_router
from tests.server.agent_double import dial, uuid7
from tests.server.job_steps import RESULT, accept, finish
from tests.server.memory_storage import MemoryStorage
from tests.server.test_streams import quick

OWN_KEY = {"X-Company-Key": "let me in"}


async def company_sign_in(connection: HTTPConnection) -> Principal | None:
    return Principal("colleague") if connection.headers.get("x-company-key") == "let me in" else None


@asynccontextmanager
async def foreign_application(hosts: list[str] | None = None) -> AsyncIterator[tuple[str, AgentHub]]:
    """An application with a page of its own; the two lines are those of the router's documentation."""
    app = FastAPI()

    @app.get("/own")
    async def own() -> dict[str, bool]:
        return {"own": True}

    storage = MemoryStorage()
    hub = AgentHub(storage)
    app.include_router(obt_router(hub, storage, authenticate=company_sign_in, hosts=hosts))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            port=0,
            ws="websockets-sansio",
            ws_ping_interval=None,
            ws_per_message_deflate=False,
            log_config=None,
        )
    )
    task = asyncio.create_task(server.serve(), name="foreign application")
    async with asyncio.timeout(20):
        while not server.started:  # noqa: ASYNC110 -- uvicorn itself tells nobody
            await asyncio.sleep(0)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", hub
    server.should_exit = True
    async with asyncio.timeout(20):
        await task


async def test_agents_and_colleagues_meet_in_a_foreign_application() -> None:
    async with (
        foreign_application() as (url, _),
        httpx.AsyncClient(base_url=url, headers=OWN_KEY, timeout=20, trust_env=False) as http,
    ):
        assert (await http.get("/own")).json() == {"own": True}
        token = (await http.post("/api/v1/join-tokens", json={})).json()["secret"]
        agent_id = uuid7()
        body = {
            "agent": {"id": agent_id, "name": "pc", "version": "1"},
            "secret_sha256": secrets.sha256("mine"),
        }
        bearer = {"Authorization": f"Bearer {token}"}
        assert (await http.post("/api/v1/agents/enroll", json=body, headers=bearer)).status_code == 200
        async with dial(url, "mine", agent_id, name="pc") as agent:
            await agent.hello()
            await agent.sync_models(InstalledModel(name="a:1", digest="d", size_bytes=1))
            assert (await http.get("/api/v1/agents/pc/models")).json()[0]["digest"] == "d"
            agent.handlers |= {"generate": quick, "run_benchmark": accept}
            answer = await http.post("/api/v1/agents/pc/commands/generate", json={"model": "a:1"})
            assert "event: final" in answer.text
            plan = {"agent": "pc", "plan": {"model_name": "a:1"}}
            job_id = (await http.post("/api/v1/benchmarks", json=plan)).json()["job_id"]
            await finish(agent, job_id)
            assert (await http.get(f"/api/v1/benchmarks/{job_id}/result")).content == RESULT.encode()


async def test_the_foreign_applications_authentication_decides_on_http_and_sockets() -> None:
    async with (
        foreign_application() as (url, _),
        httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as http,
    ):
        assert (await http.get("/api/v1/agents")).status_code == 401
        assert (await http.get("/api/v1/agents", headers=OWN_KEY)).status_code == 200
        foreign = {**OWN_KEY, "Origin": "https://evil.example"}
        assert (await http.get("/api/v1/agents", headers=foreign)).status_code == 403
        socket = f"{url.replace('http', 'ws')}/api/v1/models/generate/m?client_id=x"
        for headers, status in (({}, 401), (foreign, 403), (OWN_KEY, 404)):
            with pytest.raises(websockets.InvalidStatus) as caught:
                async with websockets.connect(socket, additional_headers=headers, proxy=None):
                    pass
            assert caught.value.response.status_code == status


async def test_the_host_is_checked_where_the_application_names_its_own() -> None:
    async with (
        foreign_application(["obt.example"]) as (url, _),
        httpx.AsyncClient(base_url=url, headers=OWN_KEY, timeout=20, trust_env=False) as http,
    ):
        assert (await http.get("/api/v1/agents")).status_code == 421
        assert (await http.get("/api/v1/agents", headers={"Host": "obt.example"})).status_code == 200


async def test_a_server_that_cannot_refuse_with_a_status_closes() -> None:
    app = FastAPI()
    storage = MemoryStorage()
    app.include_router(obt_router(AgentHub(storage), storage, authenticate=company_sign_in))
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": "/api/v1/agents/connect",
        "raw_path": b"/api/v1/agents/connect",
        "query_string": b"",
        "headers": [(b"host", b"h")],
        "subprotocols": ["obt.v1"],
        "root_path": "",
        "scheme": "ws",
        "client": None,
    }
    await app(scope, receive, send)  # type: ignore[arg-type]  # the least that ASGI asks for
    assert [message["type"] for message in sent] == ["websocket.close"]
