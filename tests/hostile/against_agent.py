"""A real agent under attack by its server, and what an honest server meets after each hostile session."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from obt_conformance.agent_harness import AgentHarness, AgentTarget, KitSession
from obt_conformance.checks import RuleBroken
from obt_conformance.deadlines import Deadlines
from obt_conformance.listening import AgentListener
from tests.conformance.agent_process import WITHIN_S, Agent, running_agent
from tests.hostile.against_server import Outcome, unforeseen
from tests.hostile.frames import TARGETS, VALUES, corpus, frame
from tests.hostile.large_ollama import MODEL, large_ollama
from tests.hostile.memory_limit import limited_memory
from tests.hostile.raw import RAW

MIB: Final = 1 << 20
BURST: Final = 200
SESSION_S: Final = 6.0
"""A session that lasts longer is left for another one: each begins with nothing held."""
HELLOS: Final = [
    n for n, (method, side, *_) in enumerate(TARGETS) if (method, side) == ("agent.hello", "result")
]
MAX_WAITING: Final = 4 * MIB
ASKED: Final = 5
"""Questions of each kind in a session: of 50 sessions with one in each, the p99 would be the longest."""

Attack = Callable[["HostileServer", KitSession], Awaitable[None]]


class HostileServer:
    """The server that the agent dials: hostile and honest by turns."""

    def __init__(self, harness: AgentHarness, agent: Agent, outcome: Outcome, seed: int) -> None:
        self.harness, self.agent, self.outcome = harness, agent, outcome
        self.frames = corpus(seed)
        self.random = random.Random(seed)
        self.numbers = itertools.count(1)

    async def send(self, session: KitSession, kind: str, text: str, copies: int = 1) -> bool:
        """Send a frame so many times; return whether the socket is still open."""
        for _ in range(copies):
            if session.wire.socket.state.name != "OPEN":
                return False
            await session.wire.send(text)
        self.outcome.counts[kind] += copies
        session.wire.frames.clear()
        return True

    async def hostile_session(self, attack: Attack) -> None:
        """One session; half of them never read."""
        with contextlib.suppress(TimeoutError, OSError, RuleBroken):
            async with asyncio.timeout(SESSION_S):
                session = await self.harness.session(fresh=True, stream_credit_bytes=4 * MIB)
                if self.random.random() < 0.5:
                    session.wire.stop_sending_alive()
                    session.wire.pause_reading()
                await attack(self, session)
        if self.harness.current is not None:
            self.harness.current.wire.abort()
            await self.harness.current.wire.until_closed()

    async def honest_session(self) -> None:
        """What an honest server does, each step timed."""
        waits = self.outcome.waits
        with waits.measured("admitted, states synced"):
            session = await self.harness.session(fresh=True)
            await self.harness.synced(session)
        wire = session.wire
        for _ in range(ASKED):
            with waits.measured("list_models"):
                await wire.ask_ok("list_models", {})
            with waits.measured("sync on request"):
                before = len(wire.of("models.sync"))
                await wire.ask_ok("state.request", {"kinds": ["models"]})
                await wire.expect("models.sync", count=before + 1)
            with waits.measured("generate"):
                await session.finished(await session.start("generate", self.harness.generate(8)))
        with waits.measured("benchmark job"):
            job = f"honest-{next(self.numbers)}"
            await _accepted(session, {"job_id": job, "plan": self.harness.plan()})
            await wire.until(lambda: any(_is_final(one, job) for one in wire.frames), "the job had no final")


async def _accepted(session: KitSession, params: dict[str, Any]) -> None:
    """Start a job; ``busy`` is an answer with a time, and an honest server waits for it."""
    while True:
        answer = await session.wire.ask("run_benchmark", params)
        if answer.error_code is None:
            return
        retry_ms = answer.error_data.get("retry_after_ms")
        if retry_ms is None:
            raise RuleBroken(f"run_benchmark: {answer.error_message}")
        await asyncio.sleep(retry_ms / 1000)


def _is_final(one: Any, job: str) -> bool:
    return bool(one.method == "job.finished" and one.params.get("job_id") == job)


async def messages(on: HostileServer, session: KitSession) -> None:
    """Every field of every message with every kind of value."""
    for one in on.frames:
        copies = BURST if len(one.text) < 1000 else 1
        if not await on.send(session, f"message: {one.kind}", one.text, copies):
            return


async def floods(on: HostileServer, session: KitSession) -> None:
    """Small frames as fast as they go, of one kind a session."""
    kind = on.random.choice(
        ["cancel", "blob.put", "link.credit", "stream.credit", "streams.alive", "answers"]
    )
    for number in itertools.count():
        every: dict[str, dict[str, Any]] = {
            "cancel": {"job_id": f"j{number}", "filler": "x" * 600},
            "blob.put": {"blob": f"b{number}", "offset": 0, "data": "eHh4" * 200},
            "link.credit": {"bytes": 2**53},
            "stream.credit": {"id": number, "bytes": 2**53},
            "streams.alive": {"ids": list(range(200))},
        }
        params = every.get(kind, {})
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": f"f{number}", "method": kind, "params": params}
        if kind == "answers":
            message = {"jsonrpc": "2.0", "id": number, "result": {"filler": "x" * 600}}
        if not await on.send(session, f"flood: {kind}", json.dumps(message)):
            return


async def requests(on: HostileServer, session: KitSession) -> None:
    """As many large answers as it gives, and none of them read."""
    session.grant_link = False
    for number in itertools.count():
        method = on.random.choice(["embed", "show_model", "generate", "hardware", "agent_info"])
        params = {"model": MODEL, "input": "x" * 10_000, "prompt": "x" * 10_000, "verbose": True}
        message = {"jsonrpc": "2.0", "id": f"r{number}", "method": method, "params": params}
        if not await on.send(session, "requests not read", json.dumps(message)):
            return


async def raw_frames(on: HostileServer, session: KitSession) -> None:
    """Bytes that no library sends."""
    name = on.random.choice(list(RAW))
    transport = session.wire.socket.transport
    for piece in RAW[name](False):
        # The transport's events are its library's, which has not written this.
        while transport.get_write_buffer_size() > MAX_WAITING and not transport.is_closing():  # noqa: ASYNC110 - above
            await asyncio.sleep(0.01)
        if transport.is_closing():
            return
        transport.write(piece)
        on.outcome.counts[f"raw: {name}"] += 1
    await asyncio.sleep(0.5)


async def hellos(on: HostileServer) -> None:
    """Admissions with every kind of value in them: clocks years off, no credit, no session."""
    with contextlib.suppress(TimeoutError, OSError, RuleBroken):
        async with asyncio.timeout(SESSION_S):
            await on.harness.end()
            wire, hello = await on.harness.greeted()
            one = frame(on.random.choice(HELLOS), on.random.choice(list(VALUES)), next(on.numbers))
            answer = json.loads(one.text)
            years = {"time": time.time() + on.random.choice([-1, 1]) * 5 * 365 * 86400}
            result = answer["result"]
            body = {"protocol": 1, "session": 1, **years} | result if isinstance(result, dict) else result
            await wire.send(json.dumps({"jsonrpc": "2.0", "id": hello.id, "result": body}))
            on.outcome.counts["hello"] += 1
            await asyncio.sleep(0.5)
            wire.abort()


async def upgrades(on: HostileServer) -> None:
    """Upgrades that are refused with large bodies, led elsewhere, or answered with what is no answer."""
    listener = on.harness.listener
    status = on.random.choice([301, 400, 401, 403, 429, 500, 503, 999])
    headers = [("Location", "http://127.0.0.1:9/"), ("Retry-After", "9" * 400), ("X", "x" * 4000)]
    listener.refuse_next(status, *headers)
    on.outcome.counts["upgrade refused"] += 1
    await on.agent.redial()


HOSTILE: Final[tuple[Attack, ...]] = (messages, floods, requests, raw_frames)


async def against_agent(folder: Path, seconds: float, limit_bytes: int, seed: int = 0) -> Outcome:
    """Attack an agent that allows everything; then it must answer as before."""
    outcome = Outcome("agent", limit_bytes)
    async with _dialled(folder) as (harness, agent):
        with limited_memory(agent.process.pid, limit_bytes) as held:
            outcome.held_by = held.by
            server = HostileServer(harness, agent, outcome, seed)
            try:
                for _ in range(max(5, int(seconds / 6))):
                    await server.honest_session()
                outcome.waits.phase = "attacked"
                end = time.monotonic() + seconds
                for attack in itertools.cycle(HOSTILE):
                    if time.monotonic() > end or agent.process.returncode is not None:
                        break
                    await server.hostile_session(attack)
                    await hellos(server)
                    await upgrades(server)
                    held.look()
                    await server.honest_session()
                await harness.end()
            except (RuleBroken, OSError) as error:
                outcome.broken.append(f"does not answer any more: {error}")
            outcome.peak_bytes = held.look()
        outcome.broken += outcome.waits.broken()
        if agent.process.returncode is not None:
            outcome.broken.append(f"the agent ended with {agent.process.returncode}")
        outcome.broken += unforeseen(agent.log)
    return outcome


@contextlib.asynccontextmanager
async def _dialled(folder: Path) -> AsyncIterator[tuple[AgentHarness, Agent]]:
    deadlines = Deadlines(answer_s=60.0)
    door = AgentListener(answer_within_s=deadlines.answer_s)
    everything = {"allow_changes": ["pull_model", "create_model", "copy_model", "delete_model"]}
    async with (
        large_ollama(8 * MIB) as ollama,
        door.open("127.0.0.1", 0),
        running_agent(
            folder, f"http://127.0.0.1:{door.port}", ollama, module="obt_agent", policy=everything
        ) as agent,
    ):
        await door.first_dial(WITHIN_S)
        yield AgentHarness(AgentTarget(MODEL, MODEL), door, deadlines, agent.redial), agent
