"""The hardware service as a benchmark sees it, and readings that never fail a run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

import structlog

from obt_agent.benchmark.resources import EdgeReading
from obt_agent.hardware.inventory import Inventory
from obt_agent.hardware.samples import Sample

log = structlog.get_logger(__name__)

T = TypeVar("T")


class SampleWatch(Protocol):
    """A running series of samples."""

    @property
    def interval_s(self) -> float:
        """Seconds between samples, as they come in fact."""

    @property
    def missed(self) -> int:
        """Ticks that were left out."""

    def __aiter__(self) -> AsyncIterator[Sample]:
        """Samples as they are taken."""


class HardwareReader(Protocol):
    """What a benchmark asks of ``obt_agent.hardware.service.HardwareService``."""

    async def inventory(self, *, refresh: bool = False) -> Inventory:
        """What the machine is."""

    def watch(self, interval_s: float, *, reason: str) -> AbstractAsyncContextManager[SampleWatch]:
        """Samples at least so often while the context is open."""

    async def energy_edges(self) -> dict[str, float]:
        """Energy counters in joules, by GPU."""


async def attempt(reading: Awaitable[T], *, what: str, timeout_s: float) -> T | None:
    """The reading, or None when it fails or takes too long: a driver's bad day ends no benchmark."""
    try:
        async with asyncio.timeout(timeout_s):
            return await reading
    except Exception as error:  # noqa: BLE001 - whatever a reading raises, the run goes on without it
        log.warning("benchmark.reading_failed", what=what, error=str(error), kind=type(error).__name__)
        return None


async def edge(machine: HardwareReader, timeout_s: float) -> EdgeReading | None:
    """The GPUs' energy counters, as of the middle of the reading; None when there are none."""
    began_ns = time.monotonic_ns()
    joules = await attempt(machine.energy_edges(), what="energy counters", timeout_s=timeout_s)
    return EdgeReading((began_ns + time.monotonic_ns()) // 2, joules) if joules else None
