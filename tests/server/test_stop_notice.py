"""A server that is told to stop: proxies first, then what was asked is answered, then agents leave."""

import asyncio
import contextlib
import random
import signal
from collections import Counter
from pathlib import Path

import httpx
import msgspec
import pytest

from obt_agent.backoff import Backoff
from obt_agent.protocol.envelope import Request
from obt_agent.protocol.limits import Close
from obt_server import stop_notice
from obt_server.cli.run import DRAIN_DIALS_PER_S
from tests.server.agent_double import AgentDouble, Answer, dial
from tests.server.conftest import Running, running
from tests.server.process import server_process
from tests.server.test_kill import prepared
from tests.waiting import until

FOR_EVER_S = 600.0


class Held:
    """An agent's answer that waits until it is let go."""

    def __init__(self) -> None:
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self, _: AgentDouble, __: Request) -> Answer:
        self.asked.set()
        await self.go_on.wait()
        return {"models": []}


def stop(server: Running) -> None:
    server.uvicorn.handle_exit(signal.SIGTERM, None)


def asks(server: Running, agent: AgentDouble) -> asyncio.Task[httpx.Response]:
    """A request that this agent has to answer."""
    path = f"/api/v1/agents/{agent.agent_id}/commands/running_models"
    return asyncio.create_task(server.http.post(path), name="a request in progress")


async def refused(server: Running) -> bool:
    """Whether nobody listens there any more."""
    port = int(server.url.rsplit(":", 1)[1])
    # A connection that waited in the queue of a socket that closes is reset.
    with contextlib.suppress(ConnectionRefusedError, ConnectionResetError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return False
    return True


async def test_probes_are_told_first_and_everything_else_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path, notice_s=FOR_EVER_S) as server, server.agent() as agent:
        held = agent.handlers["running_models"] = Held()
        held.go_on.set()
        assert (await server.http.get("/readyz")).status_code == 200
        stop(server)
        assert (await server.http.get("/readyz")).status_code == 503
        assert (await server.http.get("/healthz")).status_code == 200
        assert (await asks(server, agent)).status_code == 200
        async with server.agent("another"):
            # whoever dials meanwhile is admitted
            assert len((await server.http.get("/api/v1/agents")).json()) == 2
        assert agent.closed is None


async def test_a_second_signal_ends_the_notice(tmp_path: Path) -> None:
    async with running(tmp_path, notice_s=FOR_EVER_S) as server, server.agent() as agent:
        stop(server)
        stop(server)
        assert (await agent.until_closed())[0] == Close.DRAINING
        async with asyncio.timeout(60):
            await asyncio.wait([server.task])


async def test_without_a_notice_agents_are_told_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as server, server.agent() as agent:
        answer = asks(server, agent)
        agent.handlers["running_models"] = held = Held()
        await held.asked.wait()
        stop(server)
        assert (await agent.until_closed())[0] == Close.DRAINING
        assert (await answer).json()["error"]["kind"] == "link_lost"


async def test_what_was_asked_is_answered_before_the_agents_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop_notice, "ANSWERED_WITHIN_S", FOR_EVER_S)
    async with running(tmp_path, notice_s=0.01) as server, server.agent() as agent:
        agent.handlers["running_models"] = held = Held()
        answer = asks(server, agent)
        await held.asked.wait()
        stop(server)
        await until(lambda: refused(server))
        assert [note for note in agent.notes if note.method == "server.drain"] == []
        held.go_on.set()
        assert (await answer).json() == {"models": []}
        assert (await agent.until_closed())[0] == Close.DRAINING


async def test_a_request_that_nobody_answers_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop_notice, "ANSWERED_WITHIN_S", 0.2)
    async with running(tmp_path, notice_s=0.01) as server, server.agent() as agent:
        agent.handlers["running_models"] = held = Held()
        answer = asks(server, agent)
        await held.asked.wait()
        stop(server)
        assert (await agent.until_closed())[0] == Close.DRAINING
        assert (await answer).json()["error"]["kind"] == "link_lost"


async def test_a_stream_of_news_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop_notice, "ANSWERED_WITHIN_S", FOR_EVER_S)
    async with (
        running(tmp_path, notice_s=0.01) as server,
        asyncio.timeout(60),
        server.http.stream("GET", "/api/v1/events") as answer,
    ):
        stop(server)
        lines = [line async for line in answer.aiter_lines()]
    assert any('"draining"' in line for line in lines), lines


def told(agent: AgentDouble) -> list[float]:
    """When it is to come back."""
    return [
        msgspec.json.decode(note.params)["retry_after_s"]
        for note in agent.notes
        if note.method == "server.drain"
    ]


@pytest.mark.parametrize(("per_s", "expected"), [(0.0, [1.0, 1.0, 1.0]), (4.0, [1.0, 1.25, 1.5])])
async def test_each_agent_is_told_a_time_of_its_own(
    tmp_path: Path, per_s: float, expected: list[float]
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(tmp_path, drain_dials_per_s=per_s))
        agents = [await stack.enter_async_context(server.agent(f"box {number}")) for number in range(3)]
        await server.parts.hub.drain()
        for agent in agents:
            await agent.until_closed()
        assert sorted(time for agent in agents for time in told(agent)) == expected


def test_the_agents_of_a_third_of_a_fleet_come_back_as_few_a_second_as_the_server_says() -> None:
    """By the agent's own schedule, of a thousand of whom a third are told at once."""
    seeded = random.Random(1)
    counts: Counter[int] = Counter()
    for number in range(333):
        backoff = Backoff(clock=lambda: 0.0, random=seeded.random)
        backoff.admitted()
        backoff.ended()
        counts[int(backoff.delay(1.0 + number / DRAIN_DIALS_PER_S))] += 1
    # All at the same time they would be 333 within half a second.
    assert max(counts.values()) <= DRAIN_DIALS_PER_S
    assert len(counts) <= 7, "and nobody waits for long"


@pytest.mark.slow
async def test_the_setting_holds_for_a_process_that_is_told_by_signals(tmp_path: Path) -> None:
    database = tmp_path / "obt.sqlite3"
    agent_id, token = await prepared(database)
    setting = ("env", "OBT_SERVER_LISTEN_DRAIN_NOTICE_S=600")
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        server_process(database, before=setting) as server,
        httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60, trust_env=False) as http,
        dial(server.url, "mine", agent_id) as agent,
    ):
        await agent.hello()
        server.process.send_signal(signal.SIGTERM)

        async def withdrawn() -> bool:
            return (await http.get("/readyz")).status_code == 503

        await until(withdrawn)
        assert (await http.get("/api/v1/agents")).status_code == 200
        assert agent.closed is None
        server.process.send_signal(signal.SIGTERM)
        assert await server.ended() == 0
        assert (await agent.until_closed())[0] == Close.DRAINING
