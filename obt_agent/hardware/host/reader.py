"""Everything that the kernel's own files tell, read in one go and in one thread."""

from __future__ import annotations

import ipaddress
import socket
import time
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import msgspec

from obt_agent.config.urls import ollama_port
from obt_agent.hardware.field_reader import FieldReader, optional
from obt_agent.hardware.host.linux.cpu import CpuProvider
from obt_agent.hardware.host.linux.io_counters import IoCounters
from obt_agent.hardware.host.linux.limits import LimitsProvider
from obt_agent.hardware.host.linux.memory import MemoryProvider
from obt_agent.hardware.host.linux.ollama_processes import OllamaProcesses
from obt_agent.hardware.host.linux.pressure import PressureReader
from obt_agent.hardware.host.linux.system import HostProvider
from obt_agent.hardware.inventory import CgroupLimits, CpuInfo, HostInfo, MemoryInfo, ProviderState
from obt_agent.hardware.provider import CostGroup
from obt_agent.hardware.samples import (
    CpuSample,
    DiskSample,
    MemorySample,
    NetworkSample,
    OllamaProcess,
    PressureSample,
)
from obt_agent.hardware.snapshot.root import Root

LOCAL_OLLAMA_URL = "http://127.0.0.1:11434"
_RESOLVE_AGAIN_S = 60.0


@dataclass(frozen=True, slots=True)
class HostInventory:
    """What the kernel's files say that the machine is. ``server_pid`` is Ollama's, when it runs here."""

    host: HostInfo
    cpu: CpuInfo
    memory: MemoryInfo
    limits: CgroupLimits
    providers: tuple[ProviderState, ...]
    server_pid: int | None


@dataclass(frozen=True, slots=True)
class HostReading:
    """What they say that it does."""

    cpu: CpuSample
    memory: MemorySample
    pressure: PressureSample
    disk: DiskSample
    network: NetworkSample
    ollama: tuple[OllamaProcess, ...]
    server_pid: int | None


class HostReader:
    """Reads the kernel's files. Used from one thread; never raises."""

    def __init__(self, root: Root, ollama_url: str) -> None:
        self._root = root
        self._url = ollama_url
        self._local: bool | None = None
        self._resolve_at = 0.0
        self._cpu = CpuProvider(root)
        self._memory = MemoryProvider(root)
        self._host = HostProvider(root)
        self._limits = LimitsProvider(root)
        self._traffic = IoCounters(root)
        self._pressure = PressureReader(root)
        self._processes = OllamaProcesses(root, port=ollama_port(ollama_url))
        self._followed: int | None = None

    def inventory(self, ollama_version: str | None) -> HostInventory:
        """Look at everything again."""
        states = (self._cpu.probe(), self._memory.probe(), self._host.probe())
        self._traffic.probe()
        self._pressure.probe()
        self._follow()
        elsewhere = "not_running: Ollama's URL leads to another machine" if self._local is False else None
        self._limits.follow(self._followed, elsewhere)
        return HostInventory(
            host=self._host.inventory(ollama_version),
            cpu=self._cpu.inventory(),
            memory=self._memory.inventory(),
            limits=self._limits.inventory(),
            providers=(*states, self._limits.probe()),
            server_pid=self._followed,
        )

    def sample(self) -> HostReading:
        """Everything that changes."""
        self._follow()
        return HostReading(
            cpu=self._cpu.sample(CostGroup.FAST),
            memory=self._with_groups(self._memory.sample(CostGroup.FAST)),
            pressure=self._pressure.sample(),
            disk=self._traffic.disk(),
            network=self._traffic.network(),
            ollama=self._processes.sample(),
            server_pid=self._followed,
        )

    def look_again(self) -> None:
        """Look at every process with the next reading, for a PID that was seen may be another program now."""
        self._processes.look_again()

    def topology(self, more: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Return cheap words that change with devices, drivers and restarts of Ollama.

        ``more`` are files and folders of the GPUs' drivers to watch beside the host's own.
        """
        places = ("/sys/bus/pci/devices", "/sys/class/drm", "/dev/dri", *more)
        listed = (",".join(optional(partial(self._root.names, place)) or []) for place in places)
        files = ("/sys/devices/system/cpu/online", *more)
        read = (optional(partial(self._root.text, file)) or "" for file in files)
        return (*listed, *read, str(self._followed))

    def close(self) -> None:
        """Let go of the files."""
        for provider in (self._cpu, self._memory, self._limits, self._traffic, self._pressure):
            provider.close()
        self._processes.close()

    def _follow(self) -> None:
        if self._is_local():
            self._processes.update()
        if self._processes.server_pid != self._followed:
            self._followed = self._processes.server_pid
            self._limits.follow(self._followed)

    def _is_local(self) -> bool:
        """Whether Ollama's URL leads here. A name that cannot be resolved yet is asked for again later."""
        now = time.monotonic()
        if self._local is None and now >= self._resolve_at:
            self._local = is_this_machine(self._url) if self._root.real else True
            self._resolve_at = now + _RESOLVE_AGAIN_S
        return self._local is True

    def _with_groups(self, memory: MemorySample) -> MemorySample:
        gaps = FieldReader()
        left = gaps.read("cgroup_available_bytes", self._limits.available_bytes)
        return msgspec.structs.replace(
            memory, cgroup_available_bytes=left, unavailable=memory.unavailable | gaps.reasons
        )


def is_this_machine(url: str) -> bool | None:
    """Whether the URL's host is an address of this machine; None where its name cannot be resolved.

    It may block for seconds.
    """
    host = urlsplit(url).hostname or "localhost"
    try:
        addresses = {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except OSError:
        return None
    return any(_is_own(ipaddress.ip_address(address.partition("%")[0])) for address in addresses)


def _is_own(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6  # noqa: PLR2004 -- IP versions
    with socket.socket(family, socket.SOCK_DGRAM) as own:
        try:
            own.bind((str(address), 0))
        except OSError:
            return False
    return True
