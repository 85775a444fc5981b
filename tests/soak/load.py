"""A steady load: jobs, generations, syncs and viewers at real agents through a real server, and cut links."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter, deque
from collections.abc import Awaitable, Callable

import httpx

from obt_server.client import Client
from obt_standin import StandIn
from obt_standin.script import Model
from tests.link.fault_proxy import FaultProxy

MODEL = "standin-small:latest"
JOBS_KEPT = 20
"""Of each agent, at the server: older ones are deleted, so that what is stored has no reason to grow."""
CUT_EVERY_S = 45.0
VIEWER_S = 30.0
WITHIN_S = 60.0


class Load:
    """What operators and the network do, over and over. ``done`` counts it.

    Args:
        client: an operator, who reads events.
        http: the same, who asks and deletes.
        standin: every agent's Ollama.
        links: what the agents' links pass through.
    """

    def __init__(self, client: Client, http: httpx.AsyncClient, standin: StandIn, links: FaultProxy) -> None:
        self.done: Counter[str] = Counter()
        self._client = client
        self._http = http
        self._standin = standin
        self._links = links

    def tasks(self, agents: list[str]) -> list[asyncio.Task[None]]:
        """Start everything; the caller cancels it."""
        works: list[tuple[str, float, Callable[[], Awaitable[None]]]] = [
            ("GET /agents", 0.5, self._list_agents),
            ("cut link", CUT_EVERY_S, self._cut),
            ("sync", 3.0, self._sync),
            ("viewer", 0.0, self._view),
            ("viewer", 0.0, self._view),
        ]
        for agent in agents:
            works += [
                ("list_models", 0.5, lambda agent=agent: self._list_models(agent)),  # type: ignore[misc] # bound here
                ("generation", 0.2, lambda agent=agent: self._generate(agent)),  # type: ignore[misc] # bound here
            ]
        started = [asyncio.create_task(self._repeat(*work), name=work[0]) for work in works]
        started += [asyncio.create_task(self._jobs(agent), name=f"jobs {agent}") for agent in agents]
        return started

    async def _repeat(self, name: str, pause_s: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            # A link that was cut fails what was under way: that is a part of the load.
            try:
                async with asyncio.timeout(WITHIN_S):
                    await work()
                self.done[name] += 1
            except Exception as error:  # noqa: BLE001 - counted, whatever it is
                self.done[f"{name} failed: {type(error).__name__}"] += 1
                await asyncio.sleep(1.0)
            await asyncio.sleep(pause_s)

    async def _list_agents(self) -> None:
        (await self._http.get("/agents")).raise_for_status()

    async def _list_models(self, agent: str) -> None:
        await self._client.command(agent, "list_models", {})

    async def _generate(self, agent: str) -> None:
        body = {"model": MODEL, "prompt": "x", "options": {"num_predict": 32}}
        async for _ in self._client.stream(agent, "generate", body):
            pass

    async def _sync(self) -> None:
        """A model comes, or goes again: the same one, so that its versions have no reason to grow."""
        name = "now-and-then:latest"
        if self._standin.store.find(name) is not None:
            self._standin.store.remove(name)
        else:
            self._standin.store.add(Model(name=name, digest="d" * 64))

    async def _view(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(VIEWER_S):
                async for _ in self._client.events("GET", "/events"):
                    pass

    async def _cut(self) -> None:
        self._links.reset()

    async def _jobs(self, agent: str) -> None:
        kept: deque[str] = deque()
        for number in itertools.count():
            with contextlib.suppress(Exception):
                plan = {"model_name": MODEL, "num_iterations": 1, "warmup_iterations": 0, "cooldown_s": 0}
                sizes = {"prompt_tokens": 16, "completion_tokens": 8}
                body = {
                    "agent": agent,
                    "plan": {**plan, "prompt_config": sizes},
                    "job_id": f"{agent}-{number}",
                }
                async with asyncio.timeout(WITHIN_S):
                    started = await self._client.post("/benchmarks", body)
                    kept.append(started["job_id"])
                    async for name, _ in self._client.events("GET", f"/benchmarks/{kept[-1]}/progress"):
                        if name == "end":
                            self.done["job"] += 1
                            break
            with contextlib.suppress(Exception):
                while len(kept) > JOBS_KEPT:
                    (await self._http.delete(f"/benchmarks/{kept[0]}")).raise_for_status()
                    kept.popleft()
            await asyncio.sleep(0.5)
