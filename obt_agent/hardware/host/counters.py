"""Loads and rates: what counters changed between two readings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from obt_agent.hardware.field_reader import FieldReader, Unreadable
from obt_agent.hardware.host.rates import LEAST_WINDOW_NS, Rates
from obt_agent.hardware.host.readings import CpuTimes, HostReadings, Moved
from obt_agent.hardware.samples import DiskSample, NetworkSample

SampleT = TypeVar("SampleT", DiskSample, NetworkSample)


class CpuLoad:
    """How busy the CPUs were between the last two readings."""

    def __init__(self, readings: HostReadings, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._readings = readings
        self._clock = clock
        # The reading that the next ratios start from, and when it was.
        self._before: tuple[CpuTimes, ...] = ()
        self._before_ns = 0
        # Of each CPU, and of all together; empty and None before the second reading.
        self.per_core: tuple[float, ...] = ()
        self._all: float | None = None

    def ratio(self) -> float:
        """Take a reading, and return the busy share of all CPUs, 0 to 1. Raise as reading does."""
        now_ns = self._clock()
        if not self._before or now_ns - self._before_ns >= LEAST_WINDOW_NS:
            self._update(self._readings.cpu_times())
            self._before_ns = now_ns
        if self._all is None:
            raise Unreadable("needs_two_readings")
        return self._all

    def _update(self, times: tuple[CpuTimes, ...]) -> None:
        """Compare with the reading before, unless a CPU was switched on or off, as their order names them."""
        pairs = list(zip(self._before, times, strict=True)) if len(self._before) == len(times) else []
        cores = [busy_ratio(before, now) for before, now in pairs]
        self.per_core = tuple(ratio for ratio in cores if ratio is not None)
        self._all = busy_ratio(_sum(self._before), _sum(times)) if pairs else None
        self._before = times


def _sum(times: tuple[CpuTimes, ...]) -> CpuTimes:
    return CpuTimes(sum(one.total_s for one in times), sum(one.idle_s for one in times))


def busy_ratio(before: CpuTimes, now: CpuTimes) -> float | None:
    """Return the busy share between two readings, 0 to 1; None when no time passed.

    The kernel's idle counters can step back a little, so the share is held within its bounds.
    """
    passed = now.total_s - before.total_s
    if passed <= 0:
        return None
    return min(1.0, max(0.0, 1.0 - (now.idle_s - before.idle_s) / passed))


class IoRates:
    """Bytes that disks and network interfaces moved per second since the reading before."""

    def __init__(self, readings: HostReadings, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._readings = readings
        self._clock = clock
        # Of each device what came in (" in") and what went out (" out"), by its name.
        self._disk = Rates()
        self._network = Rates()

    def disk(self, counted: frozenset[str]) -> DiskSample:
        """Return the sum over these disks. Does not raise."""
        return self._sample(DiskSample, self._disk, partial(_counters, self._readings.disks, counted))

    def network(self, counted: frozenset[str]) -> NetworkSample:
        """Return the sum over these interfaces. Does not raise."""
        return self._sample(
            NetworkSample, self._network, partial(_counters, self._readings.networks, counted)
        )

    def _sample(self, kind: type[SampleT], rates: Rates, source: Callable[[], dict[str, int]]) -> SampleT:
        reasons = FieldReader()
        # Both kinds of sample begin with what comes in, then what goes out.
        incoming, outgoing = kind.__struct_fields__[:2]
        counters = reasons.read(incoming, source)
        if counters is None:
            return kind(unavailable=dict.fromkeys((incoming, outgoing), reasons.reasons[incoming]))
        rates.update(counters, self._clock())
        found: dict[str, Any] = {
            incoming: reasons.read(incoming, partial(rates.total, " in")),
            outgoing: reasons.read(outgoing, partial(rates.total, " out")),
        }
        return kind(**found, unavailable=reasons.reasons)


def _counters(source: Callable[[], Mapping[str, Moved]], counted: frozenset[str]) -> dict[str, int]:
    """Return the counters of these devices. Raise Unreadable where the system shows none of them."""
    moved = {name: one for name, one in source().items() if name in counted}
    if not moved:
        raise Unreadable("not_present")
    incoming = {f"{name} in": one.incoming for name, one in moved.items()}
    return incoming | {f"{name} out": one.outgoing for name, one in moved.items()}
