"""CPU load, temperature and, through RAPL, energy."""

from __future__ import annotations

import time
from functools import partial

from obt_agent.hardware.field_reader import FieldReader, Unreadable, optional
from obt_agent.hardware.host.linux import cpu_info
from obt_agent.hardware.host.linux.cpu_frequency import CpuFrequency
from obt_agent.hardware.host.linux.rapl import Rapl
from obt_agent.hardware.host.rates import LEAST_WINDOW_NS
from obt_agent.hardware.inventory import CpuInfo, ProviderState
from obt_agent.hardware.provider import CostGroup, state_of
from obt_agent.hardware.samples import CpuSample
from obt_agent.hardware.snapshot.root import FileCache, Root

_SENSORS = {
    "coretemp": ("Package id 0",),
    "k10temp": ("Tdie", "Tctl"),
    "zenpower": ("Tdie", "Tctl"),
    "cpu_thermal": ("",),
}
"""Drivers of CPU sensors, and the labels to prefer; an empty label takes the first sensor."""
_ZONES = ("x86_pkg_temp", "cpu-thermal", "cpu_thermal")
_COLDEST, _HOTTEST = -50, 150

# Columns of /proc/stat: user nice system idle iowait irq softirq steal; guest time is within user and nice.
_COLUMNS, _IDLE, _IOWAIT = 8, 3, 4


class CpuProvider:
    """Linux's view of the CPUs."""

    name = "cpu"

    def __init__(self, root: Root) -> None:
        self._root = root
        self._hot = FileCache(root)
        self._rapl = Rapl(root)
        self._pace = CpuFrequency(root)
        self._before: dict[str, tuple[int, int]] = {}
        self._before_ns = 0
        self._ratios: dict[str, float] = {}
        self._sensors: tuple[str, ...] = ()
        self._sensor_reason = "not_present"

    def probe(self) -> ProviderState:
        """Look for the sensors again."""
        self._rapl.probe()
        self._pace.probe()
        sensor = FieldReader()
        self._sensors = sensor.read("sensor", lambda: find_sensors(self._root)) or ()
        self._sensor_reason = sensor.reasons.get("sensor", "not_present")
        gaps = FieldReader()
        gaps.read("load", lambda: self._root.text("/proc/stat"))
        return state_of(self.name, gaps.reasons.get("load"), verified=True)

    def inventory(self) -> CpuInfo:
        """Describe the CPUs."""
        return cpu_info.read(self._root)

    def sample(self, group: CostGroup) -> CpuSample:  # noqa: ARG002 -- everything here is cheap
        """Load since the sample before, temperature and energy now."""
        gaps = FieldReader()
        gaps.read("utilization_ratio", self._update)
        return CpuSample(
            utilization_ratio=gaps.read("utilization_ratio", partial(self._ratio, "cpu")),
            per_core_ratio=self._per_core(),
            load=gaps.read("load", self._load) or (),
            temperature_celsius=gaps.read("temperature_celsius", self._temperature),
            package_energy_joules=gaps.read("package_energy_joules", self._rapl.joules),
            clock_hertz=gaps.read("clock_hertz", self._pace.clock_hertz),
            throttled_seconds_total=gaps.read("throttled_seconds_total", self._pace.throttled_seconds),
            unavailable=gaps.reasons,
        )

    def close(self) -> None:
        """Let go of the files."""
        self._hot.close()
        self._rapl.close()
        self._pace.close()

    def _update(self) -> None:
        now_ns = time.monotonic_ns()
        if self._before and now_ns - self._before_ns < LEAST_WINDOW_NS:
            return
        times = parse_stat(self._hot.text("/proc/stat"))
        self._ratios = {
            name: ratio
            for name, now in times.items()
            if (ratio := busy_ratio(self._before.get(name), now)) is not None
        }
        self._before, self._before_ns = times, now_ns

    def _ratio(self, name: str) -> float:
        if name not in self._ratios:
            raise Unreadable("needs_two_readings")
        return self._ratios[name]

    def _per_core(self) -> tuple[float, ...]:
        cores = sorted((int(name[3:]), ratio) for name, ratio in self._ratios.items() if name != "cpu")
        return tuple(ratio for _, ratio in cores)

    def _load(self) -> tuple[float, ...]:
        words = self._hot.text("/proc/loadavg").split()[:3]
        load = tuple(float(word) for word in words)
        if len(load) != 3 or not all(0 <= value < 1e6 for value in load):  # noqa: PLR2004 -- 1, 5 and 15 minutes
            raise Unreadable("malformed")
        return load

    def _temperature(self) -> float:
        """Of several packages, the hottest."""
        if not self._sensors:
            raise Unreadable(self._sensor_reason)
        gaps = FieldReader()
        read = [gaps.read("", partial(self._celsius, sensor)) for sensor in self._sensors]
        known = [degrees for degrees in read if degrees is not None]
        if not known:
            raise Unreadable(gaps.reasons[""])
        return max(known)

    def _celsius(self, sensor: str) -> float:
        return celsius(self._hot.integer(sensor))


