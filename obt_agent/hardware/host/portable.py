"""A system without a reader of its own (macOS, the BSDs): what psutil and Python's library tell of it."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import psutil

from obt_agent.hardware.field_reader import FieldReader, Unreadable, bounded, optional
from obt_agent.hardware.host.psutil_reader import PsutilReadings, translated
from obt_agent.hardware.inventory import (
    CgroupLimits,
    CpuInfo,
    HostInfo,
    MemoryInfo,
    ProviderState,
    StorageInfo,
)
from obt_agent.hardware.provider import state_of
from obt_agent.hardware.samples import PressureSample

# psutil has no way to learn it on these systems.
_NO_SOURCE = "no_source"
# Of Linux and macOS ("lo0").
_LOOPBACK = "lo"


class PortablePlatform:
    """``HostPlatform`` of any system that psutil runs on."""

    def __init__(self) -> None:
        self.readings = PsutilReadings()
        self.processes = PsutilProcessTable()
        self.storage = PortableStorage(self.processes)

    def probe(self) -> tuple[ProviderState, ...]:
        """Return whether loads and memory can be read."""
        reasons = FieldReader()
        reasons.read("cpu", self.readings.cpu_times)
        reasons.read("memory", self.readings.memory)
        return tuple(
            state_of(name, reasons.reasons.get(name), verified=False) for name in ("cpu", "memory", "host")
        )

    def host_info(self, ollama_version: str | None) -> HostInfo:
        """Return the system's names."""
        fields = ("virtualization", "container", "bios", "board")
        unavailable = dict.fromkeys(fields, _NO_SOURCE)
        if ollama_version is None:
            unavailable["ollama_version"] = "not_reported: Ollama did not answer"
        reasons = FieldReader()
        return HostInfo(
            os=reasons.read("os", lambda: bounded(platform.system().lower())),
            distro=reasons.read("distro", lambda: bounded(platform.platform(terse=True))),
            kernel=reasons.read("kernel", lambda: bounded(platform.release())),
            arch=reasons.read("arch", lambda: bounded(platform.machine())),
            wsl=False,
            ollama_version=ollama_version,
            unavailable=reasons.reasons | unavailable,
        )

    def cpu_info(self) -> CpuInfo:
        """Return the name and the counts."""
        reasons = FieldReader()
        for field in ("vendor", "microcode", "sockets", "base_hertz", "numa_nodes", "governor"):
            reasons.note(field, _NO_SOURCE)
        return CpuInfo(
            model=reasons.read("model", lambda: bounded(platform.processor())),
            physical_cores=reasons.read("physical_cores", lambda: _given(psutil.cpu_count(logical=False))),
            logical_cores=reasons.read("logical_cores", lambda: _given(psutil.cpu_count())),
            max_hertz=reasons.read("max_hertz", lambda: _hertz("max")),
            unavailable=reasons.reasons,
        )

    def memory_info(self) -> MemoryInfo:
        """Return the sizes."""
        reasons = FieldReader()
        for field in ("modules", "type", "speed_mt_s"):
            reasons.note(field, _NO_SOURCE)
        return MemoryInfo(
            total_bytes=reasons.read("total_bytes", lambda: self.readings.memory().total_bytes),
            swap_total_bytes=reasons.read("swap_total_bytes", lambda: self.readings.swap().total_bytes),
            unavailable=reasons.reasons,
        )

    def temperature_celsius(self) -> float:
        """Return the hottest sensor of the CPU's driver, on the systems where psutil knows one."""
        read = getattr(psutil, "sensors_temperatures", None)
        found = read().get("coretemp", []) if read else []
        degrees = [sensor.current for sensor in found if sensor.current > 0]
        if not degrees:
            raise Unreadable(_NO_SOURCE)
        return float(max(degrees))

    def package_energy_joules(self) -> float:
        """Raise Unreadable: nothing tells it."""
        raise Unreadable(_NO_SOURCE)

    def clock_hertz(self) -> int:
        """Return the clock where psutil knows it."""
        return _hertz("current")

    def throttled_seconds(self) -> float:
        """Raise Unreadable: nothing tells it."""
        raise Unreadable(_NO_SOURCE)

    def pressure(self) -> PressureSample:
        """Return reasons: only Linux has it."""
        fields = ("cpu_ratio", "memory_ratio", "io_ratio")
        return PressureSample(unavailable=dict.fromkeys(fields, _NO_SOURCE))

    def reclaimable_bytes(self) -> int:
        """Return 0: what psutil calls available has it."""
        return 0

    def disks(self) -> frozenset[str]:
        """Return all disks: outside Linux psutil lists whole ones."""
        return frozenset(optional(self.readings.disks) or ())

    def interfaces(self) -> frozenset[str]:
        """Return all interfaces but loopback."""
        names = optional(self.readings.networks) or ()
        return frozenset(name for name in names if not name.startswith(_LOOPBACK))

    def follow(self, pid: int | None, reason: str | None = None) -> None:
        """There are no control groups to follow."""

    def limits(self) -> CgroupLimits:
        """Return no limits, with no reason: the system has none of the kind."""
        return CgroupLimits()

    def cgroup_available_bytes(self) -> int | None:
        """Return None: nothing limits it."""
        return None

    def topology(self, more: tuple[str, ...]) -> tuple[str, ...]:
        """Return the count of CPUs."""
        del more
        return (str(psutil.cpu_count()),)

    def close(self) -> None:
        """Nothing is kept open."""


