"""Intel's GPUs through the files of i915 and xe in sysfs, and the open devices of processes.

How much memory a card has, its render node tells. Neither driver tells an ordinary user how much of it is in
use, nor how busy the card is: for that they ask for privileges (CAP_PERFMON) that the agent does without. So
these are null with the reason.
"""

from __future__ import annotations

from functools import partial

from obt_agent.hardware.field_reader import FieldReader, Unreadable, non_negative, optional
from obt_agent.hardware.gpu.sysfs import SysfsGpuProvider
from obt_agent.hardware.host.linux import drm, fdinfo, pci
from obt_agent.hardware.host.linux.hwmon import Hwmon
from obt_agent.hardware.host.linux.memory import system_bytes
from obt_agent.hardware.inventory import GpuInfo, GpuMemory, GpuPcie
from obt_agent.hardware.samples import GpuClocks, GpuSample
from obt_agent.hardware.snapshot.root import FileCache, Root

NAME, PCI_VENDOR = "intel", "0x8086"
_MEGAHERTZ = 1_000_000
_PROCESSOR_BUS = "0000:00:"
"""Graphics within the processor sit on the root bus; cards behind a bridge."""

_COUNTERS = "no_source: the driver's counters are open to performance monitors alone"
_MONITORS = "no_source: the driver tells it to performance monitors alone"
_CARD_REGIONS = ("vram0", "local0", "vram1", "local1")
_SHARED_REGIONS = ("system0", "system", "gtt", "stolen-system0")


