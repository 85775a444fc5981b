"""AMD's GPUs through amdgpu's files in sysfs and its render node: cards, and parts of a processor (APUs)."""

from __future__ import annotations

from functools import partial

from obt_agent.hardware.field_reader import FieldReader, Unreadable, bounded, non_negative, optional, positive
from obt_agent.hardware.gpu.amd import gpu_metrics
from obt_agent.hardware.gpu.readings import unless_empty
from obt_agent.hardware.gpu.sysfs import SysfsCard, SysfsGpuProvider
from obt_agent.hardware.host.linux import drm, fdinfo, kernel_modules, kfd, pci
from obt_agent.hardware.host.linux.kernel_text import key_values
from obt_agent.hardware.inventory import GpuInfo, GpuMemory
from obt_agent.hardware.samples import GpuClocks, GpuSample
from obt_agent.hardware.snapshot.root import Root

NAME, PCI_VENDOR, DRIVER = "amd", "0x1002", "amdgpu"
_MARKETING_NAMES = "/usr/share/libdrm/amdgpu.ids"
_PERCENT = 100


class AmdCard(SysfsCard):
    """One GPU that amdgpu drives."""

    def __init__(self, root: Root, gpu: pci.PciGpu) -> None:
        super().__init__(root, gpu)
        # The compute driver's view of the GPU; None where that driver does not run it.
        self._compute = kfd.gpu_at(root, gpu.address)
        answered = FieldReader()
        # What the driver answers on the render node; None, with the reason, where it may not be asked.
        self._device = answered.read("device", partial(drm.amd_device, root, gpu))
        self._device_reason = answered.reasons.get("device", "not_reported")
        self._integrated = optional(self._is_integrated)

    def info(self) -> GpuInfo:
        """Describe it."""
        fields = FieldReader()
        uuid = fields.read("uuid", self._uuid)
        if self._integrated is None:
            fields.note("integrated", "not_reported")
        return GpuInfo(
            id=uuid or self._gpu.address,
            vendor=NAME,
            provider=NAME,
            name=fields.first(
                "name",
                lambda: bounded(self._text("product_name")),
                self._marketing_name,
                partial(pci.name, self._root, self._gpu.path),
            ),
            uuid=uuid,
            pci_address=self._gpu.address,
            integrated=self._integrated,
            backend="rocm" if self._compute else "vulkan",
            driver=DRIVER,
            # A separately built driver has a version; the kernel's own is as old as the kernel.
            driver_version=fields.read("driver_version", partial(kernel_modules.version, self._root, DRIVER)),
            vbios_version=fields.read("vbios_version", lambda: bounded(self._text("vbios_version"))),
            gfx_target=fields.read("gfx_target", lambda: self._of_compute().gfx_target()),
            shader_cores=self._shader_cores(fields),
            memory=self._memory(),
            pcie=self.pcie(fields),
            power_limit_watts=fields.read("power_limit_watts", partial(self._hwmon.watts, "power1_cap")),
            unavailable=fields.reasons,
        )

    def fast(self, fields: FieldReader) -> GpuSample:
        """Read what changes at every tick."""
        return GpuSample(
            id="",
            state="ok",
            utilization_ratio=fields.read("utilization_ratio", partial(self._ratio, "gpu_busy_percent")),
            memory_controller_ratio=fields.read(
                "memory_controller_ratio", partial(self._ratio, "mem_busy_percent")
            ),
            memory_used_bytes=fields.read("memory_used_bytes", partial(self._used, "vram")),
            shared_used_bytes=fields.read("shared_used_bytes", partial(self._used, "gtt")),
            # Which of the two a GPU has depends on its generation; power1_input is the instant one.
            power_watts=fields.read(
                "power_watts", partial(self._hwmon.watts, "power1_input", "power1_average")
            ),
            temperature_celsius=fields.read("temperature_celsius", partial(self._hwmon.celsius, "edge")),
            clocks=self._clocks(fields),
        )

    def slow(self, fields: FieldReader) -> GpuSample:
        """Read what is read rarely."""
        fields.note("others_ratio", "no_source: the kernel shows a process's share to its own user alone")
        return GpuSample(
            id="",
            state="ok",
            energy_joules_total=fields.read("energy_joules_total", self.energy_joules),
            throttle_reasons=fields.read(
                "throttle_reasons", lambda: gpu_metrics.throttle_reasons(self._table())
            ),
            fan_ratio=fields.read("fan_ratio", self._hwmon.fan_ratio),
            ecc_uncorrected=fields.read("ecc_uncorrected", self._uncorrected),
        )

    def energy_joules(self) -> float:
        """Return the energy counter of the driver's table."""
        return gpu_metrics.energy_joules(self._table())

    def process_memory(self, pid: int) -> int | None:
        """Return the card's own memory; of an APU also what lies in shared memory, where its models are.

        Of another user's processes, the compute driver gives the card's own memory alone: enough for a card.
        """
        by_driver = optional(partial(self._compute.process_bytes, pid)) if self._compute else None
        try:
            regions = fdinfo.regions(self._root, pid, self._gpu.address)
        except OSError:
            if self._compute is None or self._integrated:
                raise
            return by_driver
        names = ("vram", "gtt") if self._integrated else ("vram",)
        return sum(regions.get(name, 0) for name in names) or by_driver

    def _text(self, file: str) -> str:
        return self._hot.text(f"{self._gpu.path}/{file}")

    def _total(self, pool: str) -> int:
        return positive(int(self._text(f"mem_info_{pool}_total")))

    def _used(self, pool: str) -> int:
        used = non_negative(int(self._text(f"mem_info_{pool}_used")))
        fields = FieldReader()
        total = fields.read("total", partial(self._total, pool))
        if total is not None and used > total:
            raise Unreadable("inconsistent")
        # A pool of 0 bytes is one that the driver does not tell of: then 0 in use is no reading either.
        if fields.reasons.get("total") == "not_reported":
            raise Unreadable("not_reported")
        return used

    def _ratio(self, file: str) -> float:
        percent = int(self._text(file))
        if not 0 <= percent <= _PERCENT:
            raise Unreadable("malformed")
        return percent / _PERCENT

    def _clocks(self, fields: FieldReader) -> GpuClocks | None:
        graphics = fields.read("clocks", partial(self._hwmon.hertz, "freq1_input"))
        memory = optional(partial(self._hwmon.hertz, "freq2_input"))
        return unless_empty(fields, "clocks", GpuClocks(graphics_hertz=graphics, memory_hertz=memory))

    def _table(self) -> bytes:
        return self._root.data(f"{self._gpu.path}/gpu_metrics", 4096)

    def _uncorrected(self) -> int:
        """Lines "ue: 0" and "ce: 0" of the memory controllers' errors."""
        values = key_values(self._text("ras/umc_err_count"))
        if "ue" not in values:
            raise Unreadable("not_reported")
        return non_negative(int(values["ue"]))

    def _shader_cores(self, fields: FieldReader) -> int | None:
        by_compute, by_device = lambda: self._of_compute().shader_cores(), self._device_cores
        # Divided into partitions, the node answers for one of them, and the compute driver for all.
        divided = self._compute is not None and self._compute.partitions > 1
        sources = (by_compute, by_device) if divided else (by_device, by_compute)
        return fields.first("shader_cores", *sources)

    def _device_cores(self) -> int:
        return positive(self._device.compute_units if self._device else 0) * kfd.LANES_PER_UNIT

    def _memory(self) -> GpuMemory:
        fields = FieldReader()
        kind = self._device.memory_type if self._device else None
        if kind is None:
            fields.note("type", self._device_reason)
        fields.note("reserved_bytes", "no_source")
        if self._integrated is None:
            fields.note("kind", "not_reported")
        return GpuMemory(
            kind=None if self._integrated is None else "carveout" if self._integrated else "dedicated",
            total_bytes=fields.read("total_bytes", partial(self._total, "vram")),
            shared_total_bytes=fields.read("shared_total_bytes", partial(self._total, "gtt")),
            bus_width_bits=fields.first(
                "bus_width_bits",
                lambda: positive((self._device and self._device.bus_width_bits) or 0),
                lambda: self._of_compute().bus_width_bits(),
            ),
            type=kind,
            unavailable=fields.reasons,
        )

    def _uuid(self) -> str:
        return f"GPU-{positive(int(self._hot.word(f'{self._gpu.path}/unique_id'), 16)):016x}"

    def _marketing_name(self) -> str:
        """By libdrm's table, whose lines are device, revision, name."""
        wanted = [self._text("device").removeprefix("0x"), self._text("revision").removeprefix("0x")]
        for line in self._root.text(_MARKETING_NAMES).splitlines():
            words = [word.strip() for word in line.split(",", 2)]
            if [word.lower().zfill(len(w)) for word, w in zip(words, wanted, strict=False)] == wanted:
                return bounded(words[2])
        raise Unreadable("not_reported")

    def _of_compute(self) -> kfd.ComputeGpu:
        if self._compute is None:
            raise Unreadable("not_present: the compute driver (KFD) does not run this GPU")
        return self._compute

    def _is_integrated(self) -> bool:
        """By the driver's word; else an APU is in its CPU's node of the compute driver, or has a vddnb."""
        if self._device is not None:
            return self._device.integrated
        if self._compute is not None and self._compute.has_cpu_cores():
            return True
        # The northbridge's voltage is measured on APUs alone.
        if self._hwmon.label("in1") == "vddnb":
            return True
        # Without any sensor nothing can be said; the reading fails then.
        self._hwmon.integer("temp1_input")
        return False


def amd(root: Root) -> SysfsGpuProvider:
    """Return the provider of AMD's GPUs."""
    return SysfsGpuProvider(root, NAME, PCI_VENDOR, {DRIVER: AmdCard})
