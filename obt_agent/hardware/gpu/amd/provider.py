"""AMD's GPUs through amdgpu's files in sysfs and its render node: cards, and parts of a processor (APUs)."""

from __future__ import annotations

from functools import partial

from obt_agent.hardware.field_reader import FieldReader, Unreadable, bounded, non_negative, optional
from obt_agent.hardware.gpu.amd import gpu_metrics
from obt_agent.hardware.gpu.sysfs import SysfsGpuProvider
from obt_agent.hardware.host.linux import drm, fdinfo, kernel_modules, pci
from obt_agent.hardware.host.linux.hwmon import Hwmon
from obt_agent.hardware.host.linux.kfd import LANES_PER_UNIT, Node, node_of
from obt_agent.hardware.inventory import GpuInfo, GpuMemory, GpuPcie
from obt_agent.hardware.samples import GpuClocks, GpuSample
from obt_agent.hardware.snapshot.root import FileCache, Root

NAME, PCI_VENDOR, DRIVER = "amd", "0x1002", "amdgpu"
_MARKETING_NAMES = "/usr/share/libdrm/amdgpu.ids"
_PERCENT = 100


class AmdCard:
    """One GPU that amdgpu drives."""

    def __init__(self, root: Root, gpu: pci.PciGpu) -> None:
        self._root = root
        self._gpu = gpu
        self._hot = FileCache(root)
        self._hwmon = Hwmon(root, gpu.path, DRIVER)
        self._node = node_of(root, gpu.address)
        told = FieldReader()
        self._device = told.read("device", partial(drm.amd_device, root, gpu))
        self._device_reason = told.reasons.get("device", "not_reported")
        self._integrated = optional(self._is_integrated)
        self._link = optional(partial(pci.link_folder, root, gpu.path)) or gpu.path

    def info(self) -> GpuInfo:
        """What it is."""
        gaps = FieldReader()
        uuid = gaps.read("uuid", self._uuid)
        if self._integrated is None:
            gaps.note("integrated", "not_reported")
        return GpuInfo(
            id=uuid or self._gpu.address,
            vendor=NAME,
            provider=NAME,
            name=gaps.first(
                "name", self._product, self._marketing_name, partial(pci.name, self._root, self._gpu.path)
            ),
            uuid=uuid,
            pci_address=self._gpu.address,
            integrated=self._integrated,
            backend="rocm" if self._node else "vulkan",
            driver=DRIVER,
            driver_version=self._driver_version(gaps),
            vbios_version=gaps.read("vbios_version", lambda: bounded(self._text("vbios_version"))),
            gfx_target=gaps.read("gfx_target", lambda: self._of_node().gfx_target()),
            shader_cores=gaps.first(
                "shader_cores",
                lambda: _known(self._device.compute_units if self._device else None) * LANES_PER_UNIT,
                lambda: self._of_node().shader_cores(),
            ),
            memory=self._memory(),
            pcie=self._pcie(gaps),
            power_limit_watts=gaps.read("power_limit_watts", lambda: self._hwmon.watts("power1_cap")),
            unavailable=gaps.reasons,
        )

    def fast(self, gaps: FieldReader) -> GpuSample:
        """What changes at every tick."""
        return GpuSample(
            id="",
            state="ok",
            utilization_ratio=gaps.read("utilization_ratio", partial(self._ratio, "gpu_busy_percent")),
            memory_controller_ratio=gaps.read(
                "memory_controller_ratio", partial(self._ratio, "mem_busy_percent")
            ),
            memory_used_bytes=gaps.read("memory_used_bytes", partial(self._used, "vram")),
            shared_used_bytes=gaps.read("shared_used_bytes", partial(self._used, "gtt")),
            power_watts=gaps.read("power_watts", lambda: self._hwmon.watts("power1_input", "power1_average")),
            temperature_celsius=gaps.read("temperature_celsius", lambda: self._hwmon.celsius("edge")),
            clocks=self._clocks(gaps),
        )

    def slow(self, gaps: FieldReader) -> GpuSample:
        """What is read rarely."""
        return GpuSample(
            id="",
            state="ok",
            energy_joules_total=gaps.read("energy_joules_total", self.energy_joules),
            throttle_reasons=gaps.read(
                "throttle_reasons", lambda: gpu_metrics.throttle_reasons(self._table())
            ),
            fan_ratio=gaps.read("fan_ratio", self._hwmon.fan_ratio),
            pcie_gen=gaps.read("pcie_gen", lambda: pci.generation(self._link_text("current_link_speed"))),
            pcie_width=gaps.read("pcie_width", lambda: pci.width(self._link_text("current_link_width"))),
            ecc_uncorrected=gaps.read("ecc_uncorrected", self._uncorrected),
        )

    def energy_joules(self) -> float:
        """The energy counter of the driver's table."""
        return gpu_metrics.energy_joules(self._table())

    def process_memory(self, pid: int) -> int | None:
        """The card's own memory; of an APU also what lies in shared memory, where its models are.

        Of another user's processes, the compute driver tells the card's own memory alone: enough for a card.
        """
        by_driver = optional(partial(self._node.process_bytes, pid)) if self._node else None
        try:
            regions = fdinfo.regions(self._root, pid, self._gpu.address)
        except OSError:
            if self._node is None or self._integrated:
                raise
            return by_driver
        names = ("vram", "gtt") if self._integrated else ("vram",)
        return sum(regions.get(name, 0) for name in names) or by_driver

    def close(self) -> None:
        """Let go of the files."""
        self._hot.close()
        self._hwmon.close()

    def _text(self, file: str) -> str:
        return self._hot.text(f"{self._gpu.path}/{file}")

    def _link_text(self, file: str) -> str:
        return self._hot.text(f"{self._link}/{file}")

    def _bytes(self, file: str) -> int:
        return non_negative(int(self._text(file)))

    def _used(self, pool: str) -> int:
        used, total = self._bytes(f"mem_info_{pool}_used"), self._bytes(f"mem_info_{pool}_total")
        if used > total:
            raise Unreadable("inconsistent")
        return used

    def _ratio(self, file: str) -> float:
        percent = int(self._text(file))
        if not 0 <= percent <= _PERCENT:
            raise Unreadable("malformed")
        return percent / _PERCENT

    def _clocks(self, gaps: FieldReader) -> GpuClocks | None:
        graphics = gaps.read("clocks", partial(self._hwmon.hertz, "freq1_input"))
        memory = optional(partial(self._hwmon.hertz, "freq2_input"))
        if graphics is None and memory is None:
            return None
        gaps.reasons.pop("clocks", None)
        return GpuClocks(graphics_hertz=graphics, memory_hertz=memory)

    def _table(self) -> bytes:
        return self._root.data(f"{self._gpu.path}/gpu_metrics", 4096)

    def _uncorrected(self) -> int:
        """Lines "ue: 0" and "ce: 0" of the memory controllers' errors."""
        values = fdinfo.parse(self._text("ras/umc_err_count"))
        if "ue" not in values:
            raise Unreadable("not_reported")
        return non_negative(int(values["ue"]))

    def _memory(self) -> GpuMemory:
        gaps = FieldReader()
        kind = self._device.memory_type if self._device else None
        if kind is None:
            gaps.note("type", self._device_reason)
        gaps.note("reserved_bytes", "no_source")
        if self._integrated is None:
            gaps.note("kind", "not_reported")
        return GpuMemory(
            kind=None if self._integrated is None else "carveout" if self._integrated else "dedicated",
            total_bytes=gaps.read("total_bytes", partial(self._bytes, "mem_info_vram_total")),
            shared_total_bytes=gaps.read("shared_total_bytes", partial(self._bytes, "mem_info_gtt_total")),
            bus_width_bits=gaps.first(
                "bus_width_bits",
                lambda: _known(self._device.bus_width_bits if self._device else None),
                lambda: self._of_node().bus_width_bits(),
            ),
            type=kind,
            unavailable=gaps.reasons,
        )

    def _pcie(self, gaps: FieldReader) -> GpuPcie | None:
        gen = gaps.read("pcie", lambda: pci.generation(self._link_text("max_link_speed")))
        width = gaps.read("pcie", lambda: pci.width(self._link_text("max_link_width")))
        if gen is None and width is None:
            return None
        gaps.reasons.pop("pcie", None)
        return GpuPcie(max_gen=gen, max_width=width)

    def _driver_version(self, gaps: FieldReader) -> str | None:
        """A separately built driver has a version; the kernel's own is as old as the kernel."""
        return gaps.read("driver_version", partial(kernel_modules.version, self._root, DRIVER))

    def _uuid(self) -> str:
        number = int(self._hot.word(f"{self._gpu.path}/unique_id"), 16)
        if number == 0:
            raise Unreadable("not_reported")
        return f"GPU-{number:016x}"

    def _product(self) -> str:
        return bounded(self._text("product_name"))

    def _marketing_name(self) -> str:
        """By libdrm's table, whose lines are device, revision, name."""
        wanted = [self._text("device").removeprefix("0x"), self._text("revision").removeprefix("0x")]
        for line in self._root.text(_MARKETING_NAMES).splitlines():
            words = [word.strip() for word in line.split(",", 2)]
            if [word.lower().zfill(len(w)) for word, w in zip(words, wanted, strict=False)] == wanted:
                return bounded(words[2])
        raise Unreadable("not_reported")

    def _of_node(self) -> Node:
        if self._node is None:
            raise Unreadable("not_present: the compute driver (KFD) does not run this GPU")
        return self._node

    def _is_integrated(self) -> bool:
        """By the driver's word; else an APU is in its CPU's node of the compute driver, or has a vddnb."""
        if self._device is not None:
            return self._device.integrated
        if self._node is not None and self._node.has_cpu_cores():
            return True
        if self._hwmon.label("in1") == "vddnb":
            return True
        self._hwmon.integer("temp1_input")
        return False


def _known(value: int | None) -> int:
    """What the driver does not know, it writes as 0."""
    if not value:
        raise Unreadable("not_reported")
    return value


def amd(root: Root) -> SysfsGpuProvider:
    """The provider of AMD's GPUs."""
    return SysfsGpuProvider(root, NAME, PCI_VENDOR, {DRIVER: AmdCard})
