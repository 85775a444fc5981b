"""GPUs whose drivers speak through sysfs: what is common to AMD's and Intel's."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from obt_agent.hardware.field_reader import FieldReader, optional
from obt_agent.hardware.gpu.readings import from_bus, merged, unless_empty
from obt_agent.hardware.host.linux import pci
from obt_agent.hardware.host.linux.hwmon import Hwmon
from obt_agent.hardware.inventory import GpuInfo, GpuPcie, ProviderState
from obt_agent.hardware.provider import CostGroup, GpuReadings, unread
from obt_agent.hardware.samples import GpuSample
from obt_agent.hardware.snapshot.root import FileCache, Root


class SysfsCard(ABC):
    """One GPU of one driver. Nothing of it raises but ``energy_joules`` and ``process_memory``."""

    def __init__(self, root: Root, gpu: pci.PciGpu) -> None:
        self._root = root
        self._gpu = gpu
        # Files that are read at every sample stay open: that is ten times cheaper than opening them anew.
        self._hot = FileCache(root)
        self._hwmon = Hwmon(root, gpu.path, gpu.driver or "")
        # Where the link to the slot is described: on cards with a switch of their own, not at the GPU.
        self._link = optional(partial(pci.link_folder, root, gpu.path)) or gpu.path

    @abstractmethod
    def info(self) -> GpuInfo:
        """Describe it."""

    @abstractmethod
    def fast(self, fields: FieldReader) -> GpuSample:
        """Read what changes at every tick."""

    @abstractmethod
    def slow(self, fields: FieldReader) -> GpuSample:
        """Read what is read rarely; the PCIe link is the caller's."""

    @abstractmethod
    def energy_joules(self) -> float:
        """Return the energy counter. Raises OSError, ValueError, Unreadable."""

    @abstractmethod
    def process_memory(self, pid: int) -> int | None:
        """Return the bytes that a process has on this GPU; None where it has nothing.

        Raises OSError where it may not be looked into, or is gone.
        """

    def pcie(self, fields: FieldReader) -> GpuPcie | None:
        """Return the fastest link that card and slot allow."""
        gen = fields.read("pcie", lambda: pci.generation(self._link_text("max_link_speed")))
        width = fields.read("pcie", lambda: pci.width(self._link_text("max_link_width")))
        return unless_empty(fields, "pcie", GpuPcie(max_gen=gen, max_width=width))

    def slow_with_link(self) -> GpuSample:
        """Return what is read rarely, with the link as it is now, its time and its reasons."""
        fields = FieldReader()
        return msgspec.structs.replace(
            self.slow(fields),
            slow_t_mono_ns=time.monotonic_ns(),
            pcie_gen=fields.read("pcie_gen", lambda: pci.generation(self._link_text("current_link_speed"))),
            pcie_width=fields.read("pcie_width", lambda: pci.width(self._link_text("current_link_width"))),
            unavailable=fields.reasons,
        )

    def close(self) -> None:
        """Close the files."""
        self._hot.close()
        self._hwmon.close()

    def _link_text(self, file: str) -> str:
        return self._hot.text(f"{self._link}/{file}")


class _Known:
    """A card that was described, and what was last read of it in the slow group."""

    def __init__(self, device: pci.PciGpu, card: SysfsCard) -> None:
        self.device = device
        self.card = card
        self.info = card.info()
        # As of the last slow sample; every fast one is completed by it.
        self.slow = GpuSample(id=self.info.id, state="ok")
        # Bytes by PID, and by PID the reason why they are not known.
        self.processes: dict[int, int] = {}
        self.process_reasons: dict[int, str] = {}


