"""How hot the machine is, and how cool it was at rest. Pure."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from obt_agent.hardware.samples import Sample

# A day: what is the lowest then, is the machine at rest in the weather of today.
_HOURS: Final = 24
_NS_PER_HOUR: Final = 3600 * 10**9

Sensor = Literal["GPU", "CPU"]


class Heat(NamedTuple):
    """A temperature in degrees Celsius, and whose it is."""

    sensor: Sensor
    celsius: float


def hottest(sample: Sample) -> Heat | None:
    """The temperature that cooling down goes by: of the hottest GPU, else of the CPU."""
    gpus = [gpu.temperature_celsius for gpu in sample.gpus if gpu.temperature_celsius is not None]
    if gpus:
        return Heat("GPU", max(gpus))
    cpu = sample.cpu.temperature_celsius
    return None if cpu is None else Heat("CPU", cpu)


class LowestTemperatures:
    """The lowest temperature of each sensor within the last 24 hours, from samples in their order."""

    def __init__(self) -> None:
        # By sensor and hour of the monotonic clock.
        self._by_hour: dict[Sensor, dict[int, float]] = {"GPU": {}, "CPU": {}}

    def note(self, sample: Sample) -> None:
        """Take a sample."""
        found = hottest(sample)
        if found is None:
            return
        hours, hour = self._by_hour[found.sensor], sample.t_mono_ns // _NS_PER_HOUR
        hours[hour] = min(found.celsius, hours.get(hour, found.celsius))
        for old in [one for one in hours if one <= hour - _HOURS]:
            del hours[old]

    def of(self, sensor: Sensor) -> float | None:
        """The lowest; None where the sensor gave nothing yet."""
        return min(self._by_hour[sensor].values(), default=None)
