"""OBT's own ``HardwareInfo``, derived from the inventory for servers that still want it. Pure.

Its numbers and required words must not be null, so what is not known is 0 or "unknown" there, and only there.
Sizes are in MB of 2^20 bytes, clocks in GHz. Nothing that the inventory lacks is filled in from a table of
guesses: ``tensor_cores`` is always absent, ``vram_type`` "unknown" unless a provider names it. Types and
names are those that OBT's models accept (``tests/obt/fields.py`` lists them).
"""

from __future__ import annotations

import re

import msgspec

from obt_agent.hardware.inventory import (
    CoreType,
    CpuInfo,
    GpuInfo,
    HostInfo,
    Inventory,
    MemoryInfo,
    MemoryModule,
)
from obt_agent.wire_types import Int64

# What stands where OBT's form demands a word and the machine gave none.
_UNKNOWN = "unknown"
_MB = 1 << 20
_GIGA = 1_000_000_000
# In the names of slots, as "P0 CHANNEL A" or "ChannelB-DIMM0"; boards spell it in many ways.
_CHANNEL = re.compile(r"channel[ _-]?([a-z0-9]+)", re.IGNORECASE)


class LegacyCoreTypes(msgspec.Struct, frozen=True, kw_only=True):
    """``cpu.core_types`` of a processor with two kinds of core, counted as the system schedules on them."""

    performance_cores: Int64
    efficiency_cores: Int64


class LegacyCpu(msgspec.Struct, frozen=True, kw_only=True):
    """``cpu``; clocks in GHz, 0 where unknown."""

    name: str
    architecture: str
    base_clock: float
    boost_clock: float | None
    cores: Int64
    threads: Int64
    core_types: LegacyCoreTypes | None
    features: tuple[str, ...]


class LegacyGpu(msgspec.Struct, frozen=True, kw_only=True):
    """One of ``gpus``.

    ``vram_size`` is in MB (of unified memory, what it shares), else 0; ``pcie_width`` is a word like ``x16``.
    """

    name: str
    vram_size: Int64
    vram_type: str
    tensor_cores: Int64 | None
    cuda_cores: Int64 | None
    compute_capability: str | None
    pcie_gen: Int64 | None
    pcie_width: str | None
    index: Int64


class LegacyModule(msgspec.Struct, frozen=True, kw_only=True):
    """One of ``ram.modules``; size in MB, speed in MT/s."""

    size: Int64
    speed: Int64
    location: str
    type: str


class LegacyRam(msgspec.Struct, frozen=True, kw_only=True):
    """``ram``; ``channels`` counts those that the slots' names tell of, 0 where they tell of none."""

    speed: Int64
    type: str
    channels: Int64
    modules: tuple[LegacyModule, ...]


class LegacyFirmware(msgspec.Struct, frozen=True, kw_only=True):
    """``firmware``."""

    bios_version: str
    bios_vendor: str
    bios_release_date: str
    cpu_microcode: str
    os_name: str
    os_version: str
    os_kernel: str
    ollama_version: str


class LegacyNpu(msgspec.Struct, frozen=True, kw_only=True):
    """``npu``; no source says what it computes, so that its name is all that is ever given."""

    name: str | None
    compute_power: float | None = None
    precision_support: tuple[str, ...] | None = None
    dedicated: bool | None = None


class LegacyHardwareInfo(msgspec.Struct, frozen=True, kw_only=True):
    """OBT's ``HardwareInfo``; ``total_memory`` in MB, ``npu`` the first of several."""

    cpu: LegacyCpu
    gpus: tuple[LegacyGpu, ...]
    ram: LegacyRam
    npu: LegacyNpu | None
    total_memory: Int64
    firmware: LegacyFirmware


def legacy_hardware_info(inventory: Inventory, ollama_version: str | None = None) -> LegacyHardwareInfo:
    """Derive it; ``ollama_version`` is used where the inventory has none."""
    return LegacyHardwareInfo(
        cpu=_cpu(inventory.cpu, inventory.host),
        gpus=tuple(_gpu(gpu, place) for place, gpu in enumerate(inventory.gpus)),
        ram=_ram(inventory.memory),
        npu=LegacyNpu(name=inventory.npus[0].name) if inventory.npus else None,
        total_memory=_megabytes(inventory.memory.total_bytes),
        firmware=_firmware(inventory, ollama_version),
    )


