"""(c) An agent with nothing to do: memory, CPU, and how soon after its start it is admitted."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes
from benchmarks.processes import Program
from benchmarks.sink import sink
from benchmarks.table import Column, print_table

STARTS = 5
BARE = "import aiohttp, asyncio, websockets.asyncio.client; asyncio.run(asyncio.sleep(3600))"
"""The least that any agent on these libraries costs: the interpreter with them, asleep."""


@dataclass(frozen=True)
class Idle:
    """Resident bytes, CPU as a share of one core, seconds from start to admitted (None: it does not dial)."""

    name: str
    rss_bytes: int
    cpu_ratio: float
    admitted_s: float | None


async def by_agent(folder: Path, ollama: str, seconds: float, *, uvloop: bool) -> Idle:
    """The whole agent beside an Ollama with three models."""
    starts = sorted([await _start(folder / f"start-{n}", ollama, uvloop=uvloop) for n in range(STARTS)])
    async with (
        sink() as server,
        processes.agent(folder, server=server.url, ollama=ollama, uvloop=uvloop) as program,
    ):
        await server.admitted.wait()
        await asyncio.sleep(5)
        ratio = await _cpu_ratio(program, seconds)
        loop = "uvloop" if uvloop else "asyncio"
        return Idle(f"the agent, {loop}", program.rss_bytes(), ratio, starts[len(starts) // 2])


async def _start(folder: Path, ollama: str, *, uvloop: bool) -> float:
    """From the start of the process to the answer of its hello."""
    async with sink() as server:
        began = time.monotonic()
        async with processes.agent(folder, server=server.url, ollama=ollama, uvloop=uvloop):
            await server.admitted.wait()
            return server.admitted_at - began


async def _cpu_ratio(program: Program, seconds: float) -> float:
    cpu, began = program.cpu_s(), time.monotonic()
    await asyncio.sleep(seconds)
    return (program.cpu_s() - cpu) / (time.monotonic() - began)


async def bare(seconds: float) -> Idle:
    """The interpreter with aiohttp and websockets, asleep."""
    async with processes.running([sys.executable, "-c", BARE]) as program:
        await asyncio.sleep(2)
        return Idle(
            "Python, aiohttp and websockets, asleep",
            program.rss_bytes(),
            await _cpu_ratio(program, seconds),
            None,
        )


async def measure(seconds: float) -> list[Idle]:
    """One after the other."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with processes.standin(folder) as ollama:
            return [
                await by_agent(folder / "asyncio", ollama, seconds, uvloop=False),
                await by_agent(folder / "uvloop", ollama, seconds, uvloop=True),
                await bare(min(seconds, 10)),
            ]


def main(argv: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks idle", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    seconds = 15.0 if parser.parse_args(argv).quick else 60.0
    print_table(
        f"(c) idle for {seconds:.0f} s (aims: 50 MB, 0.2 % of a core, 1 s to admitted, median of {STARTS})",
        [
            Column("program"),
            Column("RSS MB", 1),
            Column("CPU % of a core", 2),
            Column("start to admitted s", 2),
        ],
        [
            (
                idle.name,
                idle.rss_bytes / 1e6,
                idle.cpu_ratio * 100,
                "–" if idle.admitted_s is None else idle.admitted_s,
            )
            for idle in asyncio.run(measure(seconds))
        ],
    )
    return 0
