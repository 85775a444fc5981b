"""GPUs whose drivers speak through sysfs: what is common to AMD's and Intel's."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import msgspec

from obt_agent.hardware.field_reader import FieldReader, optional
from obt_agent.hardware.host.linux import pci
from obt_agent.hardware.inventory import GpuInfo, GpuMemory, ProviderState
from obt_agent.hardware.provider import CostGroup, GpuReadings, unread
from obt_agent.hardware.samples import GpuSample
from obt_agent.hardware.snapshot.root import Root

_FAULTS = ("driver_error", "malformed", "inconsistent")


class Card(Protocol):
    """One GPU of one driver. Nothing of it raises but ``energy_joules``."""

    def info(self) -> GpuInfo:
        """What it is."""

    def fast(self, gaps: FieldReader) -> GpuSample:
        """What changes at every tick."""

    def slow(self, gaps: FieldReader) -> GpuSample:
        """What is read rarely."""

    def energy_joules(self) -> float:
        """The energy counter. Raises OSError, ValueError, Unreadable."""

    def process_memory(self, pid: int) -> int | None:
        """Bytes that a process has on this GPU; None where it has nothing.

        Raises OSError where it may not be looked into, or is gone.
        """

    def close(self) -> None:
        """Let go of the files."""


class _Known:
    """A card, how it was described, and what was last read of it in the slow group."""

    def __init__(self, device: pci.PciGpu, card: Card) -> None:
        self.device = device
        self.card = card
        self.info = card.info()
        self.slow = GpuSample(id=self.info.id, state="ok")
        self.processes: dict[int, int] = {}
        self.process_gaps: dict[int, str] = {}


class SysfsGpuProvider:
    """The GPUs of one vendor. Of one that sleeps, nothing is read but that it does."""

    def __init__(
        self,
        root: Root,
        name: str,
        pci_vendor: str,
        drivers: Mapping[str, Callable[[Root, pci.PciGpu], Card]],
    ) -> None:
        self.name = name
        self._root = root
        self._pci_vendor = pci_vendor
        self._drivers = drivers
        self._devices: tuple[pci.PciGpu, ...] = ()
        self._known: dict[str, _Known] = {}
        self._pids: tuple[int, ...] = ()

    def probe(self) -> ProviderState:
        """Look at the bus again."""
        self.close()
        self._devices = pci.gpus(self._root, self._pci_vendor, self._drivers)
        if not self._devices:
            return ProviderState(
                name=self.name, status="absent", reason=f"no GPU of this vendor ({self.name})"
            )
        without = [gpu.address for gpu in self._devices if gpu.driver not in self._drivers]
        if without:
            reason = f"no driver of {' or '.join(self._drivers)} is bound to {', '.join(without)}"
            return ProviderState(name=self.name, status="degraded", reason=reason)
        if all(pci.asleep(self._root, gpu) for gpu in self._devices):
            return ProviderState(name=self.name, status="suspended", reason="suspended")
        return ProviderState(name=self.name, status="ok")

    def inventory(self) -> tuple[GpuInfo, ...]:
        """All cards; those that sleep as last seen awake."""
        return tuple(self._describe(gpu) for gpu in self._devices)

    def sample(self, group: CostGroup) -> GpuReadings:
        """What they do now."""
        samples = tuple(self._sample(gpu, group) for gpu in self._devices)
        memory: dict[int, dict[str, int]] = {}
        for known in self._known.values():
            for pid, used in known.processes.items():
                memory.setdefault(pid, {})[known.info.id] = used
        gaps = {pid: reason for known in self._known.values() for pid, reason in known.process_gaps.items()}
        return GpuReadings(samples, memory, gaps)

    def energy(self) -> dict[str, float]:
        """Energy counters of those that have one and are awake."""
        awake = (known for known in self._known.values() if not pci.asleep(self._root, known.device))
        read = ((known.info.id, optional(known.card.energy_joules)) for known in awake)
        return {gpu: joules for gpu, joules in read if joules is not None}

    def follow(self, pids: tuple[int, ...]) -> None:
        """Look at these processes for GPU memory."""
        self._pids = pids

    def close(self) -> None:
        """Let go of the files; descriptions stay known."""
        for known in self._known.values():
            known.card.close()

    def _describe(self, gpu: pci.PciGpu) -> GpuInfo:
        if pci.asleep(self._root, gpu):
            known = self._known.get(gpu.address)
            return known.info if known else self._bare(gpu, "suspended")
        make = self._drivers.get(gpu.driver or "")
        if make is None:
            return self._bare(gpu, "not_present: its driver is not loaded")
        known = self._known[gpu.address] = _Known(gpu, make(self._root, gpu))
        return known.info

    def _bare(self, gpu: pci.PciGpu, reason: str) -> GpuInfo:
        unavailable = dict.fromkeys(("name", "uuid", "power_limit_watts", "integrated"), reason)
        return GpuInfo(
            id=gpu.address,
            vendor=self.name,
            provider=self.name,
            pci_address=gpu.address,
            driver=gpu.driver,
            memory=GpuMemory(unavailable={"kind": reason, "total_bytes": reason}),
            unavailable=unavailable,
        )

    def _sample(self, gpu: pci.PciGpu, group: CostGroup) -> GpuSample:
        known = self._known.get(gpu.address)
        if pci.asleep(self._root, gpu):
            return unread(known.info.id if known else gpu.address, "suspended", "suspended")
        if known is None:
            reason = "not_reported: awake again, not yet described"
            return unread(gpu.address, "degraded", reason if gpu.driver in self._drivers else "not_present")
        if not self._root.exists(f"{gpu.path}/vendor"):
            return unread(known.info.id, "lost", "lost")
        sample = self._read(known, group)
        if sample.state == "degraded" and pci.asleep(self._root, gpu):  # it fell asleep meanwhile
            return unread(known.info.id, "suspended", "suspended")
        return sample

    def _read(self, known: _Known, group: CostGroup) -> GpuSample:
        if CostGroup.SLOW in group:
            gaps = FieldReader()
            slow = known.card.slow(gaps)
            known.slow = msgspec.structs.replace(
                slow, slow_t_mono_ns=time.monotonic_ns(), unavailable=gaps.reasons
            )
            self._read_processes(known)
        return _merged(known)

    def _read_processes(self, known: _Known) -> None:
        gaps = FieldReader()
        used = {pid: gaps.read(str(pid), partial(known.card.process_memory, pid)) for pid in self._pids}
        known.processes = {pid: size for pid, size in used.items() if size is not None}
        gone = "not_present"
        known.process_gaps = {int(pid): reason for pid, reason in gaps.reasons.items() if reason != gone}


def _merged(known: _Known) -> GpuSample:
    gaps = FieldReader()
    now = time.monotonic_ns()
    fast = known.card.fast(gaps)
    reasons = gaps.reasons | known.slow.unavailable
    faulty = any(reason.startswith(_FAULTS) for reason in reasons.values())
    return msgspec.structs.replace(
        fast,
        id=known.info.id,
        state="degraded" if faulty else "ok",
        t_mono_ns=now,
        slow_t_mono_ns=known.slow.slow_t_mono_ns,
        energy_joules_total=known.slow.energy_joules_total,
        throttle_reasons=known.slow.throttle_reasons,
        fan_ratio=known.slow.fan_ratio,
        pcie_gen=known.slow.pcie_gen,
        pcie_width=known.slow.pcie_width,
        ecc_uncorrected=known.slow.ecc_uncorrected,
        unavailable=reasons,
    )
