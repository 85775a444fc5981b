"""(e) What 1,000 agents cost one server process: idle, watched by 200 viewers, coming back, leaving.

The agents are the least that the protocol asks for, all in this process: hello, signs of life every 5 s, a
heartbeat every 15 s, the agent's own delays between dials. Under load each has ten models, 200 readers of
``GET /events`` are there, and one agent sends a heartbeat a second, whose way to a reader is timed. The
server is the reference one, in a process of its own, with a database in which they are enrolled.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from benchmarks import processes
from benchmarks.enrolment import enrol
from benchmarks.processes import Program
from benchmarks.table import Column, print_table
from benchmarks.viewers import Viewer, itself
from obt_agent.backoff import Backoff
from obt_agent.identity.secret import Secret
from obt_agent.identity.uuid7 import uuid7
from obt_agent.protocol import limits
from obt_server.storage import Enrolment
from tests.ports import free_port

AWAY_S = 2.0
"""How long the server is gone in its restart."""
WITHIN_S = 600.0
VIEWERS = 200
MODELS = 10
"""Of each agent, under load."""


@dataclass(frozen=True)
class Cost:
    """Of one server process: bytes with and without agents, CPU while they idle, and their return.

    ``drained`` of them were told to come back later and closed with 4503 when it was ended by SIGTERM, which
    took ``end_s`` seconds.
    """

    alone_bytes: int
    full_bytes: int
    cpu_ratio: float
    median_s: float
    last_s: float
    storm_cpu_s: float
    drained: int
    end_s: float


@dataclass(frozen=True)
class Load:
    """Of one server process with viewers: CPU, and what those who ask wait for. Seconds."""

    cpu_ratio: float
    agents_p50_s: float
    agents_p99_s: float
    models_s: float
    news_p50_s: float
    news_last_s: float
    bytes_per_s: float


class Agent:
    """One minimal agent, which redials for ever."""

    def __init__(self, url: str, models: int = 0, name: str = "fleet") -> None:
        self.name = name
        self.sent: dict[int, float] = {}
        """When the heartbeats of ``beat`` were sent, by their number."""
        self._models = models
        self._socket: ClientConnection | None = None
        self.id = str(uuid7())
        self.secret = Secret.new()
        self.admitted_at = 0.0
        self.drained = False
        self._url = url.replace("http", "ws", 1) + limits.CONNECT_PATH
        self._backoff = Backoff(clock=time.monotonic, random=random.random)
        self._instance = self.secret.sha256()[:16]

    @property
    def enrolment(self) -> Enrolment:
        """Who it is, as a server's database is to know it."""
        sha256 = self.secret.sha256()
        return Enrolment(agent_id=self.id, name=self.name, version="0", secret_sha256=sha256)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(OSError, WebSocketException, TimeoutError, EOFError):
                await self._dial()
            self.admitted_at = 0.0
            self._backoff.ended()
            await asyncio.sleep(self._backoff.delay())

    async def _dial(self) -> None:
        async with connect(
            self._url,
            additional_headers={"Authorization": f"Bearer {self.secret.reveal()}"},
            subprotocols=[Subprotocol(limits.SUBPROTOCOL)],
            compression=None,
            ping_interval=None,
            proxy=None,
            close_timeout=1,
            open_timeout=15,
        ) as socket:
            speaking = asyncio.create_task(self._speak(socket), name=f"speak {self.id}")
            try:
                await self._serve(socket)
            finally:
                speaking.cancel()

    async def _serve(self, socket: ClientConnection) -> None:
        agent = {"id": self.id, "name": self.name, "version": "0", "instance": self._instance}
        hello = {"protocol": {"min": 1, "max": 1}, "agent": agent, "store_id": "s", "capabilities": []}
        await socket.send(as_frame(id=1, method="agent.hello", params=hello))
        drain_announced = False
        try:
            async for frame in socket:
                message = json.loads(frame)
                drain_announced |= message.get("method") == "server.drain"
                if "method" in message and "id" in message:
                    await socket.send(as_frame(id=message["id"], result={}))
                elif message.get("id") == 1 and "result" in message:
                    self.admitted_at = time.monotonic()
                    self._backoff.admitted()
                    self._socket = socket
                    if self._models:
                        await socket.send(as_frame(id=2, method="models.sync", params=self._sync()))
        finally:
            self.drained = drain_announced and socket.close_code == limits.Close.DRAINING

    def _sync(self) -> dict[str, object]:
        models = [
            {"name": f"model-{n}:latest", "digest": f"{n:064x}", "size_bytes": 10**9}
            for n in range(self._models)
        ]
        ollama = {"reachable": True, "version": "0"}
        return {
            "revision": 1,
            "ollama": ollama,
            "list_digest": "d",
            "models": models,
            "page": {"index": 0, "last": True},
        }

    async def beat(self, number: int) -> None:
        """Send a heartbeat that a viewer can tell from others."""
        if self._socket is not None:
            self.sent[number] = time.monotonic()
            await self._socket.send(as_frame(method="heartbeat", params=self._beat()))

    def _beat(self) -> dict[str, object]:
        # The newest number in each: news come together, and one without it would hide one that has it.
        newest = max(self.sent, default=0)
        return {"ollama": {"reachable": True, "version": "0"}, "t_mono_us": 0, "streams": newest}

    async def _speak(self, socket: ClientConnection) -> None:
        await asyncio.sleep(random.random() * limits.ALIVE_INTERVAL_S)
        with contextlib.suppress(WebSocketException):
            while True:
                for _ in range(3):
                    await socket.send(as_frame(method="link.alive", params={}))
                    await asyncio.sleep(limits.ALIVE_INTERVAL_S)
                await socket.send(as_frame(method="heartbeat", params=self._beat()))


