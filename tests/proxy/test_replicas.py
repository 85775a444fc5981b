"""Several servers behind HAProxy, nginx and Caddy, with the configurations in deploy/proxy."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.proxy.before_replicas import RUN, avoided, behind, by_caddy, by_haproxy, by_nginx
from tests.proxy.programs import Command
from tests.proxy.replicas import Replicas
from tests.server.agent_double import dial
from tests.waiting import until

pytestmark = pytest.mark.timeout(900)  # whole programs, on a machine that may be busy

each = pytest.mark.parametrize("command", [by_haproxy, by_nginx, by_caddy])
asks_first = pytest.mark.parametrize("command", [by_haproxy, by_caddy])
"""Of the proxies that ask each replica whether it is ready."""


@each
async def test_each_agent_goes_where_the_fewest_are(
    tmp_path: Path, replicas: Replicas, command: Command
) -> None:
    async with behind(tmp_path, command, replicas) as proxy, contextlib.AsyncExitStack() as stack:
        for agent_id, secret in await replicas.new_agents(6):
            double = await stack.enter_async_context(dial(proxy.url, secret, agent_id, tls=proxy.tls))
            await double.hello()
        assert await replicas.connections("agent") == [2, 2, 2]


@each
async def test_a_replica_that_is_killed_costs_nobody_a_request(
    tmp_path: Path, replicas: Replicas, command: Command
) -> None:
    async with behind(tmp_path, command, replicas) as proxy, proxy.client(replicas.token) as client:
        replicas.all[1].end()
        for _ in range(RUN):
            assert (await client.get("api/v1/agents")).status_code == 200
            assert (await client.post("api/v1/join-tokens", json={})).status_code == 201


@each
async def test_the_client_s_address_is_the_proxy_s_to_say(
    tmp_path: Path, replicas: Replicas, command: Command
) -> None:
    before = [len(one.logged("audit.command")) for one in replicas.all]
    async with behind(tmp_path, command, replicas) as proxy, proxy.client(replicas.token) as client:
        forged = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Prefix": "/elsewhere"}
        answer = await client.post("api/v1/join-tokens", json={}, headers=forged)
        assert answer.status_code == 201, answer.text

    def written() -> list[str]:
        return [
            entry["address"]
            for one, count in zip(replicas.all, before, strict=True)
            for entry in one.logged("audit.command")[count:]
        ]

    await until(written)
    assert written() == ["127.0.0.1"]


@asks_first
async def test_a_replica_that_is_not_ready_gets_nothing_new_and_ends_what_it_has(
    tmp_path: Path, replicas: Replicas, command: Command
) -> None:
    async with behind(tmp_path, command, replicas) as proxy, proxy.client(replicas.token) as client:
        assert not await avoided(client, replicas, 0)
        async with streams(client, 3) as texts:
            replicas.all[0].signal(signal.SIGTERM)
            await until(lambda: avoided(client, replicas, 0))
            assert await avoided(client, replicas, 0)
            assert [text for text in texts if text.done()] == [], "what runs there goes on"
            replicas.all[0].signal(signal.SIGTERM)
            assert await replicas.all[0].ended() == 0
            await until(lambda: any(text.done() for text in texts))
            (ended,) = [text.result() for text in texts if text.done()]
            assert '"draining"' in ended


@contextlib.asynccontextmanager
async def streams(client: httpx.AsyncClient, count: int) -> AsyncIterator[list[asyncio.Task[str]]]:
    """Streams of events that are open; each task gives what came until its end."""
    begun = [asyncio.Event() for _ in range(count)]

    async def read(began: asyncio.Event) -> str:
        text = ""
        async with client.stream("GET", "api/v1/events", timeout=None) as answer:
            assert answer.status_code == 200
            async for part in answer.aiter_text():
                began.set()
                text += part
        return text

    tasks = []
    for began in begun:
        tasks.append(asyncio.create_task(read(began), name="events"))
        # One after the other, so that each goes to a replica of its own.
        async with asyncio.timeout(60):
            await began.wait()
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
