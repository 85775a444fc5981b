"""Everything of the host, read in one go and in one thread."""

from __future__ import annotations

import ipaddress
import socket
import time
from functools import cache, partial
from typing import Final
from urllib.parse import urlsplit

from obt_agent.config.schema import OllamaConfig
from obt_agent.config.urls import ollama_port
from obt_agent.hardware.field_reader import FieldReader, Unreadable
from obt_agent.hardware.host.counters import CpuLoad, IoRates
from obt_agent.hardware.host.ollama_processes import OllamaProcesses
from obt_agent.hardware.host.platform import StorageReader, platform_of
from obt_agent.hardware.host.readings import HostReadings, Space
from obt_agent.hardware.inventory import Inventory
from obt_agent.hardware.samples import CpuSample, MemorySample, Sample
from obt_agent.hardware.snapshot.root import Root

LOCAL_OLLAMA_URL: Final = OllamaConfig().url
_RESOLVE_AGAIN_S = 60.0


class HostReader:
    """Reads the host. Used from one thread; never raises."""

    def __init__(self, root: Root, ollama_url: str) -> None:
        self._root = root
        self._url = ollama_url
        # Whether the URL leads to this machine; None until its name could be resolved.
        self._local: bool | None = None
        # Do not ask for the name again before then (monotonic seconds).
        self._resolve_at = 0.0
        self._platform = platform_of(root)
        self._load = CpuLoad(self._platform.readings)
        self._rates = IoRates(self._platform.readings)
        self._processes = OllamaProcesses(
            self._platform.processes, self._platform.readings, port=ollama_port(ollama_url)
        )
        # Ollama's server on this machine, whose limits are read; another one, or none, is noticed at the
        # next reading.
        self.server_pid: int | None = None

    @property
    def storage(self) -> StorageReader:
        """The model store's reader, which may hang and so belongs in a thread of its own."""
        return self._platform.storage

    def inventory(self, ollama_version: str | None) -> Inventory:
        """Return the host's part of what the machine is, with everything looked for anew."""
        self._follow()
        elsewhere = "not_running: Ollama's URL leads to another machine" if self._local is False else None
        self._platform.follow(self.server_pid, elsewhere)
        # Sensors, disks and interfaces are looked for by this; the rest describes what was found.
        states = self._platform.probe()
        return Inventory(
            fingerprint="",
            collected_at=0.0,
            host=self._platform.host_info(ollama_version),
            cpu=self._platform.cpu_info(),
            memory=self._platform.memory_info(),
            limits=self._platform.limits(),
            providers=states,
        )

    def sample(self) -> Sample:
        """Return the host's part of a sample, without its times."""
        self._follow()
        return Sample(
            t_wall=0.0,
            t_mono_ns=0,
            cpu=self._cpu(),
            memory=self._memory(),
            pressure=self._platform.pressure(),
            disk=self._rates.disk(self._platform.disks()),
            network=self._rates.network(self._platform.interfaces()),
            ollama=self._processes.sample(),
        )

    def rescan(self) -> None:
        """Examine every process with the next reading, for a known PID may be another program now."""
        self._processes.rescan()

    def topology(self, more: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Return cheap words that change with devices, drivers and restarts of Ollama.

        ``more`` are files and folders of the GPUs' drivers to watch beside the host's own.
        """
        return (*self._platform.topology(more), str(self.server_pid))

    def close(self) -> None:
        """Let go of files and processes."""
        self._platform.close()
        self._processes.close()

    def _follow(self) -> None:
        if self._is_local():
            self._processes.update()
        if self._processes.server_pid != self.server_pid:
            self.server_pid = self._processes.server_pid
            self._platform.follow(self.server_pid)

    def _is_local(self) -> bool:
        now = time.monotonic()
        if self._local is None and now >= self._resolve_at:
            # A snapshot's processes are those of its Ollama, wherever it is replayed.
            self._local = is_this_machine(self._url) if self._root.real else True
            self._resolve_at = now + _RESOLVE_AGAIN_S
        return self._local is True

    def _cpu(self) -> CpuSample:
        reasons = FieldReader()
        platform = self._platform
        return CpuSample(
            utilization_ratio=reasons.read("utilization_ratio", self._load.ratio),
            per_core_ratio=self._load.per_core,
            load=reasons.read("load", partial(_checked_load, platform.readings)) or (),
            temperature_celsius=reasons.read("temperature_celsius", platform.temperature_celsius),
            package_energy_joules=reasons.read("package_energy_joules", platform.package_energy_joules),
            clock_hertz=reasons.read("clock_hertz", platform.clock_hertz),
            throttled_seconds_total=reasons.read("throttled_seconds_total", platform.throttled_seconds),
            unavailable=reasons.reasons,
        )

    def _memory(self) -> MemorySample:
        reasons = FieldReader()
        platform = self._platform
        # One reading for both fields, so that they add up to the total.
        memory = cache(lambda: _with_reclaimable(platform.readings.memory(), platform.reclaimable_bytes()))
        return MemorySample(
            used_bytes=reasons.read("used_bytes", lambda: _used(memory())),
            available_bytes=reasons.read("available_bytes", lambda: _free(memory())),
            swap_used_bytes=reasons.read("swap_used_bytes", lambda: _used(platform.readings.swap())),
            cgroup_available_bytes=reasons.read("cgroup_available_bytes", platform.cgroup_available_bytes),
            unavailable=reasons.reasons,
        )


def _checked_load(readings: HostReadings) -> tuple[float, ...]:
    load = readings.load_average()
    if len(load) != 3 or not all(0 <= value < 1e6 for value in load):  # noqa: PLR2004 -- 1, 5 and 15 minutes
        raise Unreadable("malformed")
    return load


def _with_reclaimable(memory: Space, more: int) -> Space:
    if memory.free_bytes is None or memory.free_bytes > memory.total_bytes:
        return memory
    return Space(memory.total_bytes, min(memory.total_bytes, memory.free_bytes + more))


def _free(space: Space) -> int:
    if space.free_bytes is None:
        raise Unreadable("not_reported")
    if space.free_bytes > space.total_bytes:
        raise Unreadable("inconsistent")
    return space.free_bytes


def _used(space: Space) -> int:
    return space.total_bytes - _free(space)


def is_this_machine(url: str) -> bool | None:
    """Return whether the URL's host is an address of this machine; None where its name cannot be resolved.

    It may block for seconds.
    """
    host = urlsplit(url).hostname or "localhost"
    try:
        addresses = {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except OSError:
        return None
    # After "%" stands the interface of a link-local address, which is no part of it.
    return any(_is_own(ipaddress.ip_address(address.partition("%")[0])) for address in addresses)


def _is_own(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6  # noqa: PLR2004 -- IP versions
    # Only an address of this machine can be bound: no list of its interfaces is needed.
    with socket.socket(family, socket.SOCK_DGRAM) as own:
        try:
            own.bind((str(address), 0))
        except OSError:
            return False
    return True
