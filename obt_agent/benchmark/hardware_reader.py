"""Single readings of the machine that never fail a run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

import structlog

from obt_agent.benchmark.resources import EdgeReading
from obt_agent.hardware.service import HardwareService

log = structlog.get_logger(__name__)

T = TypeVar("T")


async def attempt(reading: Awaitable[T], *, what: str, timeout_s: float) -> T | None:
    """The reading, or None when it fails or takes too long: a driver's bad day ends no benchmark."""
    try:
        async with asyncio.timeout(timeout_s):
            return await reading
    except Exception as error:  # noqa: BLE001 - whatever a reading raises, the run goes on without it
        log.warning("benchmark.reading_failed", what=what, error=str(error), kind=type(error).__name__)
        return None


async def edge(machine: HardwareService, timeout_s: float) -> EdgeReading | None:
    """The GPUs' energy counters, as of the middle of the reading; None when there are none."""
    began_ns = time.monotonic_ns()
    joules = await attempt(machine.energy_edges(), what="energy counters", timeout_s=timeout_s)
    return EdgeReading((began_ns + time.monotonic_ns()) // 2, joules) if joules else None
