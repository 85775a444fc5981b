"""The gateway in somebody else's application: that application's tokens, and what stays refused there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import msgspec
from fastapi import FastAPI
from starlette.requests import HTTPConnection

from obt_agent.ollama.payloads import InstalledModel
from obt_agent.protocol.envelope import Request
from obt_server.auth import InferenceGrant, Principal, secrets
from obt_server.gateway import GatewaySettings
from obt_server.hub import AgentHub
from obt_server.router import obt_router
from tests.server.agent_double import AgentDouble, Answer, dial, uuid7
from tests.server.memory_storage import MemoryStorage
from tests.server.plain_uvicorn import plain_uvicorn

OPERATOR = {"X-Company-Key": "let me in"}
CLIENT = {"Authorization": "Bearer of-the-company"}
PAGE = "http://localhost:5173"


async def company(connection: HTTPConnection) -> Principal | None:
    if connection.headers.get("authorization") == CLIENT["Authorization"]:
        return Principal("a program", InferenceGrant("7", ("*",), ("*",)))
    return Principal("colleague") if connection.headers.get("x-company-key") == "let me in" else None


@asynccontextmanager
async def application(prefix: str = "") -> AsyncIterator[str]:
    app, storage = FastAPI(), MemoryStorage()
    hub = AgentHub(storage)
    router = obt_router(
        hub, storage, authenticate=company, origins=[PAGE], prefix=prefix, gateway=GatewaySettings()
    )
    app.include_router(router)
    async with plain_uvicorn(app, ws_ping_interval=None, ws_per_message_deflate=False) as url:
        yield url + prefix


@asynccontextmanager
async def machine(url: str) -> AsyncIterator[AgentDouble]:
    async with httpx.AsyncClient(base_url=url, headers=OPERATOR, timeout=20, trust_env=False) as http:
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
        await agent.sync_models(InstalledModel(name="a:latest", digest="d", size_bytes=1))
        agent.handlers["generate"] = generate
        yield agent


async def generate(agent: AgentDouble, request: Request) -> Answer:
    return agent.final(request, msgspec.json.encode({"response": "yes", "done": True}))


async def test_the_applications_own_tokens_open_the_gateway_and_nothing_else() -> None:
    async with (
        application("/obt") as url,
        machine(url),
        httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as http,
    ):
        asked = {"model": "a", "prompt": "x", "stream": False}
        answer = await http.post("/ollama/pc/api/generate", json=asked, headers=CLIENT)
        assert (answer.status_code, answer.json()["response"]) == (200, "yes")
        for headers, path, status in (
            (CLIENT, "/api/v1/agents", 403),
            (OPERATOR, "/api/v1/agents", 200),
            (OPERATOR, "/ollama/pc/api/tags", 401),
            ({**OPERATOR, "Authorization": "Bearer another"}, "/ollama/pc/api/tags", 403),
        ):
            assert (await http.get(path, headers=headers)).status_code == status, (headers, path)


async def test_pages_that_may_use_the_interface_may_not_use_the_gateway() -> None:
    async with application() as url, httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as http:
        for origin, status in ((PAGE, 403), ("https://evil.example", 403), (url, 404)):
            answer = await http.get("/ollama/pc/api/tags", headers={**CLIENT, "Origin": origin})
            assert answer.status_code == status, origin
        assert (await http.get("/api/v1/agents", headers={**OPERATOR, "Origin": PAGE})).status_code == 200