class SysfsGpuProvider:
    """The GPUs of one vendor. Of one that sleeps, nothing is read but that it does."""

    def __init__(
        self,
        root: Root,
        name: str,
        pci_vendor: str,
        drivers: Mapping[str, Callable[[Root, pci.PciGpu], SysfsCard]],
    ) -> None:
        self.name = name
        self._root = root
        self._pci_vendor = pci_vendor
        # By kernel driver, what reads its GPUs.
        self._drivers = drivers
        # What the bus had at the last probe, in the order of its addresses.
        self._devices: tuple[pci.PciGpu, ...] = ()
        # By address; a card that fell asleep stays in here, with its description.
        self._known: dict[str, _Known] = {}
        # Whose GPU memory is wanted.
        self._pids: tuple[int, ...] = ()

    def probe(self) -> ProviderState:
        """Read the bus again."""
        # Cards may be other ones now, under the same paths.
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
        """Describe all cards; those that sleep as they were when awake."""
        infos = [self._describe(gpu) for gpu in self._devices]
        # Samples go by the id: a serial number that two cards share (seen on boards of one batch) is none.
        times = Counter(info.uuid for info in infos)
        for place, info in enumerate(infos):
            if info.uuid and info.pci_address in self._known and times[info.uuid] > 1:
                infos[place] = msgspec.structs.replace(info, id=info.pci_address)
                self._known[info.pci_address].info = infos[place]
        return tuple(infos)

    def sample(self, group: CostGroup) -> GpuReadings:
        """Read what they do now."""
        samples = tuple(self._sample(gpu, group) for gpu in self._devices)
        memory: dict[int, dict[str, int]] = {}
        for known in self._known.values():
            for pid, used in known.processes.items():
                memory.setdefault(pid, {})[known.info.id] = used
        fields = {
            pid: reason for known in self._known.values() for pid, reason in known.process_reasons.items()
        }
        return GpuReadings(samples, memory, fields)

    def energy(self) -> dict[str, float]:
        """Return the energy counters of those that have one and are awake."""
        awake = (known for known in self._known.values() if not pci.asleep(self._root, known.device))
        read = ((known.info.id, optional(known.card.energy_joules)) for known in awake)
        return {gpu: joules for gpu, joules in read if joules is not None}

    def follow(self, pids: tuple[int, ...]) -> None:
        """Read the GPU memory of these processes from now on."""
        self._pids = pids

    def close(self) -> None:
        """Close the files; descriptions stay known."""
        for known in self._known.values():
            known.card.close()

    def _describe(self, gpu: pci.PciGpu) -> GpuInfo:
        if pci.asleep(self._root, gpu):
            known = self._known.get(gpu.address)
            return known.info if known else from_bus(self.name, gpu, "suspended")
        make = self._drivers.get(gpu.driver or "")
        if make is None:
            return from_bus(self.name, gpu, "not_present: its driver is not loaded")
        known = self._known[gpu.address] = _Known(gpu, make(self._root, gpu))
        return known.info

    def _sample(self, gpu: pci.PciGpu, group: CostGroup) -> GpuSample:
        known = self._known.get(gpu.address)
        if pci.asleep(self._root, gpu):
            return unread(known.info.id if known else gpu.address, "suspended", "suspended")
        if known is None:
            reason = "not_reported: awake again, not yet described"
            return unread(gpu.address, "degraded", reason if gpu.driver in self._drivers else "not_present")
        if not self._root.exists(f"{gpu.path}/vendor"):
            return unread(known.info.id, "lost", "lost")
        if CostGroup.SLOW in group:
            known.slow = known.card.slow_with_link()
            self._read_processes(known)
        sample = _merged(known)
        # Reading a card that falls asleep meanwhile gives errors: it is not faulty, it sleeps.
        if sample.state == "degraded" and pci.asleep(self._root, gpu):
            return unread(known.info.id, "suspended", "suspended")
        return sample

    def _read_processes(self, known: _Known) -> None:
        fields = FieldReader()
        used = {pid: fields.read(str(pid), partial(known.card.process_memory, pid)) for pid in self._pids}
        known.processes = {pid: size for pid, size in used.items() if size is not None}
        # A process that ended since it was named is no gap.
        known.process_reasons = {
            int(pid): reason for pid, reason in fields.reasons.items() if reason != "not_present"
        }


def _merged(known: _Known) -> GpuSample:
    fields = FieldReader()
    now = time.monotonic_ns()
    fast = known.card.fast(fields)
    fast = msgspec.structs.replace(fast, id=known.info.id, t_mono_ns=now, unavailable=fields.reasons)
    return merged(fast, known.slow)