def _cpu(cpu: CpuInfo, host: HostInfo) -> LegacyCpu:
    return LegacyCpu(
        name=cpu.model or _UNKNOWN,
        architecture=host.arch or _UNKNOWN,
        base_clock=(cpu.base_hertz or 0) / _GIGA,
        boost_clock=cpu.max_hertz / _GIGA if cpu.max_hertz else None,
        cores=cpu.physical_cores or 0,
        threads=cpu.logical_cores or 0,
        core_types=_core_types(cpu.core_types),
        features=cpu.isa,
    )


def _core_types(kinds: tuple[CoreType, ...]) -> LegacyCoreTypes | None:
    """OBT has two kinds: the fastest, and all others. Which is the fastest is told by name or by clock."""
    if not kinds:
        return None
    named = next((kind for kind in kinds if kind.name == "performance"), None)
    clocks = {kind.max_hertz for kind in kinds}
    # Arm names its kinds by part number: without clocks to compare, nothing says which is which.
    if named is None and (None in clocks or len(clocks) == 1):
        return None
    fastest = named or max(kinds, key=lambda kind: kind.max_hertz or 0)
    others = sum(kind.logical_cores for kind in kinds) - fastest.logical_cores
    return LegacyCoreTypes(performance_cores=fastest.logical_cores, efficiency_cores=others)


def _gpu(gpu: GpuInfo, place: int) -> LegacyGpu:
    memory, width = gpu.memory, gpu.pcie.max_width if gpu.pcie else None
    return LegacyGpu(
        name=gpu.name or _UNKNOWN,
        vram_size=_megabytes(memory.shared_total_bytes if memory.kind == "unified" else memory.total_bytes),
        vram_type=memory.type or _UNKNOWN,
        tensor_cores=None,
        cuda_cores=gpu.shader_cores if gpu.backend == "cuda" else None,
        compute_capability=gpu.compute_capability,
        pcie_gen=gpu.pcie.max_gen if gpu.pcie else None,
        pcie_width=None if width is None else f"x{width}",
        index=place if gpu.index is None else gpu.index,
    )


def _ram(memory: MemoryInfo) -> LegacyRam:
    return LegacyRam(
        speed=memory.speed_mt_s or 0,
        type=memory.type or _UNKNOWN,
        channels=_channels(memory.modules),
        modules=tuple(map(_module, memory.modules)),
    )


def _module(module: MemoryModule) -> LegacyModule:
    return LegacyModule(
        size=_megabytes(module.size_bytes),
        speed=module.speed_mt_s or 0,
        location=module.locator or _UNKNOWN,
        type=module.type or _UNKNOWN,
    )


def _channels(modules: tuple[MemoryModule, ...]) -> int:
    named = [_CHANNEL.search(f"{module.bank or ''} {module.locator or ''}") for module in modules]
    # A count of some slots would be taken for the count of all.
    if not all(named):
        return 0
    return len({(match.string[: match.start()], match[1].lower()) for match in named if match})


def _firmware(inventory: Inventory, ollama_version: str | None) -> LegacyFirmware:
    host, bios = inventory.host, inventory.host.bios
    return LegacyFirmware(
        bios_version=(bios and bios.version) or _UNKNOWN,
        bios_vendor=(bios and bios.vendor) or _UNKNOWN,
        bios_release_date=(bios and bios.date) or _UNKNOWN,
        cpu_microcode=inventory.cpu.microcode or _UNKNOWN,
        os_name=host.os or _UNKNOWN,
        os_version=host.distro or _UNKNOWN,
        os_kernel=host.kernel or _UNKNOWN,
        ollama_version=host.ollama_version or ollama_version or _UNKNOWN,
    )


def _megabytes(size: int | None) -> int:
    return (size or 0) // _MB
