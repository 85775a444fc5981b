"""NVIDIA's GPUs: when to speak with the driver, and what they do now."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from obt_agent.hardware.field_reader import FieldReader, Unreadable, optional
from obt_agent.hardware.gpu.nvidia import gpu_info
from obt_agent.hardware.gpu.nvidia.probe import Prober
from obt_agent.hardware.gpu.readings import merged, unless_empty
from obt_agent.hardware.host.linux import kernel_modules, pci
from obt_agent.hardware.inventory import GpuInfo, ProviderState, ProviderStatus
from obt_agent.hardware.provider import CostGroup, GpuReadings, unread
from obt_agent.hardware.samples import GpuClocks, GpuSample, MigSample
from obt_agent.hardware.snapshot.root import Root

if TYPE_CHECKING:  # the library's bindings take 2 MB: they are loaded where there is a GPU
    from obt_agent.hardware.gpu.nvidia.nvml import Device, Nvml

PCI_VENDOR, DRIVER = "0x10de", "nvidia"
# What a machine has, beside a PCI device, where NVIDIA's library may find a GPU (the last is WSL's).
_SIGNS = ("/dev/nvidiactl", "/dev/dxg")

# Samples that are farther apart let a GPU fall asleep between them: drivers wait some seconds for that.
_IDLE_NS = 10_000_000_000
_NOT_LOADED = "not_present: the snapshot holds no answers of NVIDIA's library"
_NOT_CONNECTED = "not_reported: awake again, not yet connected"


@dataclass(slots=True)
class _Connected:
    """One GPU that the driver shows, and what was last read of it in the slow group."""

    info: GpuInfo
    device: Device
    parts: tuple[tuple[str, Device], ...]
    slow: GpuSample
    processes: dict[int, int | None] = field(default_factory=dict)
    # When the shares of processes were read last, in the driver's own clock.
    shares_since_us: int = field(default_factory=lambda: time.time_ns() // 1000)


class NvidiaProvider:
    """Reads GPUs through NVML. While one that may sleep does, NVML stays shut, for opening it would wake it.

    Args:
        root: the machine's files.
        make_nvml: called once, when the library was tried and works. Without it GPUs are described as far as
            the PCI bus shows them.
        prober: tries the library in a process of its own first; None where nothing can go wrong, as with
            answers from a snapshot.
    """

    name = gpu_info.NAME

    def __init__(self, root: Root, make_nvml: Callable[[], Nvml] | None, prober: Prober | None) -> None:
        self._root = root
        self._make_nvml = make_nvml
        self._prober = prober
        # Made at the first connection, and kept: the library stays loaded between connections.
        self._nvml: Nvml | None = None
        # The GPUs that can be read now; None while there is no connection to the driver.
        self._connected: list[_Connected] | None = None
        # All GPUs as last described, and those of them that the driver no longer answers for.
        self._infos: tuple[GpuInfo, ...] = ()
        self._lost: tuple[GpuInfo, ...] = ()
        # What the bus has, which may be more than the driver shows, or less (WSL).
        self._pci: tuple[pci.PciGpu, ...] = ()
        # The driver's, as the library gives it.
        self._version: str | None = None
        # The kernel module's version at the last probe. Another one needs another library, tried anew.
        self._module: str | None = None
        # Whether the library may be loaded here without being tried elsewhere first.
        self._trusted = False
        self._state = ProviderState(name=self.name, status="absent")
        # Whether the connection was closed only to let a GPU sleep between samples that are far apart.
        self._resting = False
        # Ollama's processes, to tell them from others.
        self._ollama: frozenset[int] = frozenset()
        # When the last sample was taken, to see whether samples are far apart.
        self._sampled_ns = 0

    def probe(self) -> ProviderState:
        """Look for GPUs, and connect to the driver unless one sleeps.

        The library is tried in a process of its own first, unless it just worked and the driver is the same.
        """
        module = optional(partial(kernel_modules.version, self._root, DRIVER))
        # A library that works with the driver that is loaded need not be tried in another process again.
        self._trusted = self._connected is not None and not self._lost and module == self._module
        self._module = module
        self._release()
        self._pci = pci.gpus(self._root, PCI_VENDOR, (DRIVER,))
        self._state = self._connect()
        return self._state

    def inventory(self) -> tuple[GpuInfo, ...]:
        """The GPUs that the driver shows; while it does not answer, those on the bus, as last seen."""
        if self._connected is not None or not self._pci:
            return self._infos
        known = {info.pci_address: info for info in self._infos}
        return tuple(known.get(gpu.address) or self._by_bus(gpu) for gpu in self._pci)

    def sample(self, group: CostGroup) -> GpuReadings:
        """What the GPUs do now."""
        # Opening the library wakes all GPUs that it drives, so that one that sleeps hides the others.
        if self._asleep():
            self._release()
            self._state = self._state_of("suspended", "suspended")
            return GpuReadings(tuple(unread(gpu.id, "suspended", "suspended") for gpu in self.inventory()))
        if self._resting:
            self._wake()
        if self._connected is None:
            return GpuReadings(tuple(self._unread(gpu.id) for gpu in self.inventory()))
        readings = self._read(self._connected, group)
        self._rest()
        return readings

    def energy(self) -> dict[str, float]:
        """Energy counters of the GPUs that have one."""
        read = ((gpu.info.id, optional(gpu.device.energy_joules)) for gpu in self._connected or ())
        return {gpu: joules for gpu, joules in read if joules is not None}

    def follow(self, pids: tuple[int, ...]) -> None:
        """Take Ollama's processes: the driver names all by itself, and not whose they are."""
        self._ollama = frozenset(pids)

    def close(self) -> None:
        """Let go of the driver."""
        self._release()

    def _by_bus(self, gpu: pci.PciGpu) -> GpuInfo:
        return gpu_info.without_library(self._root, gpu, self._state.reason or "driver_error")

    def _state_of(self, status: ProviderStatus, reason: str | None) -> ProviderState:
        return ProviderState(name=self.name, status=status, reason=reason, version=self._version)

    def _may_have_one(self) -> bool:
        """Whether the library is worth a try: under WSL and in some containers the bus shows nothing."""
        return kernel_modules.driver_answers(self._root, DRIVER) or any(map(self._root.exists, _SIGNS))

    def _may_sleep(self) -> bool:
        return any(gpu.may_sleep for gpu in self._pci)

    def _asleep(self) -> bool:
        return self._may_sleep() and any(pci.asleep(self._root, gpu) for gpu in self._pci)

    def _connect(self) -> ProviderState:
        if not self._pci and not self._may_have_one():
            self._infos = ()
            return self._state_of("absent", "no NVIDIA GPU on this machine")
        if self._asleep():
            return self._state_of("suspended", "suspended")
        try:
            self._start()
        except Unreadable as error:
            if not self._pci and error.reason.startswith("not_present"):
                self._infos = ()
                return self._state_of("absent", "no NVIDIA GPU on this machine, and no library of its driver")
            return self._state_of(
                "stalled" if error.reason.startswith("stalled") else "degraded", error.reason
            )
        if self._lost:
            return self._state_of("lost", "a GPU is on the bus, but its driver does not answer for it")
        return self._state_of("ok", None)

    def _start(self) -> None:
        """Try the library elsewhere, then here. A driver that was replaced needs its new library loaded."""
        if self._make_nvml is None:
            raise Unreadable(_NOT_LOADED)
        if not self._trusted and self._prober is not None:
            version = self._prober.probe()
            # The library of another driver refuses to work with this one.
            if self._nvml is not None and self._version not in (None, version):
                self._nvml.unload()
            self._version = version
        self._nvml = self._nvml or self._make_nvml()
        self._open(self._nvml)
        self._version = self._version or optional(self._nvml.driver_version)

    def _open(self, nvml: Nvml) -> None:
        nvml.open()
        self._connected, self._resting = [], False
        count = nvml.count()
        # One GPU that does not answer leaves the others readable.
        devices = (optional(partial(nvml.device, index)) for index in range(count))
        learned = (self._learn(nvml, device) for device in devices if device is not None)
        self._connected = [gpu for gpu in learned if not _is_lost(gpu.info)]
        found = tuple(gpu.info for gpu in self._connected)
        self._lost = self._missing(found, count - len(found))
        self._infos = found + self._lost

    def _missing(self, found: tuple[GpuInfo, ...], silent: int) -> tuple[GpuInfo, ...]:
        """GPUs that the driver no longer answers for, and that are still on the bus.

        Only those count that it answered for before, or as many as it counts without answering: a container
        may see more GPUs on the bus than it was given.
        """
        answered = {info.pci_address for info in found}
        bus = {gpu.address: gpu for gpu in self._pci if gpu.address not in answered}
        gone = tuple(info for info in self._infos if info.pci_address in bus)
        strangers = [gpu for gpu in bus.values() if gpu.address not in {info.pci_address for info in gone}]
        if len(strangers) == silent - len(gone):
            gone += tuple(gpu_info.without_library(self._root, gpu, "lost") for gpu in strangers)
        return gone

    def _learn(self, nvml: Nvml, device: Device) -> _Connected:
        info = gpu_info.describe(self._root, nvml, device)
        parts: tuple[tuple[str, Device], ...] = ()
        if info.mig is not None and info.mig.enabled:
            found = gpu_info.instances(device, info.mig.max_instances or 0)
            parts = tuple((named.id, part) for named, part in zip(info.mig.instances, found, strict=False))
        return _Connected(info, device, parts, GpuSample(id=info.id, state="ok"))

    def _release(self) -> None:
        if self._connected is not None and self._nvml is not None:
            self._nvml.close()
        self._connected, self._resting = None, False

    def _rest(self) -> None:
        """Between samples that are far apart, shut the library, so that a GPU that may sleep can."""
        now, before = time.monotonic_ns(), self._sampled_ns
        self._sampled_ns = now
        # With samples close together, opening anew each time would cost more than the sleep saves.
        if self._may_sleep() and now - before > _IDLE_NS:
            self._release()
            self._resting = True

    def _wake(self) -> None:
        """Connect again after a rest, with no new trial: it worked a minute ago."""
        try:
            self._open(_present(self._nvml))
        except Unreadable as error:
            self._release()
            self._state = self._state_of("lost", error.reason)

    def _unread(self, gpu: str) -> GpuSample:
        if self._state.status == "suspended":
            return unread(gpu, "degraded", _NOT_CONNECTED)
        lost = self._state.status == "lost"
        return unread(gpu, "lost" if lost else "degraded", self._state.reason or _NOT_CONNECTED)

    def _read(self, connected: list[_Connected], group: CostGroup) -> GpuReadings:
        memory: dict[int, dict[str, int]] = {}
        fields: dict[int, str] = {}
        samples = [unread(gpu.id, "lost", "lost") for gpu in self._lost]
        for gpu in connected:
            samples.append(_sample(gpu, group, self._ollama))
            for pid, used in gpu.processes.items():
                if used is None:
                    fields[pid] = "not_reported"
                else:
                    memory.setdefault(pid, {})[gpu.info.id] = used
        return GpuReadings(tuple(samples), memory, fields)