class IntelCard:
    """One GPU that i915 or xe drives."""

    def __init__(self, root: Root, gpu: pci.PciGpu) -> None:
        self._root = root
        self._gpu = gpu
        self._hot = FileCache(root)
        self._hwmon = Hwmon(root, gpu.path, gpu.driver or "")
        self._integrated = gpu.address.startswith(_PROCESSOR_BUS)
        self._link = optional(partial(pci.link_folder, root, gpu.path)) or gpu.path
        self._clock = self._clock_file()

    def info(self) -> GpuInfo:
        """What it is."""
        gaps = FieldReader()
        for field in ("uuid", "shader_cores", "vbios_version", "driver_version"):
            gaps.note(field, "no_source")
        return GpuInfo(
            id=self._gpu.address,
            vendor=NAME,
            provider=NAME,
            name=gaps.read("name", partial(pci.name, self._root, self._gpu.path)),
            pci_address=self._gpu.address,
            integrated=self._integrated,
            backend="vulkan",
            driver=self._gpu.driver,
            memory=self._memory(),
            pcie=None if self._integrated else self._pcie(gaps),
            power_limit_watts=gaps.read(
                "power_limit_watts", lambda: _positive(self._hwmon.watts("power1_max", "power1_cap"))
            ),
            unavailable=gaps.reasons,
        )

    def fast(self, gaps: FieldReader) -> GpuSample:
        """What changes at every tick; the drivers have no reading of power."""
        gaps.note("utilization_ratio", _COUNTERS)
        gaps.note("memory_controller_ratio", _COUNTERS)
        gaps.note("memory_used_bytes", "unified_memory" if self._integrated else _MONITORS)
        gaps.note("power_watts", "no_source")
        return GpuSample(
            id="",
            state="ok",
            temperature_celsius=gaps.read("temperature_celsius", lambda: self._hwmon.celsius("pkg")),
            clocks=self._clocks(gaps),
        )

    def slow(self, gaps: FieldReader) -> GpuSample:
        """What is read rarely."""
        gaps.note("ecc_uncorrected", "no_source")
        gaps.note("fan_ratio", "no_source: the driver gives revolutions, and no highest number of them")
        link = self._link
        return GpuSample(
            id="",
            state="ok",
            energy_joules_total=gaps.read("energy_joules_total", self.energy_joules),
            throttle_reasons=gaps.read("throttle_reasons", self._throttle),
            pcie_gen=gaps.read(
                "pcie_gen", lambda: pci.generation(self._hot.text(f"{link}/current_link_speed"))
            ),
            pcie_width=gaps.read(
                "pcie_width", lambda: pci.width(self._hot.text(f"{link}/current_link_width"))
            ),
        )

    def energy_joules(self) -> float:
        """The card's energy counter; where the card's stays at 0 (xe on some), that of the GPU's package."""
        card = self._hwmon.joules("energy1_input")
        return card or optional(partial(self._hwmon.joules, "energy2_input")) or card

    def process_memory(self, pid: int) -> int | None:
        """The card's own memory; of graphics within the processor, what the process has of the system's."""
        regions = fdinfo.regions(self._root, pid, self._gpu.address)
        names = _SHARED_REGIONS if self._integrated else _CARD_REGIONS
        return sum(regions.get(name, 0) for name in names) or None

    def close(self) -> None:
        """Let go of the files."""
        self._hot.close()
        self._hwmon.close()

    def _memory(self) -> GpuMemory:
        gaps = FieldReader()
        gaps.note("type", "no_source")
        gaps.note("bus_width_bits", "no_source")
        if self._integrated:
            gaps.note("total_bytes", "unified_memory")
            shared = gaps.read("shared_total_bytes", partial(system_bytes, self._root))
            return GpuMemory(kind="unified", shared_total_bytes=shared, unavailable=gaps.reasons)
        total = gaps.read("total_bytes", partial(drm.card_bytes, self._root, self._gpu))
        return GpuMemory(kind="dedicated", total_bytes=total, unavailable=gaps.reasons)

    def _pcie(self, gaps: FieldReader) -> GpuPcie | None:
        link = self._link
        gen = gaps.read("pcie", lambda: pci.generation(self._root.text(f"{link}/max_link_speed")))
        width = gaps.read("pcie", lambda: pci.width(self._root.text(f"{link}/max_link_width")))
        if gen is None and width is None:
            return None
        gaps.reasons.pop("pcie", None)
        return GpuPcie(max_gen=gen, max_width=width)

    def _clock_file(self) -> str | None:
        """The actual frequency of the first GT: xe has it under the device, i915 under its DRM card."""
        xe = f"{self._gpu.path}/tile0/gt0/freq0/act_freq"
        if self._root.exists(xe):
            return xe
        cards = optional(partial(self._root.names, f"{self._gpu.path}/drm")) or []
        files = (f"{self._gpu.path}/drm/{card}/gt/gt0/rps_act_freq_mhz" for card in cards)
        return next(filter(self._root.exists, files), None)

    def _clocks(self, gaps: FieldReader) -> GpuClocks | None:
        hertz = gaps.read("clocks", self._graphics_hertz)
        return None if hertz is None else GpuClocks(graphics_hertz=hertz)

    def _graphics_hertz(self) -> int:
        if self._clock is None:
            raise Unreadable("not_present")
        return non_negative(self._hot.integer(self._clock)) * _MEGAHERTZ

    def _throttle(self) -> tuple[str, ...]:
        """The files whose names are reasons, and whose content is 0 or 1."""
        folder, prefix = self._throttle_files()
        names = [name for name in self._root.names(folder) if name.startswith(prefix)]
        if not names:
            raise Unreadable("not_present")
        held = (
            name for name in names if name != f"{prefix}status" and self._hot.text(f"{folder}/{name}") == "1"
        )
        return tuple(name.removeprefix(prefix) for name in held)

    def _throttle_files(self) -> tuple[str, str]:
        if self._clock is None:
            raise Unreadable("not_present")
        folder = self._clock.rpartition("/")[0]
        throttle = f"{folder}/throttle"
        return (throttle, "reason_") if self._root.exists(throttle) else (folder, "throttle_reason_")


def _positive(watts: float) -> float:
    """A limit of 0 is none."""
    if watts <= 0:
        raise Unreadable("not_reported")
    return watts


def intel(root: Root) -> SysfsGpuProvider:
    """The provider of Intel's GPUs."""
    return SysfsGpuProvider(root, NAME, PCI_VENDOR, {"xe": IntelCard, "i915": IntelCard})
