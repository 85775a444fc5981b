"""(d) Sixty-four streams at once through one agent: memory, fairness, CPU."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.sink import sink
from benchmarks.table import Column, print_table

STREAMS = 64
MODEL = "standin-small:latest"


@dataclass(frozen=True)
class Crowd:
    """RSS before and at its highest, in bytes; the streams' times in seconds; CPU µs for each token."""

    name: str
    rss_before: int
    rss_most: int
    fastest_s: float
    slowest_s: float
    us_per_token: float


async def crowd(name: str, folder: Path, tokens: int, *, uvloop: bool, **script: object) -> Crowd:
    """Run the streams, all begun at once, and watch the agent meanwhile."""
    folder.mkdir()
    async with (
        processes.standin(folder, tokens=tokens, num_parallel=STREAMS, **script) as ollama,
        sink() as server,
        processes.agent(folder / "agent", server=server.url, ollama=ollama, uvloop=uvloop) as program,
    ):
        await server.admitted.wait()
        await server.request("generate", _body(10))
        await asyncio.sleep(2)
        before, cpu, most = program.rss_bytes(), program.cpu_s(), 0

        async def one() -> float:
            began = time.monotonic()
            answer: Any = await server.request("generate", _body(tokens))
            assert answer["result"]["final"]["eval_count"] >= tokens, "tokens were lost"
            return time.monotonic() - began

        work = asyncio.gather(*(one() for _ in range(STREAMS)))
        while not work.done():
            most = max(most, program.rss_bytes())
            await asyncio.wait([work], timeout=0.05)
        times = await work
        us = (program.cpu_s() - cpu) / (tokens * STREAMS) * 1e6
        return Crowd(name, before, most, min(times), max(times), us)


def _body(count: int) -> dict[str, object]:
    return {"model": MODEL, "prompt": "x", "options": {"num_predict": count}}


async def measure(tokens: int) -> list[Crowd]:
    """At a pace that people read at, and as fast as it goes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [
            await crowd("50 tokens/s each, asyncio", folder / "a", 250, uvloop=False, decode_tps=50),
            await crowd("50 tokens/s each, uvloop", folder / "b", 250, uvloop=True, decode_tps=50),
            await crowd("saturated, asyncio", folder / "c", tokens, uvloop=False, fast=True),
            await crowd("saturated, uvloop", folder / "d", tokens, uvloop=True, fast=True),
        ]


def main(argv: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks streams", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    tokens = 3_000 if parser.parse_args(argv).quick else 10_000
    print_table(
        f"(d) {STREAMS} streams at once",
        [
            Column("streams"),
            Column("RSS MB before", 1),
            Column("RSS MB at most", 1),
            Column("fastest s", 2),
            Column("slowest s", 2),
            Column("slowest/fastest", 2),
            Column("CPU µs/token", 2),
        ],
        [
            (
                c.name,
                c.rss_before / 1e6,
                c.rss_most / 1e6,
                c.fastest_s,
                c.slowest_s,
                c.slowest_s / c.fastest_s,
                c.us_per_token,
            )
            for c in asyncio.run(measure(tokens))
        ],
    )
    return 0