def _is_lost(info: GpuInfo) -> bool:
    return info.unavailable.get("uuid", "").startswith("lost")


def _present(nvml: Nvml | None) -> Nvml:
    if nvml is None:
        raise Unreadable(_NOT_LOADED)
    return nvml


def _sample(gpu: _Connected, group: CostGroup, ollama: frozenset[int]) -> GpuSample:
    if CostGroup.SLOW in group:
        gpu.processes = _processes(gpu)
        gpu.slow = _slow(gpu, ollama)
    sample = merged(_fast(gpu), gpu.slow)
    lost = next((reason for reason in sample.unavailable.values() if reason.startswith("lost")), None)
    return sample if lost is None else unread(gpu.info.id, "lost", lost)


def _fast(gpu: _Connected) -> GpuSample:
    fields, device = FieldReader(), gpu.device
    now = time.monotonic_ns()
    utilization, memory_controller = device.utilization(fields)
    memory = None
    if gpu.info.memory.kind == "unified":
        fields.note("memory_used_bytes", "unified_memory")
        fields.note("shared_used_bytes", "no_source")
    else:
        memory = fields.read("memory_used_bytes", device.memory)
    if memory is not None and memory.used is None:
        fields.note("memory_used_bytes", memory.reasons["memory_used_bytes"])
    clocks = GpuClocks(
        graphics_hertz=fields.read("clocks", device.graphics_hertz),
        sm_hertz=optional(device.sm_hertz),
        memory_hertz=optional(device.memory_hertz),
    )
    return GpuSample(
        id=gpu.info.id,
        state="ok",
        t_mono_ns=now,
        utilization_ratio=utilization,
        memory_controller_ratio=memory_controller,
        memory_used_bytes=memory.used if memory else None,
        power_watts=fields.read("power_watts", device.power_watts),
        temperature_celsius=fields.read("temperature_celsius", device.temperature_celsius),
        clocks=unless_empty(fields, "clocks", clocks),
        mig=tuple(_mig_sample(name, part) for name, part in gpu.parts),
        unavailable=fields.reasons,
    )


