"""What the machine did during one window of time, from its samples and from counters of energy. Pure.

Means over time weigh each sample by the time until the next one, cut to the window; the sample before the
window's start counts for its beginning. Energy comes from the difference of the driver's counters at the
window's edges where there are counters, else from the trapezoid over power readings, and is withheld for
windows under ``LEAST_ENERGY_WINDOW_S``, within which such readings mean little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Final, Literal, NamedTuple

from obt_agent.benchmark import statistics
from obt_agent.benchmark.result import Throttle
from obt_agent.hardware import temperatures
from obt_agent.hardware.samples import GpuSample, Sample

# Energy of shorter windows is withheld: power readings average up to a second.
LEAST_ENERGY_WINDOW_S: Final = 5.0
# Time over which a driver may average ``power_watts`` (Ampere and later).
POWER_AVERAGING_S: Final = 1.0
# Time between updates of an energy counter, at most.
COUNTER_STEP_S: Final = 0.1
MIB: Final = 1 << 20

_NS_PER_S: Final = 1e9
_MS_PER_S: Final = 1e3
# Words in the reasons that drivers give; their spelling differs by vendor and version.
_THERMAL: Final = ("thermal", "hot")
_POWER: Final = ("power", "brake", "current")
_NO_THROTTLE: Final = ("idle", "none", "applications_clocks", "sync_boost", "display")

PowerScope = Literal["gpus", "cpu_package"]


class TimeWindow(NamedTuple):
    """A span on the monotonic clock, in nanoseconds."""

    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end_ns - self.start_ns) / _NS_PER_S


class EdgeReading(NamedTuple):
    """Energy counters in joules by GPU, and when they were read (monotonic, nanoseconds)."""

    t_ns: int
    joules: Mapping[str, float]


class Energy(NamedTuple):
    """Joules in a window, how they were got, and the half-width that the method leaves open."""

    joules: float
    uncertainty: float
    method: Literal["counter", "trapezoid"]
    scope: PowerScope


class Mean(NamedTuple):
    """A time-weighted mean and the extremes."""

    mean: float
    low: float
    high: float


Reading = Callable[[Sample], float | None]


def within(samples: Sequence[Sample], window: TimeWindow) -> list[Sample]:
    """The samples that speak for the window: those in it, and the last one before it."""
    before = [sample for sample in samples if sample.t_mono_ns <= window.start_ns]
    inside = [sample for sample in samples if window.start_ns < sample.t_mono_ns <= window.end_ns]
    return before[-1:] + inside


def over_time(samples: Sequence[Sample], window: TimeWindow, reading: Reading) -> Mean | None:
    """Time-weighted mean, minimum and maximum of a reading; None when no sample has it."""
    known = [
        (sample.t_mono_ns, value)
        for sample in within(samples, window)
        if (value := reading(sample)) is not None
    ]
    if not known:
        return None
    values = [value for _, value in known]
    starts = [max(t, window.start_ns) for t, _ in known]
    # Before the first sample nothing is known: it stands for the window's beginning as well.
    starts[0] = window.start_ns
    weights = [later - earlier for earlier, later in pairwise([*starts, window.end_ns])]
    total = sum(weights)
    centre = (
        math.fsum(w * v for w, v in zip(weights, values, strict=True)) / total
        if total > 0
        else statistics.mean(values)
    )
    return Mean(centre, min(values), max(values))


def energy_by_counters(start: EdgeReading, end: EdgeReading, window: TimeWindow) -> Energy | None:
    """Joules of the window, by two readings of the GPUs' counters near its edges.

    A reading takes its time, so that the span between the two is a little other than the window: the mean
    power is taken for the window, and what differs goes into the uncertainty at that power. None when they
    share no counter, when one went back, and for short windows.
    """
    shared = start.joules.keys() & end.joules.keys()
    seconds = (end.t_ns - start.t_ns) / _NS_PER_S
    if not shared or shared != start.joules.keys() or min(seconds, window.seconds) < LEAST_ENERGY_WINDOW_S:
        return None
    # A counter went back: the driver was loaded again meanwhile.
    if any(end.joules[gpu] < start.joules[gpu] for gpu in shared):
        return None
    watts = math.fsum(end.joules[gpu] - start.joules[gpu] for gpu in shared) / seconds
    beyond = (abs(start.t_ns - window.start_ns) + abs(end.t_ns - window.end_ns)) / _NS_PER_S
    return Energy(watts * window.seconds, watts * (beyond + COUNTER_STEP_S), "counter", "gpus")


def energy_by_power(samples: Sequence[Sample], window: TimeWindow) -> Energy | None:
    """Joules by the trapezoid over the GPUs' summed power, the edges held at the nearest reading."""
    points = [
        (min(max(sample.t_mono_ns, window.start_ns), window.end_ns), watts)
        for sample in within(samples, window)
        if (watts := gpu_power(sample)) is not None
    ]
    if len(points) < 2 or window.seconds < LEAST_ENERGY_WINDOW_S:  # noqa: PLR2004 - a trapezoid has two sides
        return None
    # The edges take the nearest reading: power between samples is not known better.
    points = [(window.start_ns, points[0][1]), *points, (window.end_ns, points[-1][1])]
    joules = math.fsum((t2 - t1) / _NS_PER_S * (p1 + p2) / 2 for (t1, p1), (t2, p2) in pairwise(points))
    powers = [power for _, power in points]
    return Energy(joules, (max(powers) - min(powers)) * POWER_AVERAGING_S, "trapezoid", "gpus")