class PsutilProcessTable:
    """``ProcessTable`` through psutil."""

    def pids(self) -> frozenset[int]:
        """Return all processes."""
        return frozenset(psutil.pids())

    @translated
    def name(self, pid: int) -> str:
        """Return the program's name."""
        return psutil.Process(pid).name()

    @translated
    def arguments(self, pid: int) -> list[str]:
        """Return the command line after the program."""
        return psutil.Process(pid).cmdline()[1:]

    @translated
    def environment(self, pid: int) -> Mapping[str, str]:
        """Return the environment."""
        return psutil.Process(pid).environ()

    def children(self, pids: frozenset[int]) -> frozenset[int]:
        """Return the children of each."""
        return frozenset(
            child.pid for pid in pids for child in optional(partial(translated(_children), pid)) or []
        )


def _children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children()


class PortableStorage:
    """``StorageReader`` by Ollama's own setting, or the usual folder in a home."""

    name = "storage"

    def __init__(self, processes: PsutilProcessTable) -> None:
        self._processes = processes
        # Ollama's server; None while none runs here.
        self._pid: int | None = None

    def follow(self, pid: int | None) -> None:
        """Ask this process where its models are."""
        self._pid = pid

    def probe(self) -> ProviderState:
        """Return whether there is a store."""
        if not self.inventory():
            return ProviderState(name=self.name, status="absent", reason="no model store on this machine")
        return state_of(self.name, None, verified=False)

    def inventory(self) -> tuple[StorageInfo, ...]:
        """Return the store's size."""
        pid = self._pid
        environment = {} if pid is None else optional(lambda: self._processes.environment(pid)) or {}
        setting = environment.get("OLLAMA_MODELS")
        place = Path(setting) if setting else Path(environment.get("HOME") or Path.home()) / ".ollama/models"
        reasons = FieldReader()
        usage = reasons.read("total_bytes", lambda: psutil.disk_usage(os.fspath(place)))
        if usage is None:
            return ()
        for field in ("filesystem", "kind", "model"):
            reasons.note(field, _NO_SOURCE)
        return (
            StorageInfo(
                purpose="models",
                found_by="setting" if setting else "home",
                total_bytes=usage.total,
                free_bytes=usage.free,
                unavailable=reasons.reasons,
            ),
        )


def _given(count: int | None) -> int:
    if not count:
        raise Unreadable("not_reported")
    return count


def _hertz(field: str) -> int:
    """Return a clock of psutil's, which are in MHz and 0 where the system does not tell."""
    frequency = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    megahertz = getattr(frequency, field, 0) or 0
    if megahertz <= 0:
        raise Unreadable(_NO_SOURCE)
    return round(megahertz * 1e6)
