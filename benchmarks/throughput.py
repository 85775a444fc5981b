"""(a) CPU for each token at saturation: the agent with everything switched on, beside loops that forward."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes
from benchmarks.sink import Sink, sink
from benchmarks.table import Column, print_table

MODEL = "standin-small:latest"
FORWARDERS = {
    "raw": "forward bytes, undecoded",
    "lines": "decode, a frame for each read",
    "tokens": "decode, a frame for each token",
}


@dataclass(frozen=True)
class Cost:
    """What one way of forwarding cost: CPU µs of its process for each token, and tokens a second."""

    name: str
    loop: str
    us_per_token: float
    tokens_per_s: float


async def by_agent(folder: Path, ollama: str, count: int, *, uvloop: bool) -> Cost:
    """Through the agent: dispatcher, policy, credit, stamps and all."""
    async with (
        sink() as server,
        processes.agent(folder, server=server.url, ollama=ollama, uvloop=uvloop) as program,
    ):
        await server.admitted.wait()
        await _settle(server)
        cpu, began = program.cpu_s(), time.monotonic()
        answer = await server.request("generate", _body(count))
        took = time.monotonic() - began
        final = answer["result"]["final"]
        assert final["eval_count"] >= count, "tokens were lost"
        return Cost("the agent", _loop(uvloop), (program.cpu_s() - cpu) / count * 1e6, count / took)


async def _settle(server: Sink) -> None:
    """A short generation first: the model is loaded, modules are imported."""
    await server.request("generate", _body(100))
    await asyncio.sleep(2)


async def by_forwarder(kind: str, ollama: str, count: int, *, uvloop: bool) -> Cost:
    """Through a loop written for the comparison; what its start costs (a run of one token) is taken off."""
    start_cpu, start_s = await _forward(kind, ollama, 1, uvloop=uvloop)
    cpu, took = await _forward(kind, ollama, count, uvloop=uvloop)
    us = max(0.0, cpu - start_cpu) / count * 1e6
    return Cost(FORWARDERS[kind], _loop(uvloop), us, count / max(took - start_s, 1e-3))


async def _forward(kind: str, ollama: str, count: int, *, uvloop: bool) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks.forwarders", kind, ollama]
    async with sink() as server:
        arguments = [*command, server.url, json.dumps(_body(count)), *(["uvloop"] if uvloop else [])]
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            "/usr/bin/env", "python3", "-c", _TIMED, *arguments, stdout=-1
        )
        out, _ = await process.communicate()
        return float(out), time.monotonic() - began


_TIMED = """
import os, resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""
"""Runs a command and prints its CPU seconds, as the kernel accounts them."""


def _body(count: int) -> dict[str, object]:
    return {"model": MODEL, "prompt": "x", "options": {"num_predict": count}}


def _loop(uvloop: bool) -> str:  # noqa: FBT001 - a name for a state
    return "uvloop" if uvloop else "asyncio"


async def measure(count: int) -> list[Cost]:
    """Every way, on both event loops, one after the other."""
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with processes.standin(folder, fast=True, tokens=count) as ollama:
            for uvloop in (False, True):
                costs.append(await by_agent(folder / f"agent-{uvloop}", ollama, count, uvloop=uvloop))
                costs += [await by_forwarder(kind, ollama, count, uvloop=uvloop) for kind in FORWARDERS]
    return costs


def main(argv: list[str]) -> int:
    """Print the comparison."""
    parser = argparse.ArgumentParser(prog="benchmarks throughput", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    count = 60_000 if parser.parse_args(argv).quick else 300_000
    costs = asyncio.run(measure(count))
    own = {cost.loop: cost.us_per_token for cost in costs if cost.name == "the agent"}
    print_table(
        f"(a) CPU for each token at saturation, {count} tokens, one stream (aim: at most 4 µs)",
        [
            Column("way"),
            Column("loop"),
            Column("CPU µs/token", 2),
            Column("tokens/s"),
            Column("ratio to the agent", 2),
        ],
        [(c.name, c.loop, c.us_per_token, c.tokens_per_s, c.us_per_token / own[c.loop]) for c in costs],
    )
    return 0
