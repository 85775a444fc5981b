"""What an operating system counts, as plain numbers: the seam between this machine and snapshots of others.

``psutil_reader`` reads the machine that the agent runs on, ``linux.file_readings`` the files of a snapshot.
``tests/hardware/test_readings.py`` holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds of one CPU since it started: all of them, and the idle ones (waiting for I/O is idle)."""

    total_s: float
    idle_s: float


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes in all, and how many of them can still be had; None where the system does not tell."""

    total_bytes: int
    free_bytes: int | None


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes that a disk has read and written, or a network interface received and sent, since it is there."""

    incoming: int
    outgoing: int


@dataclass(frozen=True, slots=True)
class OwnProcess:
    """CPU time that a process took since its start, and its resident memory."""

    cpu_s: float
    rss_bytes: int


class HeldProcess(Protocol):
    """One process, never another that got its number later."""

    def read(self) -> OwnProcess:
        """Return what it uses. Raise OSError or Unreadable when it has ended or is hidden."""

    def close(self) -> None:
        """Let go of it."""


class HostReadings(Protocol):
    """Counters of one machine.

    Every method raises OSError, ValueError or Unreadable when the system does not tell.
    """

    def cpu_times(self) -> tuple[CpuTimes, ...]:
        """Return each running CPU's times, in the system's order."""

    def load_average(self) -> tuple[float, ...]:
        """Return the averages over 1, 5 and 15 minutes."""

    def memory(self) -> Space:
        """Return main memory; free is what a program can still get without swapping."""

    def swap(self) -> Space:
        """Return swap; 0 bytes in all where there is none."""

    def disks(self) -> Mapping[str, Moved]:
        """Return every block device by name, also those that stand on others."""

    def networks(self) -> Mapping[str, Moved]:
        """Return every network interface by name."""

    def process(self, pid: int) -> HeldProcess:
        """Hold on to a process. It may have ended: reading it says so."""

    def close(self) -> None:
        """Let go of files."""
