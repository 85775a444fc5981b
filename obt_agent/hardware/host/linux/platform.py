"""Linux: this machine's, read by psutil and the kernel's files, or a snapshot's, read by the files alone."""

from __future__ import annotations

from functools import partial

from obt_agent.hardware.field_reader import FieldReader, Unreadable, each, optional
from obt_agent.hardware.host.linux import cpu_info, devices, dmi
from obt_agent.hardware.host.linux.cgroup import LimitsProvider
from obt_agent.hardware.host.linux.cpu_frequency import CpuFrequency
from obt_agent.hardware.host.linux.cpu_temperature import find_sensors
from obt_agent.hardware.host.linux.file_readings import LinuxFileReadings
from obt_agent.hardware.host.linux.hwmon import celsius
from obt_agent.hardware.host.linux.memory import arc_reclaimable_bytes, has_arc, memory_info
from obt_agent.hardware.host.linux.pressure import PressureReader
from obt_agent.hardware.host.linux.process_table import LinuxProcessTable
from obt_agent.hardware.host.linux.rapl import Rapl
from obt_agent.hardware.host.linux.storage import StorageProvider
from obt_agent.hardware.host.linux.system import HostProvider
from obt_agent.hardware.host.psutil_reader import PsutilReadings
from obt_agent.hardware.host.readings import CpuTimes, HostReadings
from obt_agent.hardware.inventory import CpuInfo, MemoryInfo, ProviderState
from obt_agent.hardware.provider import state_of
from obt_agent.hardware.snapshot.root import FileCache, Root


class LinuxReadings(LinuxFileReadings):
    """The kernel's files, kept open, but for what psutil reads as cheaply: docs/developers/performance.md."""

    def __init__(self, root: Root) -> None:
        super().__init__(root)
        self._psutil = PsutilReadings()

    def cpu_times(self) -> tuple[CpuTimes, ...]:
        """Return each CPU's times."""
        return self._psutil.cpu_times()

    def load_average(self) -> tuple[float, ...]:
        """Return the load."""
        return self._psutil.load_average()


class LinuxPlatform:
    """``HostPlatform`` of Linux."""

    def __init__(self, root: Root) -> None:
        # psutil reads the machine that it runs on and no other, and past a root that records what is read.
        through_psutil = root.real and not root.recorded
        self.readings: HostReadings = LinuxReadings(root) if through_psutil else LinuxFileReadings(root)
        self.processes = LinuxProcessTable(root)
        self.storage = StorageProvider(root)
        self._root = root
        self._files = FileCache(root)
        self._system = HostProvider(root)
        self._rapl = Rapl(root)
        self._frequency = CpuFrequency(root)
        self._pressure = PressureReader(root)
        self._limits = LimitsProvider(root)
        # What one part answers by itself is that part's method.
        self.host_info = self._system.inventory
        self.package_energy_joules = self._rapl.joules
        self.clock_hertz = self._frequency.clock_hertz
        self.throttled_seconds = self._frequency.throttled_seconds
        self.pressure = self._pressure.sample
        self.follow = self._limits.follow
        self.limits = self._limits.inventory
        self.cgroup_available_bytes = self._limits.available_bytes
        # Found by ``probe``: devices come and go rarely, and looking for them costs more than reading them.
        self._sensors: tuple[str, ...] = ()
        self._disks: frozenset[str] = frozenset()
        self._interfaces: frozenset[str] = frozenset()
        self._has_arc = False

    def probe(self) -> tuple[ProviderState, ...]:
        """Look again for everything."""
        self._rapl.probe()
        self._frequency.probe()
        self._pressure.probe()
        # psutil's sensors_temperatures() reads every sensor of the machine each time, those of GPUs that
        # sleep too, which wakes them: so the CPUs' own are looked for once, and read alone.
        self._sensors = optional(partial(find_sensors, self._root)) or ()
        self._disks = devices.disks(self._root)
        self._interfaces = devices.interfaces(self._root)
        self._has_arc = has_arc(self._root)
        reasons = FieldReader()
        reasons.read("cpu", self.readings.cpu_times)
        reasons.read("memory", self.readings.memory)
        states = (state_of(name, reasons.reasons.get(name), verified=True) for name in ("cpu", "memory"))
        return (*states, self._system.probe(), self._limits.probe())

    def cpu_info(self) -> CpuInfo:
        """Return the CPUs."""
        return cpu_info.read(self._root)

    def memory_info(self) -> MemoryInfo:
        """Return sizes and modules."""
        return memory_info(self.readings, partial(dmi.modules, self._root))

    def temperature_celsius(self) -> float:
        """Return the hottest of the CPUs' sensors."""
        if not self._sensors:
            raise Unreadable("not_present")
        return max(each(partial(self._celsius, sensor) for sensor in self._sensors))

    def reclaimable_bytes(self) -> int:
        """Return what ZFS's cache gives back."""
        # Most machines have no such file, and asking for it would cost as much as reading another.
        return (optional(partial(arc_reclaimable_bytes, self._files)) or 0) if self._has_arc else 0

    def disks(self) -> frozenset[str]:
        """Return the disks as of the last probe."""
        return self._disks

    def interfaces(self) -> frozenset[str]:
        """Return the interfaces as of the last probe."""
        return self._interfaces

    def topology(self, more: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names of devices, and the contents of small files."""
        places = ("/sys/bus/pci/devices", "/sys/class/drm", "/dev/dri", *more)
        listed = (",".join(self._root.below(place)) for place in places)
        files = ("/sys/devices/system/cpu/online", *more)
        return (*listed, *(self._root.known_text(file) for file in files))

    def close(self) -> None:
        """Let go of the files."""
        parts = (self.readings, self._files, self._rapl, self._frequency, self._pressure, self._limits)
        for part in parts:
            part.close()

    def _celsius(self, sensor: str) -> float:
        return celsius(self._files.integer(sensor))
