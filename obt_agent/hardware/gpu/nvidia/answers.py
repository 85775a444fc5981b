"""What NVIDIA's library answered, written down for a snapshot.

One line is ``<gpu|*> <symbol> <value>``, in the driver's own units; a symbol that is not there is not
supported. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from obt_agent.hardware.gpu.nvidia.gpu_info import NAME
from obt_agent.hardware.gpu.nvidia.throttling import THROTTLE_BITS
from obt_agent.hardware.inventory import GpuInfo, Inventory
from obt_agent.hardware.samples import GpuSample, OllamaProcess, Sample

ANSWERS_FILE = "nvml.txt"

_MILLI = 1000
_MEGA = 1_000_000
_PERCENT = 100


def answers(inventory: Inventory, sample: Sample) -> str | None:
    """Return the lines, or None where the driver described no GPU. MIG instances are left out."""
    gpus = [gpu for gpu in inventory.gpus if gpu.vendor == NAME and gpu.uuid is not None]
    if not gpus:
        return None
    samples = {gpu.id: gpu for gpu in sample.gpus}
    lines = list(_system(gpus))
    for number, gpu in enumerate(gpus):
        now = samples[gpu.id]
        values = [*_described(gpu, now), *_sampled(now), *_processes(gpu, sample.ollama)]
        lines += [f"{number} nvmlDeviceGet{symbol} {value}" for symbol, value in values if value is not None]
    return "\n".join(lines) + "\n"


def _system(gpus: list[GpuInfo]) -> Iterator[str]:
    yield f"* nvmlDeviceGetCount_v2 {len(gpus)}"
    if gpus[0].driver_version:
        yield f"* nvmlSystemGetDriverVersion {gpus[0].driver_version}"
    if gpus[0].cuda_version:
        major, _, minor = gpus[0].cuda_version.partition(".")
        yield f"* nvmlSystemGetCudaDriverVersion_v2 {int(major) * 1000 + int(minor) * 10}"


def _described(gpu: GpuInfo, now: GpuSample) -> Iterator[tuple[str, str | int | None]]:
    yield "Name", gpu.name
    yield "UUID", gpu.uuid
    yield "PciInfo", gpu.pci_address
    yield "VbiosVersion", gpu.vbios_version
    yield "CudaComputeCapability", gpu.compute_capability
    yield "NumGpuCores", gpu.shader_cores
    yield "MemoryBusWidth", gpu.memory.bus_width_bits
    yield "EnforcedPowerLimit", _scaled(gpu.power_limit_watts, _MILLI)
    yield "MaxPcieLinkGeneration", gpu.pcie.max_gen if gpu.pcie else None
    yield "MaxPcieLinkWidth", gpu.pcie.max_width if gpu.pcie else None
    # One line answers for all three; with unified memory there is none, and the replay finds it so.
    if gpu.memory.total_bytes is not None and now.memory_used_bytes is not None:
        yield (
            "MemoryInfo",
            f"{gpu.memory.total_bytes} {now.memory_used_bytes} {gpu.memory.reserved_bytes or 0}",
        )


def _sampled(now: GpuSample) -> Iterator[tuple[str, str | int | None]]:
    if now.utilization_ratio is not None and now.memory_controller_ratio is not None:
        shares = now.utilization_ratio, now.memory_controller_ratio
        yield "UtilizationRates", " ".join(str(round(share * _PERCENT)) for share in shares)
    yield "PowerUsage", _scaled(now.power_watts, _MILLI)
    yield "TotalEnergyConsumption", _scaled(now.energy_joules_total, _MILLI)
    yield "Temperature.0", _scaled(now.temperature_celsius, 1)
    yield "FanSpeed", _scaled(now.fan_ratio, _PERCENT)
    yield "CurrPcieLinkGeneration", now.pcie_gen
    yield "CurrPcieLinkWidth", now.pcie_width
    yield "TotalEccErrors", now.ecc_uncorrected
    if now.throttle_reasons is not None:
        # Bits that the agent has no name for are lost: they say nothing that a replay would show.
        mask = sum(bit for bit, name in THROTTLE_BITS.items() if name in now.throttle_reasons)
        yield "CurrentClocksEventReasons", mask
    if now.clocks is not None:
        hertz = now.clocks.graphics_hertz, now.clocks.sm_hertz, now.clocks.memory_hertz
        for kind, value in enumerate(hertz):
            yield f"ClockInfo.{kind}", None if value is None else value // _MEGA


def _processes(gpu: GpuInfo, ollama: tuple[OllamaProcess, ...]) -> Iterator[tuple[str, str]]:
    """Ollama's alone."""
    used = [f"{p.pid}:{p.gpu_memory_bytes[gpu.id]}" for p in ollama if gpu.id in p.gpu_memory_bytes]
    if used:
        yield "ComputeRunningProcesses", " ".join(used)


def _scaled(value: float | None, factor: int) -> int | None:
    return None if value is None else round(value * factor)
