"""Tokens and sign-ins that are used at several replicas: their shares, and the end of what they began."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from obt_server.gateway import GatewaySettings
from obt_standin import StandIn
from tests.gateway.agent import real_agent
from tests.gateway.conftest import MODEL, token
from tests.replicas.servers import replicas
from tests.server.conftest import NO_AUTHORITIES, PASSWORD, Running
from tests.waiting import until

GENERATE = {"model": MODEL, "prompt": "x"}
RECHECK_S = 0.1


@contextlib.asynccontextmanager
async def program(server: Running, secret: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client that uses a machine through one of the servers."""
    headers = {"Authorization": f"Bearer {secret}"}
    url = f"{server.url}/ollama/box"
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=20, trust_env=False, verify=NO_AUTHORITIES
    ) as client:
        yield client


async def test_requests_of_a_token_that_are_open_at_one_server_count_at_another(
    tmp_path: Path, standin: StandIn
) -> None:
    standin.script.tokens, standin.script.ending, standin.script.ending_after = 9, "hang", 1
    standin.script.num_parallel = 4
    settings = GatewaySettings(requests_of_token=2)
    async with (
        replicas(tmp_path / "servers", gateway=settings) as (one, other),
        real_agent(one, tmp_path / "agent", standin.url),
    ):
        secret, stranger = await token(one), await token(one)
        async with (
            program(one, secret) as here,
            program(other, secret) as there,
            program(other, stranger) as beside,
        ):

            async def status(client: httpx.AsyncClient) -> int:
                return (await client.get("/api/version")).status_code

            async def full() -> bool:
                return await status(there) == 429

            async def free() -> bool:
                return await status(there) == 200

            async def found() -> bool:
                return await status(beside) == 200

            # With the other token: what has just ended at one server counts at another for up to a second.
            await until(found)
            async with contextlib.AsyncExitStack() as streams:
                for _ in range(2):
                    answer = await streams.enter_async_context(
                        here.stream("POST", "/api/generate", json=GENERATE)
                    )
                    assert answer.status_code == 200
                # Each second the servers say what they have open.
                await until(full)
                refused = await there.post("/api/generate", json=GENERATE)
                assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
                assert await status(beside) == 200, "each token has a share of its own"
            await until(free)


async def read_error(answer: httpx.Response) -> str:
    """What a stream says at its end."""
    return (await answer.aread()).decode().rpartition("event: ")[2]


async def test_what_a_token_or_a_sign_in_began_ends_when_another_server_ends_it(tmp_path: Path) -> None:
    async with replicas(tmp_path, recheck_s=RECHECK_S) as (one, other):
        body = {"name": "admin", "password": PASSWORD}
        signed_in = await one.http.post("/api/v1/session", json=body)
        cookies = {"Cookie": signed_in.headers["Set-Cookie"].partition(";")[0], "Authorization": ""}
        made = (await one.http.post("/api/v1/api-tokens", json={"name": "t"})).json()
        bearer = {"Authorization": f"Bearer {made['secret']}"}
        async with (
            other.http.stream("GET", "/api/v1/events", headers=cookies) as page,
            other.http.stream("GET", "/api/v1/events", headers=bearer) as reader,
            other.http.stream("GET", "/api/v1/events") as stays,
        ):
            assert [page.status_code, reader.status_code, stays.status_code] == [200, 200, 200]
            lines = stays.aiter_lines()
            await anext(lines)
            assert (await one.http.delete("/api/v1/session", headers=cookies)).status_code == 204
            assert (await one.http.delete(f"/api/v1/api-tokens/{made['token']['id']}")).status_code == 204
            for ended in (page, reader):
                assert "not_signed_in" in await read_error(ended)
            # Whoever may still read does.
            await one.enrol("later")
            async for line in lines:
                if '"later"' in line:
                    break
