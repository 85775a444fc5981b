"""The sample: what the machine does.

Nulls, reasons and units are those of ``inventory``.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from obt_agent.wire_types import Int64

GpuState = Literal["ok", "degraded", "stalled", "lost", "suspended"]
"""How a GPU's readings stand.

ok: read. degraded: some of what it usually gives failed. stalled: its driver does not answer. lost: it was
here and is gone, or its driver says so. suspended: asleep; nothing but its power state was read, so that it
stays so.
"""

ProcessRole = Literal["server", "runner"]

MonotonicNs = Annotated[
    int,
    Meta(
        description="Nanoseconds since the machine started. Over 2^53 after 104 days, where a reader that "
        "keeps numbers as doubles gets them rounded to 2 ns.",
        extra_json_schema={"format": "int64"},
    ),
]


class SamplerSample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What this sample cost.

    ``duration_us`` from first to last reading, ``cpu_us`` of processor time; ``missed`` ticks since the
    sampler started; ``cpu_ratio`` is the sampler's share of one core since the sample before.
    """

    duration_us: Int64
    cpu_us: Int64 = 0
    missed: Int64 = 0
    cpu_ratio: float | None = None


class CpuSample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All CPUs since the sample before.

    ``load`` is the kernel's average over 1, 5 and 15 minutes. ``package_energy_joules`` counts all packages
    since an arbitrary start: only differences mean something, as of ``throttled_seconds_total``, the time in
    which heat held a package back. ``clock_hertz`` is the fastest clock of up to 8 cores, up to 5 s old.
    """

    utilization_ratio: float | None = None
    per_core_ratio: tuple[float, ...] = ()
    load: tuple[float, ...] = ()
    temperature_celsius: float | None = None
    package_energy_joules: float | None = None
    clock_hertz: Int64 | None = None
    throttled_seconds_total: float | None = None
    unavailable: dict[str, str] = {}


class PressureSample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Shares of the time since the sample before in which something on the machine waited.

    For a CPU, for memory that had to be got back first, and for I/O: the kernel's pressure stall information,
    its lines "some".
    """

    cpu_ratio: float | None = None
    memory_ratio: float | None = None
    io_ratio: float | None = None
    unavailable: dict[str, str] = {}


class MemorySample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """System memory.

    ``available_bytes`` is the kernel's estimate of what a program can still get; ``used_bytes`` is total less
    available, so that page cache does not count as used. ``cgroup_available_bytes`` is the same within the
    tightest control group of Ollama's process, null with no reason where none limits it.
    """

    used_bytes: Int64 | None = None
    available_bytes: Int64 | None = None
    swap_used_bytes: Int64 | None = None
    cgroup_available_bytes: Int64 | None = None
    unavailable: dict[str, str] = {}


class DiskSample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whole disks, summed, since the sample before."""

    read_bytes_per_second: float | None = None
    write_bytes_per_second: float | None = None
    unavailable: dict[str, str] = {}


class NetworkSample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Network interfaces but loopback, summed, since the sample before."""

    receive_bytes_per_second: float | None = None
    transmit_bytes_per_second: float | None = None
    unavailable: dict[str, str] = {}


class GpuClocks(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Current clocks. ``sm_hertz`` is that of the multiprocessors (NVIDIA)."""

    graphics_hertz: Int64 | None = None
    sm_hertz: Int64 | None = None
    memory_hertz: Int64 | None = None


class MigSample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One MIG device's memory."""

    id: str
    memory_used_bytes: Int64 | None = None


class GpuSample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One GPU, as read at ``t_mono_ns``.

    Fans, throttle reasons, PCIe link, ECC and ``others_ratio`` are read rarely, because drivers serialise on
    them: they date from ``slow_t_mono_ns``. ``others_ratio`` is the share of the GPU's time that processes
    other than Ollama's took since the reading before. ``power_watts`` is the driver's own reading (an average
    over up to a second on some devices); ``energy_joules_total`` counts since the driver was loaded.
    ``memory_controller_ratio`` is the share of time in which memory was read or written, not the share of
    memory in use.
    """

    id: str
    state: GpuState
    t_mono_ns: MonotonicNs | None = None
    slow_t_mono_ns: MonotonicNs | None = None
    utilization_ratio: float | None = None
    others_ratio: float | None = None
    memory_controller_ratio: float | None = None
    memory_used_bytes: Int64 | None = None
    shared_used_bytes: Int64 | None = None
    power_watts: float | None = None
    energy_joules_total: float | None = None
    temperature_celsius: float | None = None
    clocks: GpuClocks | None = None
    throttle_reasons: tuple[str, ...] | None = None
    fan_ratio: float | None = None
    pcie_gen: Int64 | None = None
    pcie_width: Int64 | None = None
    ecc_uncorrected: Int64 | None = None
    mig: tuple[MigSample, ...] = ()
    unavailable: dict[str, str] = {}


class OllamaProcess(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of Ollama's processes.

    ``server_pid`` is the server that a runner belongs to, ``blob`` the digest of the weights in a runner's
    command line, ``port`` where a server listens: null where the system keeps its environment from the
    agent. ``cpu_ratio`` is in whole cores since the sample before; ``gpu_memory_bytes`` is what the driver
    attributes to this process, by GPU id. A reason for it in ``unavailable`` says why some may be missing.
    """

    pid: Int64
    role: ProcessRole
    server_pid: Int64 | None = None
    port: Int64 | None = None
    blob: str | None = None
    cpu_ratio: float | None = None
    rss_bytes: Int64 | None = None
    gpu_memory_bytes: dict[str, Int64] = {}
    unavailable: dict[str, str] = {}


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the machine does. ``t_wall`` is Unix seconds, ``t_mono_ns`` the agent's monotonic clock."""

    t_wall: float
    t_mono_ns: MonotonicNs
    sampler: SamplerSample | None = None
    cpu: CpuSample = CpuSample()
    memory: MemorySample = MemorySample()
    pressure: PressureSample = PressureSample()
    disk: DiskSample = DiskSample()
    network: NetworkSample = NetworkSample()
    gpus: tuple[GpuSample, ...] = ()
    ollama: tuple[OllamaProcess, ...] = ()


def without_weights(sample: Sample) -> Sample:
    """Return the sample as a server gets it: weights would name a loaded model that the policy hides."""
    if all(process.blob is None for process in sample.ollama):
        return sample
    bare = tuple(msgspec.structs.replace(process, blob=None) for process in sample.ollama)
    return msgspec.structs.replace(sample, ollama=bare)
