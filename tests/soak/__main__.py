"""``make soak``: whether anything grows, for HOURS (2) or SECONDS, in a real server and real agents at work.

A server, two agents (one behind a link that is cut), a stand-in for Ollama; jobs, generations, syncs,
viewers. Every five seconds: memory (USS, the process's alone), descriptors, threads, tasks of asyncio,
blocks of Python's objects, rows and bytes of each database. A slope is "zero" where its interval holds zero,
else "grows by"; exit status 1 where one is above its bound and not by chance. The first quarter warms up and
is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sqlite3
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import psutil

from obt_server import app as application
from obt_server.client import Client
from obt_standin import StandIn
from tests.end_to_end.world import World, end_agent
from tests.link.fault_proxy import FaultProxy
from tests.server.process import server_process
from tests.soak.load import Load
from tests.soak.slopes import LEVEL, Slope, slope

EVERY_S: Final = 5.0
SAY_EVERY_S: Final = 300.0
WARM_UP: Final = 1 / 4
MIB: Final = 1 << 20
BOUNDS: Final[Mapping[str, float]] = {
    "USS MiB": 1.0,
    "descriptors": 1.0,
    "threads": 1.0,
    "tasks": 1.0,
    "blocks": 5000.0,
    "rows": 10.0,
    "disk MiB": 1.0,
}
"""Growth an hour that is allowed; of a run under an hour, growth over the run: its noise is as large."""
BY_DESIGN: Final[Mapping[tuple[str, str], tuple[str, float, str]]] = {
    ("agent", "rows"): ("job", 1.1, "a job's id is remembered for 90 days"),
    ("agent", "disk MiB"): ("job", 4096 / MIB, "the same"),
    # Both agents have the one stand-in's models.
    ("server", "rows"): ("sync", 2.2, "a change of a model is remembered, 2,000 of an agent"),
}
"""What grows with what is done: with each of which, how much at most, and why."""


@dataclass
class Process:
    """One process that is watched."""

    kind: str
    name: str
    pid: int
    counts: Path
    database: Path
    times: list[float] = field(default_factory=list)
    series: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def sample(self, now: float) -> None:
        """Take every figure; one that cannot be had now repeats, so that the series stay in step."""
        process = psutil.Process(self.pid)
        figures: dict[str, float] = {
            "USS MiB": process.memory_full_info().uss / MIB,
            "descriptors": process.num_fds(),
            "threads": process.num_threads(),
            "rows": _rows(self.database),
            "disk MiB": sum(one.stat().st_size for one in _files(self.database)) / MIB,
        }
        with contextlib.suppress(OSError, ValueError):
            figures |= json.loads(self.counts.read_text())
        if "tasks" not in figures:
            return
        self.times.append(now)
        for name, figure in figures.items():
            self.series[name].append(float(figure))


def _files(database: Path) -> list[Path]:
    return [one for one in database.parent.glob(database.name + "*") if one.exists()]


def _rows(database: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return sum(db.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables)  # noqa: S608 - its own


async def soak(folder: Path, seconds: float) -> tuple[list[Process], Counter[str]]:
    """Run everything for so long; return what was sampled, and what was done."""
    database = folder / "server.sqlite3"
    parts = application.build(application.AppSettings(database=database))
    await parts.operators.create_first("admin")
    token, _ = await parts.operators.new_token("admin", "soak", None)
    parts.database.close()
    counted = ("tests.soak.counted", str(folder / "server.json"), "obt_server")
    async with (
        StandIn() as standin,
        server_process(database, module=counted) as server,
        FaultProxy(server.port) as links,
        Client(server.url, token) as client,
        httpx.AsyncClient(
            base_url=server.url + "/api/v1", headers={"Authorization": f"Bearer {token}"}, trust_env=False
        ) as http,
    ):
        standin.script.decode_tps = 200.0
        world = World(server.url, parts, client, folder, standin.url)
        world.wrapped = ("tests.soak.counted", "FOLDER/counts.json")
        watched = [Process("server", "server", server.process.pid, folder / "server.json", database)]
        try:
            # Enrolled on the straight way, so that the link that is cut is the agent's alone.
            for name, url in (("one", server.url), ("cut", f"http://127.0.0.1:{links.port}")):
                world.url = url
                agent = await world.enrolled(name, name=name, policy={"rate_limit": None})
                store, counts = agent.folder / "state" / "jobs.sqlite", agent.folder / "counts.json"
                watched.append(Process("agent", f"agent {name}", agent.process.pid, counts, store))
            views = await world.online(2)
            load = Load(client, http, standin, links)
            tasks = load.tasks([view["id"] for view in views])
            try:
                await _watch(watched, seconds)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            return watched, load.done
        finally:
            await asyncio.gather(*(end_agent(agent) for agent in world.agents))


async def _watch(watched: list[Process], seconds: float) -> None:
    began = time.monotonic()
    said = began
    while (now := time.monotonic()) < began + seconds:
        for process in watched:
            await asyncio.to_thread(process.sample, now)
        if now - said > SAY_EVERY_S:
            said = now
            sys.stdout.write(f"{(now - began) / 60:.0f} min: {_now(watched)}\n")
            sys.stdout.flush()
        await asyncio.sleep(EVERY_S)


def _now(watched: list[Process]) -> str:
    return ", ".join(f"{process.name} {process.series['USS MiB'][-1]:.1f} MiB" for process in watched)


def report(watched: list[Process], done: Counter[str], seconds: float) -> bool:
    """Print every slope; return whether all are within their bounds."""
    kinds = Counter(process.kind for process in watched)
    good = True
    sys.stdout.write(
        f"least squares, {LEVEL:.0%} intervals by a moving-block bootstrap; first {WARM_UP:.0%} left out\n\n"
        "| process | figure | first | last | an hour | interval | bound | |\n"
        "|---|---|--:|--:|--:|---|--:|---|\n"
    )
    for process in watched:
        start = int(len(process.times) * WARM_UP)
        for name, bound in BOUNDS.items():
            values = process.series[name][start:]
            found = slope(process.times[start:], values)
            what, each, why = BY_DESIGN.get((process.kind, name), ("", 0.0, ""))
            allowed = bound / min(1.0, found.hours) + each * done[what] / kinds[process.kind] * 3600 / seconds
            above = found.above(allowed)
            good &= not above
            sys.stdout.write(_line(process, name, values, found, allowed, above, why))
    done_text = ", ".join(f"{name} {count}" for name, count in sorted(done.items()))
    sys.stdout.write(f"\ndone: {done_text}\n{'all within their bounds' if good else 'GROWS'}\n")
    return good


def _line(
    process: Process, name: str, values: list[float], found: Slope, allowed: float, above: bool, why: str
) -> str:
    word = (
        "GROWS" if above else "zero" if found.zero else f"grows by {found.change:.2f} in {found.hours:.2f} h"
    )
    reason = f" ({why})" if why and not found.zero else ""
    return (
        f"| {process.name} | {name} | {values[0]:.2f} | {values[-1]:.2f} | {found.per_h:+.2f} "
        f"| {found.low:+.2f} to {found.high:+.2f} | {allowed:.2f} | {word}{reason} |\n"
    )


def main() -> int:
    """Run; the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=7200.0)
    seconds = parser.parse_args().seconds
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    sys.stdout.write(f"{seconds:g} s; load before {load}\n")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        watched, done = asyncio.run(soak(Path(folder), seconds))
    return 0 if report(watched, done, seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