def energy_of_package(samples: Sequence[Sample], window: TimeWindow) -> Energy | None:
    """Joules of the CPU packages, by the difference of their counter, scaled to the window's length."""
    points = [
        (sample.t_mono_ns, joules)
        for sample in within(samples, window)
        if (joules := sample.cpu.package_energy_joules) is not None
    ]
    if len(points) < 2 or window.seconds < LEAST_ENERGY_WINDOW_S:  # noqa: PLR2004 - a difference takes two
        return None
    (t1, first), (t2, last) = points[0], points[-1]
    seconds = (t2 - t1) / _NS_PER_S
    if last < first or seconds <= 0:
        return None
    watts = (last - first) / seconds
    beyond = abs(window.seconds - seconds)
    return Energy(watts * window.seconds, watts * (beyond + COUNTER_STEP_S), "counter", "cpu_package")


def energy(
    samples: Sequence[Sample], window: TimeWindow, start: EdgeReading | None, end: EdgeReading | None
) -> Energy | None:
    """The best that can be had: GPUs' counters, else GPUs' power, else the CPU packages'."""
    # A counter integrates inside the driver; samples of power miss what lies between them.
    by_counters = energy_by_counters(start, end, window) if start and end else None
    if by_counters is not None:
        return by_counters
    return energy_by_power(samples, window) or energy_of_package(samples, window)


def throttle(samples: Sequence[Sample], window: TimeWindow) -> Throttle | None:
    """Time held back, by the reasons that drivers gave; None when no GPU known within the window.

    Drivers are asked for reasons more rarely than for the rest, so one reading stands until the next.
    """
    known = [sample for sample in within(samples, window) if _knows_throttle(sample, window)]
    if not known:
        return None
    # Heat goes before power: a hot GPU also draws less, and would be counted twice.
    thermal, power, reasons = 0.0, 0.0, set[str]()
    edges = [max(sample.t_mono_ns, window.start_ns) for sample in known]
    for sample, (start, end) in zip(known, pairwise([*edges, window.end_ns]), strict=True):
        given = _reasons(sample)
        reasons |= given
        length = (end - start) / _NS_PER_S * _MS_PER_S
        thermal += length if any(_is(reason, _THERMAL) for reason in given) else 0.0
        power += length if any(_is(reason, _POWER) and not _is(reason, _THERMAL) for reason in given) else 0.0
    return Throttle(thermal_ms=thermal, power_ms=power, reasons=tuple(sorted(reasons)))


def _knows_throttle(sample: Sample, window: TimeWindow) -> bool:
    return any(
        gpu.throttle_reasons is not None
        and (gpu.slow_t_mono_ns is None or gpu.slow_t_mono_ns >= window.start_ns)
        for gpu in sample.gpus
    )


def _reasons(sample: Sample) -> set[str]:
    given = {reason for gpu in sample.gpus for reason in gpu.throttle_reasons or ()}
    return {reason for reason in given if not _is(reason, _NO_THROTTLE)}


def _is(reason: str, words: tuple[str, ...]) -> bool:
    return any(word in reason.lower() for word in words)


def _over_gpus(
    sample: Sample,
    reading: Callable[[GpuSample], float | None],
    combine: Callable[[list[float]], float],
) -> float | None:
    known = [value for gpu in sample.gpus if (value := reading(gpu)) is not None]
    return combine(known) if known else None


