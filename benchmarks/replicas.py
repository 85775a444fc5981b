"""(g) One server process and three: what the way between two adds, what idle agents cost, how all return.

Side by side in one run: one process on SQLite, one and three on PostgreSQL and NATS. Calls and generations
are asked of the process that holds the agent and of another one, in turns; the difference is the way between.
The agents are those of section (e), as many for each process.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from benchmarks import processes
from benchmarks.enrolment import enrol
from benchmarks.fleet import Agent, all_admitted
from benchmarks.processes import Program
from benchmarks.replica_setups import SETUPS, Setup, place_of, serving
from benchmarks.table import Column, print_table
from obt_agent.identity.state_dir import StateDir
from obt_agent.protocol import limits
from obt_server.auth.secrets import sha256
from obt_server.storage import Enrolment
from tests.ports import free_port

AGENT_TOKEN: Final = "a-token-for-the-benchmark-alone"  # noqa: S105 - what processes.agent shows, on this machine alone
AWAY_S: Final = 2.0
"""How long all processes are gone before they come back together."""
SETTLED_S: Final = 2 * limits.ALIVE_INTERVAL_S
TOKENS: Final = 20_000
"""Of a generation at full speed."""
STREAMS: Final = 4
"""Generations at once."""


class Roaming(Agent):
    """An agent that dials the processes in turn, beginning with its own. Each machine has its own name."""

    def __init__(self, urls: Sequence[str], number: int) -> None:
        first = number % len(urls)
        super().__init__(urls[first], name=f"box-{number}")
        self._addresses = itertools.islice(itertools.cycle(urls), first, None)

    async def _dial(self) -> None:
        self._url = next(self._addresses).replace("http", "ws", 1) + limits.CONNECT_PATH
        await super()._dial()


# -- the way between two processes -------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """Asking one process: of calls and first tokens p50 and p99 in ms, and tokens a second."""

    setup: str
    asked: str
    call_ms: list[float]
    first_ms: list[float]
    tokens_per_s: float


async def ways(setup: Setup, folder: Path, calls: int) -> list[Way]:
    """Ask the process that holds the agents, and another one where there is one."""
    ports = [free_port() for _ in range(setup.processes)]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    async with AsyncExitStack() as stack:
        place = stack.enter_context(place_of(setup, folder))
        script = {"tokens": TOKENS, "fast": True, "num_parallel": STREAMS}
        ollama = await stack.enter_async_context(processes.standin(folder, **script))
        real = folder / "agent"
        (real / "state").mkdir(parents=True, mode=0o700)
        light = Agent(urls[0])
        with StateDir.open(real / "state") as identity:
            heavy = Enrolment(
                agent_id=identity.agent_id, name="bench", version="0", secret_sha256=sha256(AGENT_TOKEN)
            )
        token = await enrol(place.database, [light.enrolment, heavy])
        await stack.enter_async_context(serving(setup, place, ports))
        await stack.enter_async_context(processes.agent(real, server=urls[0], ollama=ollama))
        speaking = asyncio.create_task(light.run(), name="light agent")
        stack.callback(speaking.cancel)
        headers = {"Authorization": f"Bearer {token}"}
        http = await stack.enter_async_context(aiohttp.ClientSession(headers=headers))
        asked = {"the one that holds it": urls[0]} | ({"another one": urls[1]} if len(urls) > 1 else {})
        await all_admitted([light])
        for url in urls:
            await _online(http, url, (light.id, heavy.agent_id))
        took: dict[str, list[float]] = {name: [] for name in asked}
        first: dict[str, list[float]] = {name: [] for name in asked}
        rates: dict[str, list[float]] = {name: [] for name in asked}
        for number in range(calls):
            for name, url in asked.items():
                ms = await _call(http, url, light.id)
                # The first ones open connections.
                took[name] += [ms] if number >= calls // 10 else []
        for number in range(max(5, calls // 20)):
            for name, url in asked.items():
                ms, _ = await _generate(http, url, heavy.agent_id, 1)
                first[name] += [ms] if number else []
        for _ in range(3):
            for name, url in asked.items():
                began = time.perf_counter()
                got = await asyncio.gather(
                    *(_generate(http, url, heavy.agent_id, TOKENS) for _ in range(STREAMS))
                )
                rates[name].append(sum(count for _, count in got) / (time.perf_counter() - began))
        return [
            Way(setup.name, name, took[name], first[name], statistics.median(rates[name])) for name in asked
        ]


async def _online(http: aiohttp.ClientSession, url: str, agents: Sequence[str]) -> None:
    async with asyncio.timeout(60):
        for agent in agents:
            while True:
                async with http.get(f"{url}/api/v1/agents/{agent}") as response:
                    if (await response.json()).get("presence") == "online":
                        break
                await asyncio.sleep(0.05)


async def _call(http: aiohttp.ClientSession, url: str, agent: str) -> float:
    began = time.perf_counter()
    async with http.post(f"{url}/api/v1/agents/{agent}/commands/agent_info", json={}) as response:
        assert response.status == 200, await response.text()
        await response.read()
    return (time.perf_counter() - began) * 1000


async def _generate(http: aiohttp.ClientSession, url: str, agent: str, tokens: int) -> tuple[float, int]:
    """Milliseconds to the first event, and how many tokens came."""
    body = {"model": "standin-small:latest", "prompt": "x", "options": {"num_predict": tokens}}
    began = time.perf_counter()
    count, first = 0, 0.0
    async with http.post(f"{url}/api/v1/agents/{agent}/commands/generate", json=body) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if line.startswith(b"event: item"):
                first = first or (time.perf_counter() - began) * 1000
                count += 1
    return first, count


# -- idle agents, and their return -------------------------------------------------------------------------


@dataclass(frozen=True)
class Fleet:
    """Of all agents: bytes and CPU of the server's processes and of what is beside them, and the return."""

    setup: str
    agents: int
    admitted_s: float
    agent_bytes: float
    largest_bytes: int
    cpu_of_thousand: float
    apart_cpu: float
    commits_per_s: float
    messages_per_s: float
    bytes_per_s: float
    others_s: float
    median_s: float
    last_s: float
    storm_cpu_s: float