def _mig_sample(name: str, part: Device) -> MigSample:
    memory = optional(part.memory)
    return MigSample(id=name, memory_used_bytes=memory.used if memory else None)


def _slow(gpu: _Connected, ollama: frozenset[int]) -> GpuSample:
    fields, device = FieldReader(), gpu.device
    return GpuSample(
        id=gpu.info.id,
        state="ok",
        slow_t_mono_ns=time.monotonic_ns(),
        energy_joules_total=fields.read("energy_joules_total", device.energy_joules),
        others_ratio=fields.read("others_ratio", partial(_others, gpu, ollama)),
        throttle_reasons=fields.read("throttle_reasons", device.throttle_reasons),
        fan_ratio=fields.read("fan_ratio", device.fan_ratio),
        pcie_gen=fields.read("pcie_gen", device.pcie_gen),
        pcie_width=fields.read("pcie_width", device.pcie_width),
        ecc_uncorrected=fields.read("ecc_uncorrected", device.ecc_uncorrected),
        unavailable=fields.reasons,
    )


def _others(gpu: _Connected, ollama: frozenset[int]) -> float:
    """Return the share of time that others than Ollama took. Raise Unreadable where they look alike."""
    since_us, gpu.shares_since_us = gpu.shares_since_us, time.time_ns() // 1000
    # In a container the driver may give the host's numbers: then all would pass for others.
    if ollama.isdisjoint(gpu.processes):
        raise Unreadable("not_reported: the driver names no process of Ollama's")
    shares = gpu.device.process_shares(since_us)
    return min(1.0, sum(share for pid, share in shares.items() if pid not in ollama))


def _processes(gpu: _Connected) -> dict[int, int | None]:
    """By PID; with MIG, the driver names processes by the instance that they run on."""
    found: dict[int, int | None] = {}
    # A list that one part refuses leaves those of the others.
    for device in (gpu.device, *(part for _, part in gpu.parts)):
        found |= optional(device.processes) or {}
    return found
