"""How fast the CPUs run, and how long heat held them back: what tells a slow machine from a slowed one."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from obt_agent.hardware.field_reader import FieldReader, Unreadable, each, non_negative, optional
from obt_agent.hardware.host.linux import cpu_info
from obt_agent.hardware.snapshot.root import FileCache, Root

_CPUS = "/sys/devices/system/cpu"
# Kernels before 5.18 take up to 10 ms for each clock of an idle CPU, asleep, not at work.
_MOST_CLOCKS = 8

# Files with a clock. The first is measured (Linux 6.14), and refuses (EAGAIN) for a core that idles; the
# second may be what was asked for, which some drivers never change.
_CLOCKS = ("cpuinfo_avg_freq", "scaling_cur_freq")

_EVERY_NS = 5_000_000_000
_THROTTLED = "thermal_throttle/package_throttle_total_time_ms"


class CpuFrequency:
    """The clock, read every 5 s at most, and the counter of throttled time (Intel's alone)."""

    def __init__(self, root: Root, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._root = root
        self._clock = clock
        self._hot = FileCache(root)
        # Found by ``probe``: folders of the cores whose clocks are read, names of the files there that hold
        # a clock, the better first, and one file of each package that counts throttled time.
        self._policies: tuple[str, ...] = ()
        self._files: list[str] = []
        self._counters: tuple[str, ...] = ()
        # The clock as it was read last, when that was, and the reason where it could not be read.
        self._read_at_ns: int | None = None
        self._last = FieldReader()
        self._hertz: int | None = None

    def probe(self) -> None:
        """Look for the files again."""
        found = self._root.below(f"{_CPUS}/cpufreq", "policy")
        # Every so many of them, so that the clocks of all sockets and kinds of cores are among those read.
        step = max(1, -(-len(found) // _MOST_CLOCKS))
        self._policies = tuple(found[::step])
        self._files = [file for file in _CLOCKS if any(self._root.exists(f"{one}/{file}") for one in found)]
        self._counters = tuple(self._by_package().values())
        self._read_at_ns = None

    def clock_hertz(self) -> int:
        """The fastest clock of up to 8 cores, spread over the machine. Raises as reading does."""
        now = self._clock()
        if self._read_at_ns is None or now - self._read_at_ns >= _EVERY_NS:
            self._read_at_ns, self._last = now, FieldReader()
            self._hertz = self._last.read("clock_hertz", self._fastest)
        if self._hertz is None:
            raise Unreadable(self._last.reasons["clock_hertz"])
        return self._hertz

    def throttled_seconds(self) -> float:
        """Time in which heat held a package back, summed over packages. Raises as reading does."""
        if not self._counters:
            raise Unreadable("not_present")
        return sum(each(partial(self._throttled_ms, file) for file in self._counters)) / 1000

    def _throttled_ms(self, file: str) -> int:
        return non_negative(self._hot.integer(file))

    def close(self) -> None:
        """Let go of the files."""
        self._hot.close()

    def _fastest(self) -> int:
        """Return the measured clocks' maximum; where no core tells one, that of the requested clocks."""
        for file in self._files[:-1]:
            measured = optional(partial(self._highest, file))
            if measured is not None:
                return measured
        if not self._files:
            raise Unreadable("not_present")
        return self._highest(self._files[-1])

    def _highest(self, file: str) -> int:
        kilohertz = max(each(partial(self._hot.integer, f"{policy}/{file}") for policy in self._policies))
        if kilohertz <= 0:
            raise Unreadable("not_reported")
        return kilohertz * 1000

    def _by_package(self) -> dict[str, str]:
        """One CPU's file for each package."""
        found: dict[str, str] = {}
        for cpu in cpu_info.cpu_folders(self._root):
            package = optional(partial(self._root.text, f"{cpu}/topology/physical_package_id"))
            file = f"{cpu}/{_THROTTLED}"
            if package is not None and package not in found and self._root.exists(file):
                found[package] = file
        return found