async def fleet(setup: Setup, folder: Path, each: int, seconds: float) -> Fleet:
    """Let agents in, leave them alone, end one process, end all."""
    ports = [free_port() for _ in range(setup.processes)]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    count = each * setup.processes
    agents = [Roaming(urls, number) for number in range(count)]
    tasks: list[asyncio.Task[None]] = []
    with place_of(setup, folder) as place:
        await enrol(place.database, [agent.enrolment for agent in agents])
        try:
            async with serving(setup, place, ports) as servers:
                alone = [server.rss_bytes() for server in servers]
                began = time.monotonic()
                tasks = [asyncio.create_task(agent.run(), name=f"agent {agent.id}") for agent in agents]
                await all_admitted(agents)
                admitted_s = time.monotonic() - began
                await asyncio.sleep(SETTLED_S)
                before, began = [server.cpu_s() for server in servers], time.monotonic()
                apart, commits, carried = place.cpu_s(), place.commits(), place.carried()
                await asyncio.sleep(seconds)
                passed = time.monotonic() - began
                cpu = sum(server.cpu_s() for server in servers) - sum(before)
                apart, commits = place.cpu_s() - apart, place.commits() - commits
                messages, size = (new - old for new, old in zip(place.carried(), carried, strict=True))
                full = [server.rss_bytes() for server in servers]
                others_s = await _end_one(servers, agents) if len(servers) > 1 else 0.0
                for server in servers:
                    if server.process.returncode is None:
                        server.process.kill()
                        await server.process.wait()
            await asyncio.sleep(AWAY_S)
            async with serving(setup, place, ports) as servers:
                began, before = time.monotonic(), [server.cpu_s() for server in servers]
                await all_admitted(agents)
                back = sorted(agent.admitted_at - began for agent in agents)
                storm = sum(server.cpu_s() for server in servers) - sum(before)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return Fleet(
        setup=setup.name,
        agents=count,
        admitted_s=admitted_s,
        agent_bytes=(sum(full) - sum(alone)) / count,
        largest_bytes=max(full),
        cpu_of_thousand=cpu / passed / count * 1000,
        apart_cpu=apart / passed,
        commits_per_s=commits / passed,
        messages_per_s=messages / passed,
        bytes_per_s=size / passed,
        others_s=others_s,
        median_s=statistics.median(back),
        last_s=back[-1],
        storm_cpu_s=storm,
    )


