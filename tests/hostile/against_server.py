"""A server process under attack, and what an honest agent and an honest operator feel of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from obt_server import app as application
from obt_server.auth import secrets
from obt_server.client import Client
from obt_server.storage import Enrolment
from obt_standin import StandIn
from obt_standin.script import Model
from tests.end_to_end.world import World, end_agent
from tests.hostile.memory_limit import limited_memory
from tests.hostile.server_attacks import ATTACKS, HOSTILE_AGENTS
from tests.hostile.waits import Waits
from tests.server.agent_double import uuid7
from tests.server.enrolling import enrol
from tests.server.process import ServerProcess, server_process
from tests.waiting import until

MODEL: Final = "standin-small:latest"
WITHIN_S: Final = 60.0
"""For anything honest; it counts as failed then."""


UNFORESEEN: Final = ("Traceback", "MemoryError", "session.failed", "answer_failed", "command.failed")
"""In a log: an error that nobody meant to happen."""


def unforeseen(log: str) -> list[str]:
    """Return what a log says of errors that were not foreseen, the first of each kind with what follows."""
    return [f"log: {log[log.index(word) : log.index(word) + 1500]}" for word in UNFORESEEN if word in log]


@dataclass
class Outcome:
    """What was done to one side under one limit, and what it cost. ``broken``: promises, in words."""

    side: str
    limit_bytes: int
    held_by: str = ""
    peak_bytes: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    waits: Waits = field(default_factory=Waits)
    broken: list[str] = field(default_factory=list)


async def against_server(folder: Path, seconds: float, limit_bytes: int, seed: int = 0) -> Outcome:
    """Attack a server; then it must answer as before."""
    outcome = Outcome("server", limit_bytes)
    database = folder / "server.sqlite3"
    token, hostile = await _enrolled(database)
    async with (
        StandIn() as standin,
        server_process(database) as server,
        Client(server.url, token) as client,
        httpx.AsyncClient(
            base_url=server.url + "/api/v1",
            headers={"Authorization": f"Bearer {token}"},
            timeout=WITHIN_S,
            trust_env=False,
        ) as http,
    ):
        world = World(server.url, None, client, folder, standin.url)  # type: ignore[arg-type] # none in this process
        await world.enrolled(
            "honest", name="honest", policy={"rate_limit": None}, benchmark={"cooldown_s": 0}
        )
        try:
            (view,) = await world.online()
            with limited_memory(server.process.pid, limit_bytes) as held:
                outcome.held_by = held.by
                honest = Neighbours(client, http, view["id"], standin)
                async with _neighbours(honest, outcome.waits):
                    await asyncio.sleep(max(5.0, seconds / 4))
                    outcome.waits.phase = "attacked"
                    outcome.counts = await _attacked(server, view["id"], hostile, seconds, seed)
                    held.look()
                await _still_there(server, world, outcome)
                outcome.peak_bytes = held.look()
        finally:
            await asyncio.gather(*(end_agent(agent) for agent in world.agents))
    return outcome


async def _enrolled(database: Path) -> tuple[str, list[tuple[str, str]]]:
    """An operator's token, and credentials of agents that turn hostile."""
    parts = application.build(application.AppSettings(database=database))
    hostile = [(uuid7(), secrets.new_secret("test")) for _ in range(HOSTILE_AGENTS)]
    for number, (agent_id, secret) in enumerate(hostile):
        enrolment = Enrolment(
            agent_id=agent_id, name=f"hostile-{number}", version="1", secret_sha256=secrets.sha256(secret)
        )
        await enrol(parts.storage, enrolment, time.time())
    await parts.operators.create_first("admin")
    token, _ = await parts.operators.new_token("admin", "tests", None)
    parts.database.close()
    return token, hostile


async def _attacked(
    server: ServerProcess, victim: str, hostile: list[tuple[str, str]], seconds: float, seed: int
) -> Counter[str]:
    """Run the attackers to their end; return what they sent."""
    target = {"url": server.url, "credentials": hostile, "victim": (victim, "honest"), "seconds": seconds}
    total: Counter[str] = Counter()

    async def one(group: int) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.hostile.server_attacks"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        given = json.dumps({**target, "seed": seed, "group": group})
        printed, _ = await process.communicate(given.encode())
        assert process.returncode == 0, "the attackers failed"
        total.update(json.loads(printed))

    async with asyncio.timeout(seconds + 120):
        await asyncio.gather(*(one(group) for group in range(len(ATTACKS))))
    return total


