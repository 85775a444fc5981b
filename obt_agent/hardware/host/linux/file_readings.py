"""The counters of a Linux machine from the kernel's files: of snapshots, which psutil cannot read."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from obt_agent.hardware.field_reader import Unreadable
from obt_agent.hardware.host.readings import CpuTimes, HeldProcess, Moved, OwnProcess, Space
from obt_agent.hardware.snapshot.root import CachedFile, FileCache, Root

# Snapshots are read on every system. Where these names are missing, the usual values of Linux count.
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096

# Columns of /proc/stat: user nice system idle iowait irq softirq steal; guest time is within user and nice.
_COLUMNS, _IDLE, _IOWAIT = 8, 3, 4

_KIB = 1 << 10
# No memory has a size of more digits.
_MEMINFO = re.compile(r"^(Mem(?:Total|Available)|Swap(?:Total|Free)):\s+([0-9]{1,18}) kB$", re.MULTILINE)

_SECTOR = 512  # the kernel's unit in diskstats, whatever the disk's own sectors are
_DISKSTATS_READ, _DISKSTATS_WRITTEN = 5, 9
_NET_RECEIVED, _NET_SENT = 0, 8

# Fields of /proc/PID/stat after the command's closing parenthesis, from 0: state is 0 and ppid 1.
_PPID, _UTIME, _STIME, _RSS = 1, 11, 12, 21


class LinuxFileReadings:
    """``HostReadings`` from files."""

    def __init__(self, root: Root) -> None:
        self._root = root
        # Read at every sample, and so kept open.
        self._files = FileCache(root)

    def cpu_times(self) -> tuple[CpuTimes, ...]:
        """Return each CPU's times."""
        return parse_cpu_times(self._files.text("/proc/stat"))

    def load_average(self) -> tuple[float, ...]:
        """Return the load."""
        return tuple(float(word) for word in self._files.text("/proc/loadavg").split()[:3])

    def memory(self) -> Space:
        """Return main memory."""
        return self._space("MemTotal", "MemAvailable")

    def swap(self) -> Space:
        """Return swap."""
        return self._space("SwapTotal", "SwapFree")

    def disks(self) -> Mapping[str, Moved]:
        """Return the counters of every block device."""
        found = {}
        for words in map(str.split, self._files.text("/proc/diskstats").splitlines()):
            if len(words) > _DISKSTATS_WRITTEN:
                read, written = int(words[_DISKSTATS_READ]), int(words[_DISKSTATS_WRITTEN])
                found[words[2]] = Moved(read * _SECTOR, written * _SECTOR)
        return found

    def networks(self) -> Mapping[str, Moved]:
        """Return the counters of every interface."""
        found = {}
        for line in self._files.text("/proc/net/dev").splitlines():
            name, colon, rest = line.partition(":")
            words = rest.split()
            if colon and len(words) > _NET_SENT:
                found[name.strip()] = Moved(int(words[_NET_RECEIVED]), int(words[_NET_SENT]))
        return found

    def process(self, pid: int) -> HeldProcess:
        """Hold on to a process, by its open file, which never comes to name another process."""
        return _FileProcess(CachedFile(self._root, f"/proc/{pid}/stat"))

    def close(self) -> None:
        """Let go of the files."""
        self._files.close()

    def _space(self, total: str, free: str) -> Space:
        found = {name: int(number) for name, number in _MEMINFO.findall(self._files.text("/proc/meminfo"))}
        if total not in found:
            raise Unreadable("not_reported")
        return Space(found[total] * _KIB, found[free] * _KIB if free in found else None)


@dataclass(frozen=True, slots=True)
class _FileProcess:
    stat: CachedFile

    def read(self) -> OwnProcess:
        words = fields_of_stat(self.stat.text())
        ticks = int(words[_UTIME]) + int(words[_STIME])
        return OwnProcess(ticks / _TICKS_PER_SECOND, max(0, int(words[_RSS])) * _PAGE_BYTES)

    def close(self) -> None:
        self.stat.close()


def fields_of_stat(text: str) -> list[str]:
    """Return the fields of /proc/PID/stat after the command, which may hold anything. Raise ValueError."""
    words = text.rpartition(")")[2].split()
    if len(words) <= _RSS:
        raise ValueError(text[:40])
    return words


def parent_of(stat: str) -> int:
    """Return the parent's PID. Raise ValueError."""
    return int(fields_of_stat(stat)[_PPID])


def parse_cpu_times(text: str) -> tuple[CpuTimes, ...]:
    """Return the times of each line ``cpuN``. Raise ValueError."""
    found = []
    for line in text.splitlines():
        name, *counts = line.split() or [""]
        number = name.removeprefix("cpu")
        if number == name:  # the lines of CPUs stand first
            break
        ticks = [int(count) for count in counts[:_COLUMNS]]
        if len(ticks) <= _IDLE or (number and not number.isdigit()):
            raise ValueError(line)
        if number:  # the line without a number sums up the others, and CPUs that were switched off meanwhile
            idle = sum(ticks[_IDLE : _IOWAIT + 1])
            found.append(CpuTimes(sum(ticks) / _TICKS_PER_SECOND, idle / _TICKS_PER_SECOND))
    if not found:
        raise ValueError(text[:40])
    return tuple(found)