async def _end_one(servers: Sequence[Program], agents: Sequence[Agent]) -> float:
    """Kill a process; return the seconds until its agents are all with the others."""
    began = time.monotonic()
    servers[0].process.kill()
    await servers[0].process.wait()
    # Each notices the end of its socket at once; the next look must not come before that.
    await asyncio.sleep(0.5)
    await all_admitted(agents)
    return time.monotonic() - began


WAY_COLUMNS: Final = [
    Column("processes"),
    Column("asked"),
    Column("call ms p50", 2),
    Column("p99", 2),
    Column("first token ms p50", 2),
    Column("p99", 2),
    Column("tokens/s", 0),
]
FLEET_COLUMNS: Final = [
    Column("processes"),
    Column("agents"),
    Column("all in s", 1),
    Column("kB an agent", 1),
    Column("largest MB", 0),
    Column("CPU % of 1,000", 1),
    Column("PG, NATS CPU %", 1),
    Column("commits/s", 1),
    Column("bus msgs/s", 1),
    Column("kB/s", 1),
    Column("one killed s", 1),
    Column("half back s", 1),
    Column("all back s", 1),
    Column("CPU s", 1),
]


def main(argv: list[str]) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="benchmarks replicas", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--agents", type=int, default=1000, help="for each process")
    parser.add_argument("--processes", type=int, help="only setups of so many; all unless given")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--idle", action="store_true", help="only the agents, without the calls")
    only.add_argument("--ways", action="store_true", help="only the calls, without the agents")
    parser.add_argument("--json", action="store_true", help="print the figures, too")
    options = parser.parse_args(argv)
    processes.end_on_sigterm()
    each, seconds, calls = (100, 5.0, 100) if options.quick else (options.agents, 30.0, 2000)
    found: list[Way] = []
    fleets: list[Fleet] = []
    setups = [one for one in SETUPS if options.processes in (None, one.processes)]
    for setup in () if options.idle else setups:
        with tempfile.TemporaryDirectory() as name:
            found += asyncio.run(ways(setup, Path(name), calls))
    if found:
        print_table(
            f"(g) {calls} calls in turn, and {STREAMS} generations of {TOKENS} tokens at once",
            WAY_COLUMNS,
            [
                (*(w.setup, w.asked), *_p50_p99(w.call_ms), *_p50_p99(w.first_ms), w.tokens_per_s)
                for w in found
            ],
        )
    for setup in () if options.ways else setups:
        with tempfile.TemporaryDirectory() as name:
            fleets.append(asyncio.run(fleet(setup, Path(name), each, seconds)))
    if fleets:
        print_table(
            f"(g) {each} idle agents for each process; one killed; all killed and back after {AWAY_S:g} s",
            FLEET_COLUMNS,
            [_row(one) for one in fleets],
        )
    if options.json:
        print(json.dumps([vars(one) for one in fleets]))
    return 0


def _row(one: Fleet) -> tuple[object, ...]:
    return (
        *(one.setup, one.agents, one.admitted_s, one.agent_bytes / 1e3, one.largest_bytes / 1e6),
        *(one.cpu_of_thousand * 100, one.apart_cpu * 100, one.commits_per_s),
        *(one.messages_per_s, one.bytes_per_s / 1e3, one.others_s),
        *(one.median_s, one.last_s, one.storm_cpu_s),
    )


def _p50_p99(values: Sequence[float]) -> tuple[float, float]:
    return statistics.median(values), statistics.quantiles(values, n=100)[98]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