@contextlib.asynccontextmanager
async def _neighbours(honest: Neighbours, waits: Waits) -> AsyncIterator[None]:
    """Do what an operator does, over and over."""
    operations = [
        ("GET /agents", 0.1, honest.list_agents),
        ("list_models", 0.3, honest.list_models),
        ("generate", 0.5, honest.generate),
        ("news by /events", 1.0, honest.news),
        ("sync of a new model", 2.0, honest.sync),
        ("benchmark job", 2.0, honest.job),
    ]
    tasks = [asyncio.create_task(honest.read_events(), name="events")]
    tasks += [asyncio.create_task(waits.repeat(*one), name=one[0]) for one in operations]
    try:
        await asyncio.sleep(0)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Neighbours:
    """An honest operator with an open page, and an honest agent."""

    def __init__(self, client: Client, http: httpx.AsyncClient, agent: str, standin: StandIn) -> None:
        self._client = client
        self._http = http
        self._agent = agent
        self._standin = standin
        self._numbers = itertools.count(1)
        # The newest view of the agent, and the state of each job, as /events gives them.
        self._view: dict[str, Any] = {}
        self._jobs: dict[str, str] = {}
        self._changed = asyncio.Condition()

    async def read_events(self) -> None:
        """Follow ``GET /events``, again where it ends."""
        while True:
            # A stream that ends is a wait of whoever waits for news; that is where it counts.
            with contextlib.suppress(Exception):
                async for name, data in self._client.events("GET", "/events"):
                    if name == "agent" and data["id"] == self._agent:
                        self._view = data
                    elif name == "job" and data["agent_id"] == self._agent:
                        self._jobs[data["job_id"]] = data["state"]
                    async with self._changed:
                        self._changed.notify_all()
            await asyncio.sleep(0.1)

    async def _until(self, seen: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN_S), self._changed:
            await self._changed.wait_for(seen)

    async def list_agents(self) -> None:
        """All agents, as a page or a program reads them."""
        (await self._http.get("/agents")).raise_for_status()

    async def list_models(self) -> None:
        """A command's way to the agent and back."""
        async with asyncio.timeout(WITHIN_S):
            await self._client.command(self._agent, "list_models", {})

    async def generate(self) -> None:
        """A generation, from the request to its final."""
        body = {"model": MODEL, "prompt": "x", "options": {"num_predict": 8}}
        async with asyncio.timeout(WITHIN_S):
            names = [name async for name, _ in self._client.stream(self._agent, "generate", body)]
        assert names[-1] == "final", names

    async def news(self) -> None:
        """A change by one operator, until another's page shows it."""
        name = f"honest-{next(self._numbers)}"
        (await self._http.patch(f"/agents/{self._agent}", json={"name": name})).raise_for_status()
        await self._until(lambda: self._view.get("name") == name)

    async def sync(self) -> None:
        """A model that is new in Ollama, until the page shows one more."""
        await self._until(lambda: self._view.get("model_count") is not None)
        before = self._view["model_count"]
        self._standin.store.add(Model(name=f"new-{next(self._numbers)}:latest"))
        await self._until(lambda: self._view.get("model_count", 0) > before)

    async def job(self) -> None:
        """A benchmark of one short iteration, until its result is stored."""
        sizes = {"prompt_tokens": 16, "completion_tokens": 8}
        plan = {"model_name": MODEL, "num_iterations": 1, "warmup_iterations": 0, "prompt_config": sizes}
        started = await self._client.post("/benchmarks", {"agent": self._agent, "plan": plan})
        await self._until(lambda: self._jobs.get(started["job_id"]) in ("completed", "failed"))
        assert self._jobs[started["job_id"]] == "completed"


async def _still_there(server: ServerProcess, world: World, outcome: Outcome) -> None:
    """What must hold when the attack is over."""
    outcome.broken += outcome.waits.broken()
    outcome.broken += unforeseen("".join(server.later))
    outcome.counts["lines of the server's log"] = len(server.later)
    if server.process.returncode is not None:
        outcome.broken.append(f"the server ended with {server.process.returncode}")
        return
    try:
        await until(lambda: _honest_online(world), within_s=WITHIN_S)
    except AssertionError:
        outcome.broken.append("the honest agent is not online afterwards")
    for agent in world.agents:
        if agent.process.returncode is not None:
            outcome.broken.append(f"the honest agent ended with {agent.process.returncode}")


async def _honest_online(world: World) -> bool:
    return any(view["presence"] == "online" and view["model_count"] for view in await world.views())
