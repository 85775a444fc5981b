"""Memory and CPU of an Ollama's processes as psutil reads them, beside what the agent says of them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil

EVERY_S = 0.1
MIB = 1 << 20


class Reading(NamedTuple):
    """One look: monotonic and wall seconds, resident MiB, CPU seconds so far."""

    mono_s: float
    wall_s: float
    rss_mb: float
    cpu_s: float


def server_at(url: str) -> psutil.Process | None:
    """The process that listens at an address; None where the system does not tell, or it is elsewhere."""
    port = urlsplit(url).port or 80
    with contextlib.suppress(psutil.Error, OSError):
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.pid and one.laddr and one.laddr.port == port:
                return psutil.Process(one.pid)
    return None


def of_model(server: psutil.Process, weights: str) -> list[psutil.Process]:
    """The server, and its descendant that runs these weights; without the latter nothing."""
    runners = []
    for one in server.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(weights in word for word in one.cmdline()):
                runners.append(one)
    return [server, *runners] if len(runners) == 1 else []


@contextlib.asynccontextmanager
async def reading(url: str, weights: str | None) -> AsyncIterator[list[Reading]]:
    """Read every ``EVERY_S`` seconds while the context lasts; the list grows meanwhile."""
    found: list[Reading] = []
    server = server_at(url)

    async def keep_reading(server: psutil.Process, weights: str) -> None:
        while True:
            with contextlib.suppress(psutil.Error):
                processes = await asyncio.to_thread(of_model, server, weights)
                if processes:
                    rss = sum(one.memory_info().rss for one in processes) / MIB
                    cpu = sum(sum(one.cpu_times()[:2]) for one in processes)
                    found.append(Reading(time.monotonic(), time.time(), rss, cpu))
            await asyncio.sleep(EVERY_S)

    task = None
    if server is not None and weights is not None:
        task = asyncio.create_task(keep_reading(server, weights), name="process-readings")
    try:
        yield found
    finally:
        if task is not None:
            task.cancel()
            await asyncio.wait({task})


def within(found: list[Reading], start_s: float, seconds: float) -> list[Reading]:
    """The readings of a span of wall time, from the last one before it to the first one after it."""
    before = [one for one in found if one.wall_s <= start_s][-1:]
    after = [one for one in found if one.wall_s >= start_s + seconds][:1]
    return [*before, *(one for one in found if start_s < one.wall_s < start_s + seconds), *after]
