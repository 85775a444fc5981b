"""The inventory: what the machine is.

Null (absent on the wire) is "not known", never zero; the ``unavailable`` of the same struct then gives the
reason, by field: a word of ``field_reader.REASONS``, sometimes followed by ``: `` and words for a person.
Units stand in the names: ``_bytes``, ``_celsius``, ``_watts``, ``_joules``, ``_hertz``, ``_ratio`` (0 to 1,
except a process's ``cpu_ratio``, where 1 is one whole core). Names with no unit are counts, identifiers or
words. Every number is finite, and used <= total.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from obt_agent.wire_types import Int64

ProviderStatus = Literal["ok", "degraded", "stalled", "lost", "suspended", "absent"]
"""As ``GpuState``, for a source of readings; absent: this machine has nothing that the source could read."""

MemoryKind = Literal["dedicated", "unified", "carveout"]
"""Whose memory a GPU works in.

dedicated: its own. unified: one pool with the system's. carveout: a part of the system's memory that firmware
set aside; models live beside it in shared memory (``shared_total_bytes``), and the two are never summed.
"""

FoundBy = Literal["setting", "home", "usual_place"]


class Bios(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The firmware, from DMI."""

    vendor: str | None = None
    version: str | None = None
    date: str | None = None


class Board(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The mainboard or the whole machine, from DMI or the device tree. No serial number is ever read."""

    vendor: str | None = None
    name: str | None = None
    product: str | None = None


class HostInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The operating system and what it runs on.

    ``virtualization`` names the hypervisor (kvm, vmware, hyperv, xen ...) or is "none"; ``container`` the
    container that the agent itself runs in, or "none".
    """

    os: str | None = None
    distro: str | None = None
    kernel: str | None = None
    arch: str | None = None
    virtualization: str | None = None
    container: str | None = None
    wsl: bool | None = None
    bios: Bios | None = None
    board: Board | None = None
    ollama_version: str | None = None
    unavailable: dict[str, str] = {}


class CoreType(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One kind of core of a hybrid CPU. ``name`` is performance, efficiency or the kernel's word."""

    name: str
    logical_cores: Int64
    max_hertz: Int64 | None = None


class CpuInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The CPUs.

    ``isa`` holds the kernel's words for extensions that inference uses (avx2, avx512f, asimd, sve ...).
    ``governor`` is by what rule the kernel chooses clocks ("powersave"); several words where cores differ.
    """

    model: str | None = None
    vendor: str | None = None
    microcode: str | None = None
    sockets: Int64 | None = None
    physical_cores: Int64 | None = None
    logical_cores: Int64 | None = None
    core_types: tuple[CoreType, ...] = ()
    isa: tuple[str, ...] = ()
    base_hertz: Int64 | None = None
    max_hertz: Int64 | None = None
    numa_nodes: Int64 | None = None
    governor: str | None = None
    unavailable: dict[str, str] = {}


class MemoryModule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One populated slot (DMI type 17). ``speed_mt_s`` is the configured speed (megatransfers per second)."""

    size_bytes: Int64 | None = None
    type: str | None = None
    speed_mt_s: Int64 | None = None
    locator: str | None = None
    bank: str | None = None


class MemoryInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The system's memory. ``type`` and ``speed_mt_s`` are given where all modules agree."""

    total_bytes: Int64 | None = None
    swap_total_bytes: Int64 | None = None
    type: str | None = None
    speed_mt_s: Int64 | None = None
    modules: tuple[MemoryModule, ...] = ()
    unavailable: dict[str, str] = {}


class CgroupLimits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the control groups of Ollama's process allow it: the tightest of its group and all ancestors.

    Beyond ``memory_bytes`` a process is killed; beyond ``memory_high_bytes`` (version 2) the kernel slows it
    down and takes memory back. ``cpus`` is a bandwidth in whole CPUs (1.5 is one and a half); ``cpuset`` the
    kernel's list ("0-3,8") of the CPUs that it may use, where they are fewer than the machine's. A null with
    no reason in ``unavailable`` means that there is no limit.
    """

    memory_bytes: Int64 | None = None
    memory_high_bytes: Int64 | None = None
    cpus: float | None = None
    cpuset: str | None = None
    cgroup_version: Int64 | None = None
    unavailable: dict[str, str] = {}


class GpuMemory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A GPU's own memory, and that which it may use of the system's.

    ``reserved_bytes`` is the part of ``total_bytes`` that driver and firmware keep. ``shared_total_bytes`` is
    another pool, never summed with it. ``type`` is null where no interface names it.
    """

    kind: MemoryKind | None = None
    total_bytes: Int64 | None = None
    reserved_bytes: Int64 | None = None
    shared_total_bytes: Int64 | None = None
    bus_width_bits: Int64 | None = None
    type: str | None = None
    unavailable: dict[str, str] = {}


class GpuPcie(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fastest PCIe link that device and slot allow together."""

    max_gen: Int64 | None = None
    max_width: Int64 | None = None


class MigInstance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One MIG device: a part of an NVIDIA GPU that programs see as a GPU of its own. ``id`` is its UUID."""

    id: str
    name: str | None = None
    gpu_instance_id: Int64 | None = None
    compute_instance_id: Int64 | None = None
    multiprocessors: Int64 | None = None
    memory_total_bytes: Int64 | None = None


class Mig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Multi-Instance GPU: whether it is on, and its instances."""

    enabled: bool
    max_instances: Int64 | None = None
    instances: tuple[MigInstance, ...] = ()


class GpuInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One GPU.

    ``id`` is its UUID, else its PCI address, and is what samples use; ``index`` is the driver's order of
    today and identifies nothing. ``provider`` names the source, ``driver`` the kernel driver.

    ``shader_cores`` counts what the vendor counts (CUDA cores, stream processors, vector engines).
    """

    id: str
    vendor: str
    provider: str
    index: Int64 | None = None
    name: str | None = None
    uuid: str | None = None
    pci_address: str | None = None
    integrated: bool | None = None
    backend: str | None = None
    driver: str | None = None
    driver_version: str | None = None
    vbios_version: str | None = None
    cuda_version: str | None = None
    compute_capability: str | None = None
    gfx_target: str | None = None
    shader_cores: Int64 | None = None
    memory: GpuMemory = GpuMemory()
    pcie: GpuPcie | None = None
    power_limit_watts: float | None = None
    mig: Mig | None = None
    unavailable: dict[str, str] = {}


class NpuInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One neural processing unit. No provider finds any yet."""

    id: str
    vendor: str | None = None
    name: str | None = None
    driver: str | None = None


class StorageInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file system that matters: ``purpose`` is "models" for Ollama's model store. No path is given.

    ``found_by`` says what the store's place rests on: Ollama's own ``setting``, the ``home`` of its user, or
    a ``usual_place`` of its packages. The last two are wrong where OLLAMA_MODELS is set and cannot be seen.
    ``kind`` is nvme, ssd, hdd, mmc (SD cards, eMMC), virtual, network or memory. ``free_bytes`` is what an
    unprivileged user may fill, as of ``collected_at``; it takes no part in the fingerprint.
    """

    purpose: str
    found_by: FoundBy | None = None
    filesystem: str | None = None
    kind: str | None = None
    model: str | None = None
    total_bytes: Int64 | None = None
    free_bytes: Int64 | None = None
    unavailable: dict[str, str] = {}


class ProviderState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One source of readings.

    ``reason`` says for a person why it is not ok. ``verified`` tells whether what it reads was ever compared
    with another tool on such hardware; otherwise it rests on documents and recorded trees.
    """

    name: str
    status: ProviderStatus
    reason: str | None = None
    version: str | None = None
    verified: bool = False


class Inventory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the machine is.

    ``fingerprint`` changes when something of it does, free space and times excepted. ``collected_at`` is Unix
    seconds.
    """

    fingerprint: str
    collected_at: float
    host: HostInfo = HostInfo()
    cpu: CpuInfo = CpuInfo()
    memory: MemoryInfo = MemoryInfo()
    limits: CgroupLimits = CgroupLimits()
    gpus: tuple[GpuInfo, ...] = ()
    npus: tuple[NpuInfo, ...] = ()
    storage: tuple[StorageInfo, ...] = ()
    providers: tuple[ProviderState, ...] = ()