def cpu_percent(sample: Sample) -> float | None:
    """Use of all CPUs, 0 to 100."""
    ratio = sample.cpu.utilization_ratio
    return None if ratio is None else ratio * 100


def cpu_temperature(sample: Sample) -> float | None:
    """Degrees Celsius of the hottest package."""
    return sample.cpu.temperature_celsius


def memory_used(sample: Sample) -> float | None:
    """MiB in use in the whole system, page cache not counted."""
    used = sample.memory.used_bytes
    return None if used is None else used / MIB


def ollama_rss(sample: Sample) -> float | None:
    """MiB resident in the model's processes; None while its runner is not seen."""
    known = [process.rss_bytes for process in sample.ollama if process.rss_bytes is not None]
    return sum(known) / MIB if known and _has_runner(sample) else None


def server_rss(sample: Sample) -> float | None:
    """MiB resident in Ollama's server alone."""
    known = [one.rss_bytes for one in sample.ollama if one.role == "server" and one.rss_bytes is not None]
    return sum(known) / MIB if known else None


def ollama_cpu_percent(sample: Sample) -> float | None:
    """Percent of one core that the model's processes use (may exceed 100); None without their runner."""
    known = [process.cpu_ratio for process in sample.ollama if process.cpu_ratio is not None]
    return math.fsum(known) * 100 if known and _has_runner(sample) else None


def _has_runner(sample: Sample) -> bool:
    # The server alone runs no model: its figures would pass for the model's.
    return any(process.role == "runner" for process in sample.ollama)


def others_cpu_percent(sample: Sample) -> float | None:
    """Percent of one core that all processes but the model's use (may exceed 100).

    None where Ollama's processes are not seen, or where the number of cores is not known.
    """
    ratio, ollama = sample.cpu.utilization_ratio, ollama_cpu_percent(sample)
    if ratio is None or ollama is None or not sample.cpu.per_core_ratio:
        return None
    # The two are read one after the other: where little else runs, their difference may be below zero.
    return max(0.0, ratio * len(sample.cpu.per_core_ratio) * 100 - ollama)


def others_gpu_percent(sample: Sample, since_ns: int) -> float | None:
    """Percent of the time of a GPU, of that which they use most, that others than Ollama took.

    Known of GPUs on which Ollama has a process; readings from before ``since_ns`` say nothing of the present.
    """
    known = [
        gpu.others_ratio * 100
        for gpu in sample.gpus
        if gpu.others_ratio is not None and (gpu.slow_t_mono_ns or 0) >= since_ns
    ]
    return max(known, default=None)


def ollama_gpu_memory(sample: Sample) -> float | None:
    """MiB of GPU memory that drivers attribute to the model's processes; None when they attribute nothing."""
    known = [used for process in sample.ollama for used in process.gpu_memory_bytes.values()]
    return sum(known) / MIB if known else None


def gpu_percent(sample: Sample) -> float | None:
    """Mean use of the GPUs, 0 to 100."""
    ratio = _over_gpus(sample, lambda gpu: gpu.utilization_ratio, statistics.mean)
    return None if ratio is None else ratio * 100


def gpu_memory_used(sample: Sample) -> float | None:
    """MiB in use on all GPUs, by whomever."""
    used = _over_gpus(sample, lambda gpu: gpu.memory_used_bytes, math.fsum)
    return None if used is None else used / MIB


def gpu_power(sample: Sample) -> float | None:
    """Watts of all GPUs together."""
    return _over_gpus(sample, lambda gpu: gpu.power_watts, math.fsum)


def gpu_temperature(sample: Sample) -> float | None:
    """Degrees Celsius of the hottest GPU."""
    return _over_gpus(sample, lambda gpu: gpu.temperature_celsius, max)


def gpu_clock_mhz(sample: Sample) -> float | None:
    """Mean clock of the GPUs' multiprocessors (else of graphics), MHz."""

    def clock(gpu: GpuSample) -> float | None:
        if gpu.clocks is None:
            return None
        return gpu.clocks.sm_hertz if gpu.clocks.sm_hertz is not None else gpu.clocks.graphics_hertz

    hertz = _over_gpus(sample, clock, statistics.mean)
    return None if hertz is None else hertz / 1e6


def hottest(sample: Sample) -> float | None:
    """The temperature that cooling down goes by."""
    found = temperatures.hottest(sample)
    return None if found is None else found.celsius
