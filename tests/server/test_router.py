"""The router in somebody else's application, with that application's own authentication and storage."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import websockets
from fastapi import FastAPI
from starlette.requests import HTTPConnection

from obt_agent.ollama.payloads import InstalledModel
from obt_agent.protocol.limits import Close
from obt_server.auth import Principal, secrets
from obt_server.hub import AgentHub
from obt_server.router import obt_router
from tests.server.agent_double import dial, uuid7
from tests.server.job_steps import RESULT, accept, finish
from tests.server.memory_storage import MemoryStorage
from tests.server.plain_uvicorn import plain_uvicorn
from tests.server.test_streams import quick

OWN_KEY = {"X-Company-Key": "let me in"}


async def company_sign_in(connection: HTTPConnection) -> Principal | None:
    return Principal("colleague") if connection.headers.get("x-company-key") == "let me in" else None


@asynccontextmanager
async def foreign_application(
    hosts: list[str] | None = None, **options: Any
) -> AsyncIterator[tuple[str, AgentHub]]:
    """An application with a page of its own; the two lines are those of the router's documentation."""
    app = FastAPI()

    @app.get("/own")
    async def own() -> dict[str, bool]:
        return {"own": True}

    storage = MemoryStorage()
    hub = AgentHub(storage)
    app.include_router(obt_router(hub, storage, authenticate=company_sign_in, hosts=hosts, **options))
    async with plain_uvicorn(app, ws_ping_interval=None, ws_per_message_deflate=False) as url:
        yield url, hub


def colleague(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, headers=OWN_KEY, timeout=20, trust_env=False)


async def enrolled(http: httpx.AsyncClient) -> str:
    """The id of an agent whose secret is ``mine``."""
    token = (await http.post("/api/v1/join-tokens", json={})).json()["secret"]
    agent_id = uuid7()
    body = {
        "agent": {"id": agent_id, "name": "pc", "version": "1"},
        "secret_sha256": secrets.sha256("mine"),
    }
    bearer = {"Authorization": f"Bearer {token}"}
    assert (await http.post("/api/v1/agents/enroll", json=body, headers=bearer)).status_code == 200
    return agent_id


async def test_agents_and_colleagues_meet_in_a_foreign_application() -> None:
    async with foreign_application() as (url, _), colleague(url) as http:
        assert (await http.get("/own")).json() == {"own": True}
        agent_id = await enrolled(http)
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


async def test_under_a_prefix_everything_is_there_and_nothing_beside_it() -> None:
    async with foreign_application(prefix="/obt") as (url, _), colleague(f"{url}/obt") as http:
        agent_id = await enrolled(http)
        async with dial(f"{url}/obt", "mine", agent_id, name="pc") as agent:
            await agent.hello()
            await agent.sync_models(InstalledModel(name="a:1", digest="d", size_bytes=1))
            agent.handlers["generate"] = quick
            assert (await http.get("/api/v1/agents")).json()[0]["name"] == "pc"
            socket = f"{url.replace('http', 'ws')}/obt/api/v1/models/generate/a:1?client_id=pc"
            async with websockets.connect(socket, additional_headers=OWN_KEY, proxy=None) as page:
                await page.send('{"prompt": "p"}')
                assert "quick" in str(await page.recv())
        for path in ("/api/v1/agents", "/api/v1/models/clients"):
            assert (await http.get(f"{url}{path}")).status_code == 404


@pytest.mark.parametrize("prefix", ["obt", "/obt/", "/"])
def test_a_prefix_that_is_no_path_is_refused(prefix: str) -> None:
    storage = MemoryStorage()
    with pytest.raises(ValueError, match="write a path like /obt"):
        obt_router(AgentHub(storage), storage, authenticate=company_sign_in, prefix=prefix)


async def test_a_page_of_a_site_that_the_application_allows_may_ask_and_no_other() -> None:
    async with (
        foreign_application(origins=["http://localhost:5173"]) as (url, _),
        colleague(url) as http,
    ):
        for origin, status in (
            ("http://localhost:5173", 200),
            ("http://LOCALHOST:5173", 200),
            ("https://localhost:5173", 403),
            ("http://localhost:5174", 403),
            ("http://localhost:5173.evil.example", 403),
            ("null", 403),
        ):
            answer = await http.get("/api/v1/agents", headers={"Origin": origin})
            assert answer.status_code == status, origin
        allowed = {"Origin": "http://localhost:5173"}
        nobody = await http.get("/api/v1/agents", headers={**allowed, "X-Company-Key": ""})
        assert nobody.status_code == 401, "an allowed page still says who asks"


@pytest.mark.parametrize("origin", ["*", "localhost:5173", "http://localhost:5173/page", "file://x"])
def test_an_allowed_origin_that_is_none_is_refused(origin: str) -> None:
    storage = MemoryStorage()
    with pytest.raises(ValueError, match="is no origin"):
        obt_router(AgentHub(storage), storage, authenticate=company_sign_in, origins=[origin])


async def test_obts_own_interface_is_left_out_where_the_application_does_not_want_it() -> None:
    async with foreign_application(legacy=False) as (url, _), colleague(url) as http:
        await enrolled(http)
        for path in ("/api/v1/models/clients", "/api/v1/models/generate/m"):
            assert (await http.get(path)).status_code == 404, path
        assert (await http.get("/api/v1/models?client_id=pc")).json() == [], "the list of all models"
        socket = f"{url.replace('http', 'ws')}/api/v1/models/generate/m?client_id=pc"
        with pytest.raises(websockets.InvalidStatus) as caught:
            async with websockets.connect(socket, additional_headers=OWN_KEY, proxy=None):
                pass
        assert caught.value.response.status_code == 403


async def test_under_a_plain_uvicorn_agents_are_told_to_come_back_before_their_sockets_close() -> None:
    received: list[int] = []
    # uvicorn raises the signal again when it has stopped: it must not end the tests.
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        async with foreign_application() as (url, _), colleague(url) as http:
            agent_id = await enrolled(http)
            async with dial(url, "mine", agent_id, name="pc") as agent:
                await agent.hello()
                signal.raise_signal(signal.SIGTERM)
                assert (await agent.until_closed())[0] == Close.DRAINING
                assert [note.method for note in agent.notes if note.method == "server.drain"]
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM], "uvicorn stopped by the signal, as it does"


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
