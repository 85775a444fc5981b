"""What the host's reader needs of an operating system, and the one place that chooses the system."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Protocol

from obt_agent.hardware.field_reader import optional
from obt_agent.hardware.host.readings import HostReadings
from obt_agent.hardware.inventory import (
    CgroupLimits,
    CpuInfo,
    HostInfo,
    MemoryInfo,
    ProviderState,
    StorageInfo,
)
from obt_agent.hardware.samples import PressureSample
from obt_agent.hardware.snapshot.root import Root


class ProcessTable(Protocol):
    """The processes of one machine. What cannot be read raises OSError, ValueError or Unreadable."""

    def pids(self) -> frozenset[int]:
        """Return all processes that can be seen."""

    def name(self, pid: int) -> str:
        """Return the program's own name."""

    def arguments(self, pid: int) -> list[str]:
        """Return the command line after the program."""

    def environment(self, pid: int) -> Mapping[str, str]:
        """Return the variables that the process was started with."""

    def children(self, pids: frozenset[int]) -> frozenset[int]:
        """Return the processes that these have started and that still run. Does not raise."""


class StorageReader(Protocol):
    """The file system of Ollama's model store. Its calls may hang when the store lies on a network."""

    @property
    def name(self) -> str:
        """The word in ``ProviderState.name``."""

    def follow(self, pid: int | None) -> None:
        """Ask this process of Ollama's where its models are."""

    def probe(self) -> ProviderState:
        """Return whether the store is known."""

    def inventory(self) -> tuple[StorageInfo, ...]:
        """Return the store, or nothing where it is not to be found."""


class HostPlatform(Protocol):
    """One operating system. No method raises, unless it says so."""

    @property
    def readings(self) -> HostReadings:
        """Counters."""

    @property
    def processes(self) -> ProcessTable:
        """Processes."""

    @property
    def storage(self) -> StorageReader:
        """The model store."""

    def probe(self) -> tuple[ProviderState, ...]:
        """Look again for sensors, disks and interfaces, and return how well they can be read."""

    def host_info(self, ollama_version: str | None) -> HostInfo:
        """Return the system and what it runs on; the version of Ollama is the caller's knowledge."""

    def cpu_info(self) -> CpuInfo:
        """Return what the CPUs are."""

    def memory_info(self) -> MemoryInfo:
        """Return sizes and modules."""

    def temperature_celsius(self) -> float:
        """Return the hottest CPU package. Raise OSError, ValueError or Unreadable."""

    def package_energy_joules(self) -> float:
        """Return the energy of all CPU packages since the first reading. Raise as above."""

    def clock_hertz(self) -> int:
        """Return the fastest clock of some cores. Raise as above."""

    def throttled_seconds(self) -> float:
        """Return for how long heat held packages back. Raise as above."""

    def pressure(self) -> PressureSample:
        """Return the shares of time in which something waited, since the reading before."""

    def reclaimable_bytes(self) -> int:
        """Return memory in use that is given back on demand, and that ``readings.memory`` counts as used."""

    def disks(self) -> frozenset[str]:
        """Return the disks to count, so that no byte counts twice."""

    def interfaces(self) -> frozenset[str]:
        """Return the network interfaces to count."""

    def follow(self, pid: int | None, reason: str | None = None) -> None:
        """Read the limits of this process from now on; ``reason`` says why there is none."""

    def limits(self) -> CgroupLimits:
        """Return what the process is allowed."""

    def cgroup_available_bytes(self) -> int | None:
        """Return what it can still get within its limits; None where it has none. Raise as above."""

    def topology(self, more: tuple[str, ...]) -> tuple[str, ...]:
        """Return cheap words that change with devices and drivers; ``more`` are files of GPUs' drivers."""

    def close(self) -> None:
        """Let go of files."""


def default_routes() -> frozenset[tuple[str, str, str]]:
    """Return interface, gateway and metric of every default route; nothing where the system does not tell."""
    if sys.platform != "linux":
        return frozenset()
    from obt_agent.hardware.host.linux import routes  # noqa: PLC0415 -- Linux alone has it

    return routes.default_routes()


def boot_id() -> str | None:
    """Return what tells this boot of the machine from the last; None where the system does not tell."""
    if sys.platform != "linux":
        from obt_agent.hardware.host.psutil_reader import boot_time  # noqa: PLC0415 -- another system's

        return optional(boot_time)
    from obt_agent.hardware.host.linux.system import boot_id as kernels  # noqa: PLC0415 -- Linux alone has it

    return optional(kernels)


def platform_of(root: Root) -> HostPlatform:
    """Return the platform of this machine, or of a snapshot, which is of Linux wherever it is read."""
    if root.real and sys.platform != "linux":
        from obt_agent.hardware.host.portable import PortablePlatform  # noqa: PLC0415 -- another system's

        return PortablePlatform()
    from obt_agent.hardware.host.linux.platform import LinuxPlatform  # noqa: PLC0415 -- Linux alone has it

    return LinuxPlatform(root)
