"""(f) The first chunk through the gateway, server and agent, against a direct read, with 50 clients at once.

Fifty requests begin together, in turns by both ways; each is timed from its start to the first bytes of
the body. What the stand-in takes for its first token is in both.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from benchmarks import processes
from benchmarks.fleet import running_server
from benchmarks.table import Column, print_table
from obt_agent.identity.state_dir import StateDir
from obt_server.auth.operators import Operators
from obt_server.auth.secrets import sha256
from obt_server.storage import Enrolment
from obt_server.store import Database, OperatorStore, SqlStorage
from tests.ports import free_port

CLIENTS: Final = 50
TTFT_S: Final = 0.2
MODEL: Final = "standin-small:latest"
TOKENS: Final = 8
AGENT_TOKEN: Final = "a-token-for-the-benchmark-alone"  # noqa: S105 - what processes.agent shows, on this machine alone
ADMITTED_WITHIN_S: Final = 60.0


@dataclass(frozen=True)
class Way:
    """An address of Ollama's API, and the tokens that clients show there in turn."""

    name: str
    url: str
    openai: bool = False
    tokens: tuple[str, ...] = ()


async def first_chunks(way: Way, http: aiohttp.ClientSession) -> list[float]:
    """Milliseconds to the first chunk, of clients that begin together."""
    return await asyncio.gather(*(_first_chunk(way, number, http) for number in range(CLIENTS)))


async def _first_chunk(way: Way, number: int, http: aiohttp.ClientSession) -> float:
    headers = {"Authorization": f"Bearer {way.tokens[number % len(way.tokens)]}"} if way.tokens else {}
    # Each asks something of its own, so that no prompt is in a cache.
    messages = [{"role": "user", "content": f"question {number} at {time.monotonic_ns()}"}]
    path = "/v1/chat/completions" if way.openai else "/api/chat"
    body = {"model": MODEL, "messages": messages, "stream": True}
    began = time.perf_counter()
    async with http.post(way.url + path, json=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        await response.content.readany()
        first = time.perf_counter()
        await response.content.read()
    return (first - began) * 1000


async def enrol(database: Path, state: Path) -> tuple[str, ...]:
    """Let the agent of a state folder in, and make two tokens: one may have 32 requests open."""
    opened = Database.sqlite(database)
    try:
        with StateDir.open(state) as identity:
            agent_id = identity.agent_id
        storage, operators = SqlStorage(opened), Operators(OperatorStore(opened))
        now = time.time()
        await storage.create_join_token(sha256("join"), note="", agent_id=None, at=now, expires_at=now + 3600)
        enrolment = Enrolment(agent_id=agent_id, name="bench", version="0", secret_sha256=sha256(AGENT_TOKEN))
        await storage.enroll(sha256("join"), enrolment, now)
        await operators.create_first("admin")
        made = [await operators.new_token("admin", "bench", None, grant=(["*"], ["*"])) for _ in range(2)]
        return tuple(secret for secret, _ in made)
    finally:
        opened.close()


@asynccontextmanager
async def ways(folder: Path) -> AsyncIterator[list[Way]]:
    """Both ways to one stand-in, ready."""
    async with AsyncExitStack() as stack:
        script = {"ttft_s": TTFT_S, "tokens": TOKENS, "num_parallel": CLIENTS}
        ollama = await stack.enter_async_context(processes.standin(folder, **script))
        database, agent = folder / "server.sqlite3", folder / "agent"
        (agent / "state").mkdir(parents=True, mode=0o700)
        tokens = await enrol(database, agent / "state")
        port = free_port()
        await stack.enter_async_context(running_server(database, port, "--gateway"))
        url = f"http://127.0.0.1:{port}"
        await stack.enter_async_context(processes.agent(agent, server=url, ollama=ollama))
        through = f"{url}/ollama/bench"
        await _answers(f"{through}/api/version", tokens[0])
        yield [
            Way("read directly", ollama),
            Way("the gateway, Ollama's form", through, tokens=tokens),
            Way("the gateway, OpenAI's form", through, openai=True, tokens=tokens),
        ]


async def _answers(url: str, token: str) -> None:
    """Wait until the agent is admitted."""
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as http, asyncio.timeout(ADMITTED_WITHIN_S):
        while True:
            async with http.get(url) as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.1)


async def compare(rounds: int) -> list[tuple[str, list[float]]]:
    """Milliseconds to the first chunk, by way."""
    connector = aiohttp.TCPConnector(limit=0)
    with tempfile.TemporaryDirectory() as folder:
        async with ways(Path(folder)) as found, aiohttp.ClientSession(connector=connector) as http:
            measured: dict[str, list[float]] = {way.name: [] for way in found}
            for number in range(rounds + 1):
                for way in found:
                    chunks = await first_chunks(way, http)
                    # The first round loads the model and opens the connections.
                    if number:
                        measured[way.name] += chunks
            return list(measured.items())


def main(argv: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks gateway", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    rounds = 2 if parser.parse_args(argv).quick else 20
    found = asyncio.run(compare(rounds))
    base = found[0][1]
    print_table(
        f"(f) ms to the first chunk, {rounds} × {CLIENTS} clients at once; {TTFT_S * 1000:.0f} are Ollama's",
        [Column("way"), Column("p50", 1), Column("p99", 1), Column("p50 added", 1), Column("p99 added", 1)],
        [
            (
                name,
                statistics.median(ms),
                _p99(ms),
                statistics.median(ms) - statistics.median(base),
                _p99(ms) - _p99(base),
            )
            for name, ms in found
        ],
    )
    return 0


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]
