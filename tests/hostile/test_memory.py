"""What a server can make a real agent hold: the process's own peak, not an estimate."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from obt_conformance.agent_harness import AgentHarness, AgentTarget, KitSession
from obt_conformance.deadlines import Deadlines
from obt_conformance.frames import Frame
from obt_conformance.listening import AgentListener
from tests.conformance.agent_process import WITHIN_S, Agent, running_agent
from tests.hostile.large_ollama import MODEL, large_ollama

pytestmark = pytest.mark.slow

MIB = 1 << 20
BUSY, TOO_LARGE = -32003, -32008
ANSWER_BYTES = 8 * MIB
MAX_GROWTH = 192 * MIB
"""Twice the budget, and what one answer costs while it is made."""


def peak_bytes(agent: Agent) -> int:
    """The most that the process ever had in memory."""
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))


@contextlib.asynccontextmanager
async def attacked(
    folder: Path, *, answer_bytes: int = ANSWER_BYTES, growth: int = MAX_GROWTH, **hello: Any
) -> AsyncIterator[tuple[KitSession, Agent]]:
    """A session with an agent before a large Ollama; afterwards the agent must still answer."""
    deadlines = Deadlines(answer_s=60.0, quiet_s=0.5)
    door = AgentListener(answer_within_s=deadlines.answer_s)
    async with (
        large_ollama(answer_bytes) as ollama,
        door.open("127.0.0.1", 0),
        running_agent(folder, f"http://127.0.0.1:{door.port}", ollama, module="obt_agent") as agent,
    ):
        await door.first_dial(WITHIN_S)
        harness = AgentHarness(AgentTarget(MODEL, MODEL), door, deadlines, agent.redial)
        session = await harness.session(**hello)
        await harness.synced(session)
        before = peak_bytes(agent)
        yield session, agent
        assert peak_bytes(agent) - before < growth
        session = await harness.session(fresh=True)
        assert (await session.wire.ask("list_models", {})).error_code is None
        assert agent.process.returncode is None
        await harness.end()


@pytest.mark.parametrize(
    ("method", "params"),
    [("embed", {"model": MODEL, "input": "x"}), ("show_model", {"model": MODEL, "verbose": True})],
)
async def test_64_answers_of_8_mib_that_nobody_reads_stay_within_the_budget(
    tmp_path: Path, method: str, params: dict[str, Any]
) -> None:
    async with attacked(tmp_path, stream_credit_bytes=4 * MIB) as (session, _):
        session.grant_link = False
        for _ in range(64):
            await session.start(method, params, read=False)
        refused: list[Frame] = []
        if method == "show_model":  # must be whole: at most eight fit
            await session.wire.until(
                lambda: sum(frame.error_code == BUSY for frame in session.wire.frames) >= 32,
                "none was refused",
            )
            refused = [frame for frame in session.wire.frames if frame.error_code == BUSY]
        else:  # in pieces: they all wait for credit
            await session.wire.quiet_for(3.0)
            assert not any(frame.error_code == BUSY for frame in session.wire.frames)
        assert all(frame.message["error"]["data"]["retry_after_ms"] > 0 for frame in refused)


async def test_48_embeddings_for_an_honest_server_all_arrive(tmp_path: Path) -> None:
    # Whole, they would take 96 MiB, twice over; in pieces, what 48 streams may hold.
    async with attacked(tmp_path, answer_bytes=2 * MIB, growth=96 * MIB) as (session, _):
        asked = [await session.start("embed", {"model": MODEL, "input": "x"}) for _ in range(48)]
        for number in asked:
            answer = await session.wire.answer(number, "an embedding did not come")
            assert answer.error_code is None, answer.message
            text = "".join(frame.params["part"] for frame in session.data(number))
            assert len(text) == answer.result["bytes"] > 1.8 * MIB


async def test_a_flood_of_cancels_costs_little_memory(tmp_path: Path) -> None:
    async with attacked(tmp_path) as (session, agent):
        wire = session.wire
        wire.stop_sending_alive()
        wire.pause_reading()
        filler = "x" * 600
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                for number in range(200_000):
                    params = {"job_id": f"j{number}", "filler": filler}
                    await wire.send(
                        json.dumps(
                            {"jsonrpc": "2.0", "id": f"c{number}", "method": "cancel", "params": params}
                        )
                    )
                    if wire.socket.state.name != "OPEN" or "link.down" in agent.log:
                        break
        wire.abort()
        await wire.until_closed()


async def test_64_requests_with_one_large_image_each_are_refused_beyond_the_budget(tmp_path: Path) -> None:
    async with attacked(tmp_path) as (session, _):
        piece = base64.b64encode(b"x" * 600_000).decode()
        for n in range(18):
            put = {"blob": "b", "offset": n * 600_000, "data": piece, "last": n == 17}
            assert (await session.wire.ask("blob.put", put)).error_code is None
        session.grant_link = False
        params = {"model": MODEL, "input": "x", "images": [{"blob": "b"}]}
        for _ in range(64):
            await session.start("embed", params, read=False)
        await session.wire.until(
            lambda: sum(frame.error_code == BUSY for frame in session.wire.frames) >= 32, "not refused"
        )
        refused = next(frame for frame in session.wire.frames if frame.error_code == BUSY)
        assert refused.message["error"]["data"]["retry_after_ms"] > 0