def as_frame(**message: object) -> str:
    """One message as JSON-RPC."""
    return json.dumps({"jsonrpc": "2.0", **message})


def _request(path: str, token: str, more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}Authorization: Bearer {token}\r\n\r\n".encode()


async def _get(port: int, token: str, path: str) -> float:
    """Seconds of one request on a connection of its own."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_request(path, token, "Connection: close\r\n"))
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
    return time.monotonic() - began


async def loaded(folder: Path, count: int, seconds: float, viewers: int = VIEWERS) -> Load:
    """One server with agents and viewers."""
    port = free_port()
    agents = [Agent(f"http://127.0.0.1:{port}", MODELS) for _ in range(count)]
    database = folder / "server.sqlite3"
    token = await enrol(database, [agent.enrolment for agent in agents])
    async with running_server(database, port) as server:
        tasks = [asyncio.create_task(agent.run(), name=f"agent {agent.id}") for agent in agents]
        transports = []
        try:
            await all_admitted(agents)
            loop = asyncio.get_running_loop()
            readers = [Viewer(token, agents[0].id if n == 0 else "") for n in range(viewers)]
            for one in readers:
                transport, _ = await loop.create_connection(partial(itself, one), "127.0.0.1", port)
                transports.append(transport)
            await asyncio.sleep(limits.ALIVE_INTERVAL_S + seconds / 6)
            before = sum(one.received for one in readers)
            cpu, began = server.cpu_s(), time.monotonic()
            waits = await _ask(port, token, agents[0], began + seconds)
            passed = time.monotonic() - began
            ratio = (server.cpu_s() - cpu) / passed
            rate = (sum(one.received for one in readers) - before) / passed
            await asyncio.sleep(1.0)
            models = await _get(port, token, "/api/v1/models")
        finally:
            for transport in transports:
                transport.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    late = [readers[0].arrived.get(n, began + passed) - at for n, at in agents[0].sent.items()]
    p99 = sorted(waits)[int(len(waits) * 0.99)]
    return Load(ratio, statistics.median(waits), p99, models, statistics.median(late), max(late), rate)


async def _ask(port: int, token: str, agent: Agent, until: float) -> list[float]:
    """``GET /agents`` five times a second, and a heartbeat every second; what each request took."""
    waits: list[float] = []
    while time.monotonic() < until:
        if len(waits) % 5 == 0:
            await agent.beat(len(waits) + 1)
        waits.append(await _get(port, token, "/api/v1/agents"))
        await asyncio.sleep(0.2)
    return waits


@contextlib.asynccontextmanager
async def running_server(database: Path | str, port: int, *more: str) -> AsyncIterator[Program]:
    """The reference server over that database, once it listens."""
    async with processes.running(server_command(database, port, *more)) as program:
        await processes.listening(port)
        yield program


def server_command(database: Path | str, port: int, *more: str) -> list[str]:
    """Return what starts the reference server over that database."""
    start = [sys.executable, "-m", "obt_server", "run"]
    return [*start, "--database", str(database), "--port", str(port), *more]


async def all_admitted(agents: Sequence[Agent]) -> None:
    """Wait until each agent is admitted."""
    async with asyncio.timeout(WITHIN_S):
        while not all(agent.admitted_at for agent in agents):  # noqa: ASYNC110 - a thousand events are no better
            await asyncio.sleep(0.05)


async def one(folder: Path, count: int, seconds: float) -> Cost:
    """One server, its agents, its restart."""
    port = free_port()
    agents = [Agent(f"http://127.0.0.1:{port}") for _ in range(count)]
    database = folder / "server.sqlite3"
    await enrol(database, [agent.enrolment for agent in agents])
    tasks = []
    try:
        async with running_server(database, port) as server:
            alone = server.rss_bytes()
            tasks = [asyncio.create_task(agent.run(), name=f"agent {agent.id}") for agent in agents]
            await all_admitted(agents)
            await asyncio.sleep(limits.ALIVE_INTERVAL_S)
            cpu, began = server.cpu_s(), time.monotonic()
            await asyncio.sleep(seconds)
            ratio = (server.cpu_s() - cpu) / (time.monotonic() - began)
            full = server.rss_bytes()
            server.process.kill()
            await server.process.wait()
        await asyncio.sleep(AWAY_S)
        async with running_server(database, port) as server:
            began, cpu = time.monotonic(), server.cpu_s()
            await all_admitted(agents)
            back = sorted(agent.admitted_at - began for agent in agents)
            storm = server.cpu_s() - cpu
            began = time.monotonic()
            server.process.terminate()
            await server.process.wait()
            end_s = time.monotonic() - began
        await asyncio.sleep(0.5)  # what the last ones were told is still on its way to them
        drained = sum(agent.drained for agent in agents)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return Cost(alone, full, ratio, statistics.median(back), back[-1], storm, drained, end_s)


async def measure(count: int, seconds: float) -> list[Cost]:
    """Two runs, so that a chance shows."""
    costs = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as name:
            costs.append(await one(Path(name), count, seconds))
    return costs


LOAD_COLUMNS = [
    Column("CPU % of a core", 1),
    Column("GET /agents p50 ms", 1),
    Column("p99 ms", 1),
    Column("GET /models ms", 0),
    Column("news late s, p50", 2),
    Column("last", 2),
    Column("MB/s to viewers", 2),
]
IDLE_COLUMNS = [
    Column("run", 0),
    Column("RSS MB alone", 1),
    Column("RSS MB, all here", 1),
    Column("kB an agent", 1),
    Column("CPU % of a core", 1),
    Column("half back s", 2),
    Column("all back s", 2),
    Column("CPU s of the return", 2),
    Column("drained", 0),
    Column("s to end", 2),
]


def main(argv: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks fleet", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args(argv).quick
    count, seconds = (200, 5.0) if quick else (1000, 30.0)
    with tempfile.TemporaryDirectory() as name:
        load = asyncio.run(loaded(Path(name), count, seconds))
    print_table(
        f"(e) one server process with {count} agents of {MODELS} models and {VIEWERS} viewers",
        LOAD_COLUMNS,
        [
            (
                load.cpu_ratio * 100,
                load.agents_p50_s * 1e3,
                load.agents_p99_s * 1e3,
                load.models_s * 1e3,
                load.news_p50_s,
                load.news_last_s,
                load.bytes_per_s / 1e6,
            )
        ],
    )
    costs = asyncio.run(measure(count, seconds))
    print_table(
        f"(e) one server process with {count} idle agents, and their return after {AWAY_S:g} s without it",
        IDLE_COLUMNS,
        [
            (
                number,
                cost.alone_bytes / 1e6,
                cost.full_bytes / 1e6,
                (cost.full_bytes - cost.alone_bytes) / count / 1e3,
                cost.cpu_ratio * 100,
                cost.median_s,
                cost.last_s,
                cost.storm_cpu_s,
                cost.drained,
                cost.end_s,
            )
            for number, cost in enumerate(costs, 1)
        ],
    )
    return 0
