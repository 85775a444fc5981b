"""Intel's GPUs through the files of i915 and xe in sysfs, and the open devices of processes.

How much memory a card has, its render node tells. Neither driver tells an ordinary user how much of it is in
use, nor how busy the card is: for that they ask for privileges (CAP_PERFMON) that the agent does without. So
these are null with the reason.
"""

from __future__ import annotations

from functools import partial

from obt_agent.hardware.field_reader import FieldReader, Unreadable, each, optional, positive
from obt_agent.hardware.gpu.sysfs import SysfsCard, SysfsGpuProvider
from obt_agent.hardware.host.linux import drm, fdinfo, pci
from obt_agent.hardware.host.linux.memory import system_bytes
from obt_agent.hardware.inventory import GpuInfo, GpuMemory
from obt_agent.hardware.samples import GpuClocks, GpuSample
from obt_agent.hardware.snapshot.root import Root

NAME, PCI_VENDOR = "intel", "0x8086"
_MEGAHERTZ = 1_000_000
# Graphics within the processor sit on the root bus; cards behind a bridge.
_PROCESSOR_BUS = "0000:00:"

_COUNTERS = "no_source: the driver's counters are open to performance monitors alone"
_MONITORS = "no_source: the driver tells it to performance monitors alone"
# What the drivers call their regions of memory in the usage of a process: xe's names, then i915's.
_CARD_REGIONS = ("vram0", "local0", "vram1", "local1")
_SHARED_REGIONS = ("system0", "system", "gtt", "stolen-system0")


class IntelCard(SysfsCard):
    """One GPU that i915 or xe drives."""

    def __init__(self, root: Root, gpu: pci.PciGpu) -> None:
        super().__init__(root, gpu)
        self._integrated = gpu.address.startswith(_PROCESSOR_BUS)
        # The files with the actual frequency, one for each tile of a card.
        self._clock_files = self._find_clocks()

    def info(self) -> GpuInfo:
        """Describe it."""
        fields = FieldReader()
        for field in ("uuid", "shader_cores", "vbios_version", "driver_version"):
            fields.note(field, "no_source")
        return GpuInfo(
            id=self._gpu.address,
            vendor=NAME,
            provider=NAME,
            name=fields.read("name", partial(pci.name, self._root, self._gpu.path)),
            pci_address=self._gpu.address,
            integrated=self._integrated,
            backend="vulkan",
            driver=self._gpu.driver,
            memory=self._memory(),
            # Within the processor there is no link to a slot.
            pcie=None if self._integrated else self.pcie(fields),
            power_limit_watts=fields.read(
                "power_limit_watts", partial(self._hwmon.watts, "power1_max", "power1_cap")
            ),
            unavailable=fields.reasons,
        )

    def fast(self, fields: FieldReader) -> GpuSample:
        """Read what changes at every tick; the drivers have no reading of power."""
        fields.note("utilization_ratio", _COUNTERS)
        fields.note("memory_controller_ratio", _COUNTERS)
        fields.note("memory_used_bytes", "unified_memory" if self._integrated else _MONITORS)
        fields.note("power_watts", "no_source")
        hertz = fields.read("clocks", self._graphics_hertz)
        return GpuSample(
            id="",
            state="ok",
            temperature_celsius=fields.read("temperature_celsius", partial(self._hwmon.celsius, "pkg")),
            clocks=None if hertz is None else GpuClocks(graphics_hertz=hertz),
        )

    def slow(self, fields: FieldReader) -> GpuSample:
        """Read what is read rarely."""
        fields.note("others_ratio", "no_source: the kernel shows a process's share to its own user alone")
        fields.note("ecc_uncorrected", "no_source")
        fields.note("fan_ratio", "no_source: the driver gives revolutions, and no highest number of them")
        return GpuSample(
            id="",
            state="ok",
            energy_joules_total=fields.read("energy_joules_total", self.energy_joules),
            throttle_reasons=fields.read("throttle_reasons", self._throttle),
        )

    def energy_joules(self) -> float:
        """Return the card's energy counter; where that stays at 0 (xe on some), that of the GPU's package."""
        try:
            return self._hwmon.joules("energy1_input")
        except Unreadable:
            package = optional(partial(self._hwmon.joules, "energy2_input"))
            if package is None:
                raise
            return package

    def process_memory(self, pid: int) -> int | None:
        """Return the card's own memory; of graphics within the processor, what it has of the system's."""
        regions = fdinfo.regions(self._root, pid, self._gpu.address)
        names = _SHARED_REGIONS if self._integrated else _CARD_REGIONS
        return sum(regions.get(name, 0) for name in names) or None

    def _memory(self) -> GpuMemory:
        fields = FieldReader()
        fields.note("type", "no_source")
        fields.note("bus_width_bits", "no_source")
        if self._integrated:
            fields.note("total_bytes", "unified_memory")
            shared = fields.read("shared_total_bytes", partial(system_bytes, self._root))
            return GpuMemory(kind="unified", shared_total_bytes=shared, unavailable=fields.reasons)
        total = fields.read("total_bytes", partial(drm.card_bytes, self._root, self._gpu))
        return GpuMemory(kind="dedicated", total_bytes=total, unavailable=fields.reasons)

    def _find_clocks(self) -> tuple[str, ...]:
        """Xe has them below the device, by tile; i915 below its DRM card."""
        # The first GT of each does the computing; a second one is the media engine, with its own clock.
        below, gpu = self._root.below, self._gpu.path
        tiles = (gt for tile in below(gpu, "tile") for gt in below(tile, "gt")[:1])
        cards = (gt for card in below(f"{gpu}/drm", "card") for gt in below(f"{card}/gt", "gt")[:1])
        xe = tuple(filter(self._root.exists, (f"{gt}/freq0/act_freq" for gt in tiles)))
        return xe or tuple(filter(self._root.exists, (f"{gt}/rps_act_freq_mhz" for gt in cards)))

    def _graphics_hertz(self) -> int:
        # A GT that sleeps has 0, which says nothing of the others: the fastest counts.
        return max(each(partial(self._megahertz, file) for file in self._clock_files)) * _MEGAHERTZ

    def _megahertz(self, file: str) -> int:
        return positive(self._hot.integer(file))

    def _throttle(self) -> tuple[str, ...]:
        """The files whose names are reasons, and whose content is 0 or 1."""
        fields = FieldReader()
        held: dict[str, bool] = {}
        for folder, prefix in map(self._throttle_files, self._clock_files):
            for name in self._root.names(folder):
                if name.startswith(prefix) and name != f"{prefix}status":
                    word = name.removeprefix(prefix)
                    content = fields.read("", partial(self._hot.text, f"{folder}/{name}"))
                    held[word] = held.get(word, False) or content == "1"
        reasons = tuple(word for word, is_set in held.items() if is_set)
        # A reason that is known is one; "nothing" is only known when every file was read.
        if not reasons and (fields.reasons or not held):
            raise Unreadable(fields.reasons.get("", "not_present"))
        return reasons

    def _throttle_files(self, clock: str) -> tuple[str, str]:
        folder = clock.rpartition("/")[0]
        throttle = f"{folder}/throttle"
        return (throttle, "reason_") if self._root.exists(throttle) else (folder, "throttle_reason_")


def intel(root: Root) -> SysfsGpuProvider:
    """The provider of Intel's GPUs."""
    return SysfsGpuProvider(root, NAME, PCI_VENDOR, {"xe": IntelCard, "i915": IntelCard})
