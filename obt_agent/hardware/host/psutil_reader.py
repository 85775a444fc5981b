"""The counters of the machine that the agent runs on, through psutil.

Nothing else in the agent imports psutil, but ``portable`` for systems that have no reader of their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import wraps
from typing import ParamSpec, TypeVar

import psutil

from obt_agent.hardware.field_reader import Unreadable
from obt_agent.hardware.host.readings import CpuTimes, HeldProcess, Moved, OwnProcess, Space

P = ParamSpec("P")
T = TypeVar("T")


def translated(function: Callable[P, T]) -> Callable[P, T]:
    """Make psutil's errors into Unreadable, chained."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except psutil.AccessDenied as error:
            raise Unreadable("no_permission") from error
        except psutil.NoSuchProcess as error:
            raise Unreadable("not_present") from error
        except psutil.Error as error:
            raise Unreadable("malformed") from error

    return call


class PsutilReadings:
    """``HostReadings`` of this machine. It keeps no state: psutil opens what it reads each time."""

    def cpu_times(self) -> tuple[CpuTimes, ...]:
        """Return each CPU's times."""
        found = []
        for times in psutil.cpu_times(percpu=True):
            # Linux counts guests' time within user and nice a second time; other systems have no such field.
            guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
            found.append(CpuTimes(sum(times) - guests, times.idle + getattr(times, "iowait", 0.0)))
        return tuple(found)

    def load_average(self) -> tuple[float, ...]:
        """Return the load."""
        return psutil.getloadavg()

    @translated
    def memory(self) -> Space:
        """Return main memory."""
        memory = psutil.virtual_memory()
        return Space(memory.total, memory.available)

    @translated
    def swap(self) -> Space:
        """Return swap."""
        swap = psutil.swap_memory()
        return Space(swap.total, swap.free)

    def disks(self) -> Mapping[str, Moved]:
        """Return the counters of every block device."""
        # nowrap would add a lock and a copy of all counters: Rates starts afresh at a counter that fell.
        found = psutil.disk_io_counters(perdisk=True, nowrap=False) or {}
        return {name: Moved(disk.read_bytes, disk.write_bytes) for name, disk in found.items()}

    def networks(self) -> Mapping[str, Moved]:
        """Return the counters of every interface."""
        found = psutil.net_io_counters(pernic=True, nowrap=False) or {}
        return {name: Moved(nic.bytes_recv, nic.bytes_sent) for name, nic in found.items()}

    def process(self, pid: int) -> HeldProcess:
        """Hold on to a process."""
        return _PsutilProcess(pid)

    def close(self) -> None:
        """Nothing is kept open."""


class _PsutilProcess:
    def __init__(self, pid: int) -> None:
        self._pid = pid
        # Made at the first reading, for it raises where the process has ended. psutil remembers when it was
        # started, and so tells it from another process that got its number.
        self._process: psutil.Process | None = None

    @translated
    def read(self) -> OwnProcess:
        """Return what it uses."""
        if self._process is None:
            self._process = psutil.Process(self._pid)
        if not self._process.is_running():
            raise Unreadable("not_present")
        with self._process.oneshot():
            times, memory = self._process.cpu_times(), self._process.memory_info()
        return OwnProcess(times.user + times.system, memory.rss)

    def close(self) -> None:
        """Nothing is kept open."""


@translated
def own_use() -> OwnProcess:
    """Return what this process uses."""
    return _PsutilProcess(os.getpid()).read()


def boot_time() -> str:
    """Return when the machine was booted, in whole seconds."""
    return f"{psutil.boot_time():.0f}"
