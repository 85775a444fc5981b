"""The end of a server with many agents: each is told, closed with 4503 and stored as seen."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from obt_agent.protocol.limits import Close
from obt_server.auth import secrets
from obt_server.hub.storage import AgentRecord
from obt_server.storage import Enrolment
from tests.server.agent_double import AgentDouble, dial, uuid7
from tests.server.conftest import Running, running
from tests.server.enrolling import enrol

FLEET = 200
SLOW_DISK_S = 0.05
"""Of each commit: as many as there are agents would take 10 s."""


async def admitted(server: Running, stack: contextlib.AsyncExitStack, count: int) -> list[AgentDouble]:
    fleet = []
    for number in range(count):
        agent_id, secret = uuid7(), f"secret-{number}"
        enrolment = Enrolment(
            agent_id=agent_id, name="box", version="1", secret_sha256=secrets.sha256(secret)
        )
        await enrol(server.parts.storage, enrolment, 1.0)
        double = await stack.enter_async_context(dial(server.url, secret, agent_id))
        await double.hello()
        fleet.append(double)
    return fleet


@pytest.mark.slow
async def test_a_fleet_is_told_closed_and_stored_as_seen_when_the_server_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[int] = []
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(tmp_path, drain_within_s=60.0))
        fleet = await admitted(server, stack, FLEET)
        real = server.parts.storage.mark_seen

        async def slow(agent_ids: Sequence[str], at: float) -> None:
            await asyncio.sleep(SLOW_DISK_S)
            commits.append(len(agent_ids))
            await real(agent_ids, at)

        monkeypatch.setattr(server.parts.storage, "mark_seen", slow)
        began = time.time()
        server.uvicorn.should_exit = True
        async with asyncio.timeout(60):
            codes = {(await double.until_closed())[0] for double in fleet}
            await asyncio.wait([server.task])
        assert codes == {Close.DRAINING}
        notes = [
            [note.method for note in double.notes if not note.method.endswith(".alive")] for double in fleet
        ]
        assert notes == [["server.drain"]] * FLEET
        records = await server.parts.storage.agents()
        assert len(records) == FLEET
        assert all((record.last_seen or 0) >= began for record in records)
        assert commits == [FLEET], "one commit, however many agents there are"


async def test_an_agent_whose_admission_was_on_the_way_is_refused_or_drained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storing, go_on = asyncio.Event(), asyncio.Event()
    async with running(tmp_path) as server:
        real = server.parts.storage.admit

        async def held(admission: Any) -> AgentRecord:
            record = await real(admission)
            storing.set()
            await go_on.wait()
            return record

        monkeypatch.setattr(server.parts.storage, "admit", held)
        agent_id, secret = await server.enrol()
        async with dial(server.url, secret, agent_id) as double, asyncio.timeout(20):
            hello = asyncio.create_task(double.hello())
            await storing.wait()
            await server.parts.hub.drain()
            go_on.set()
            assert (await double.until_closed())[0] == Close.DRAINING
            hello.cancel()
            await asyncio.gather(hello, return_exceptions=True)


async def test_a_stream_of_news_ends_with_the_server_and_says_when_to_come_again(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as server,
        asyncio.timeout(20),
        server.http.stream("GET", "/api/v1/events") as answer,
    ):
        lines = answer.aiter_lines()
        async for line in lines:
            if line == "event: current":
                break
        await server.parts.hub.drain()
        rest = [line async for line in lines]
    assert "event: error" in rest
    assert any('"draining"' in line and '"retry_after_ms":1000' in line for line in rest)