def celsius(millidegrees: int) -> float:
    """A sensor's reading in degrees.

    Raises Unreadable when no CPU or GPU can be so hot or cold ("malformed").
    """
    degrees = millidegrees / 1000
    if not _COLDEST <= degrees <= _HOTTEST:
        raise Unreadable("malformed")
    return degrees


def parse_stat(text: str) -> dict[str, tuple[int, int]]:
    """Of each line ``cpu`` and ``cpuN``: ticks in all, and idle ones (waiting for I/O is idle).

    Raises ValueError.
    """
    times = {}
    for line in text.splitlines():
        words = line.split()
        if not words or not words[0].startswith("cpu"):
            break
        if words[0] != "cpu" and not words[0][3:].isdigit():
            raise ValueError(line)
        ticks = [int(word) for word in words[1 : 1 + _COLUMNS]]
        if len(ticks) <= _IDLE:
            raise ValueError(line)
        times[words[0]] = sum(ticks), sum(ticks[_IDLE : _IOWAIT + 1])
    if "cpu" not in times:
        raise ValueError(text[:40])
    return times


def busy_ratio(before: tuple[int, int] | None, now: tuple[int, int]) -> float | None:
    """Busy share between two readings, 0 to 1; None when no time passed.

    The kernel's idle counters can step back a little, so the share is held within its bounds.
    """
    if before is None or now[0] <= before[0]:
        return None
    idle = (now[1] - before[1]) / (now[0] - before[0])
    return min(1.0, max(0.0, 1.0 - idle))


def find_sensors(root: Root) -> tuple[str, ...]:
    """The files of the CPUs' own sensors, one of each package.

    Raises OSError or Unreadable ("not_present") when there is none.
    """
    folder = "/sys/class/hwmon"
    found = []
    for name in optional(partial(root.names, folder)) or []:
        driver = optional(partial(root.text, f"{folder}/{name}/name"))
        if driver in _SENSORS:
            found.append(_labelled(root, f"{folder}/{name}", _SENSORS[driver]))
    return tuple(found) or (_zone(root),)


def _zone(root: Root) -> str:
    zones = "/sys/class/thermal"
    for name in root.names(zones):
        if optional(partial(root.text, f"{zones}/{name}/type")) in _ZONES:
            return f"{zones}/{name}/temp"
    raise Unreadable("not_present")


def _labelled(root: Root, folder: str, labels: tuple[str, ...]) -> str:
    inputs = [name for name in root.names(folder) if name.startswith("temp") and name.endswith("_input")]
    if not inputs:
        raise Unreadable("not_present")
    found = {
        optional(partial(root.text, f"{folder}/{name.removesuffix('_input')}_label")): name
        for name in reversed(inputs)
    }
    chosen = next((found[label] for label in labels if label in found), inputs[0])
    return f"{folder}/{chosen}"
