"""What NVIDIA's GPUs are."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from obt_agent.hardware.field_reader import FieldReader, optional
from obt_agent.hardware.gpu.readings import from_bus, unless_empty
from obt_agent.hardware.host.linux import pci
from obt_agent.hardware.host.linux.memory import system_bytes
from obt_agent.hardware.inventory import GpuInfo, GpuMemory, GpuPcie, Mig, MigInstance
from obt_agent.hardware.snapshot.root import Root

if TYPE_CHECKING:  # the library's bindings take 2 MB: they are loaded where there is a GPU
    from obt_agent.hardware.gpu.nvidia.nvml import Device, Nvml

NAME = "nvidia"
_MOST_MIG_INSTANCES = 16

# Fields of an NVIDIA GPU that other vendors' lack.
_OWN_FIELDS = ("cuda_version", "compute_capability")


def describe(root: Root, nvml: Nvml, device: Device) -> GpuInfo:
    """Return one GPU, as the driver describes it. Never raises."""
    fields = FieldReader()
    uuid = fields.read("uuid", device.uuid)
    address = fields.read("pci_address", device.pci_address)
    memory = describe_memory(root, device)
    pcie = GpuPcie(
        max_gen=fields.read("pcie", device.max_pcie_gen), max_width=fields.read("pcie", device.max_pcie_width)
    )
    return GpuInfo(
        id=uuid or address or f"nvidia-{device.index}",
        vendor=NAME,
        provider=NAME,
        index=device.index,
        name=fields.read("name", device.name),
        uuid=uuid,
        pci_address=address,
        integrated=None if memory.kind is None else memory.kind == "unified",
        backend="cuda",
        driver="nvidia",
        driver_version=fields.read("driver_version", nvml.driver_version),
        vbios_version=fields.read("vbios_version", device.vbios_version),
        cuda_version=fields.read("cuda_version", nvml.cuda_version),
        compute_capability=fields.read("compute_capability", device.compute_capability),
        shader_cores=fields.read("shader_cores", device.cores),
        memory=memory,
        pcie=unless_empty(fields, "pcie", pcie),
        power_limit_watts=fields.read("power_limit_watts", device.power_limit_watts),
        mig=_mig(device),
        unavailable=fields.reasons,
    )


def describe_memory(root: Root, device: Device) -> GpuMemory:
    """Return the GPU's memory; where the driver supports no such reading, the GPU works in the system's."""
    fields = FieldReader()
    memory = fields.read("total_bytes", device.memory)
    # GB10 and Jetson have no memory of their own, and answer so; a driver that fails answers otherwise.
    unified = fields.reasons.get("total_bytes") == "not_supported"
    if unified:
        fields.note("total_bytes", "unified_memory")
    if memory is not None and "reserved_bytes" in memory.reasons:
        fields.note("reserved_bytes", memory.reasons["reserved_bytes"])
    fields.note("type", "no_source")
    return GpuMemory(
        kind="unified" if unified else None if memory is None else "dedicated",
        total_bytes=memory.total if memory else None,
        reserved_bytes=memory.reserved if memory else None,
        shared_total_bytes=fields.read("shared_total_bytes", partial(system_bytes, root))
        if unified
        else None,
        bus_width_bits=fields.read("bus_width_bits", device.bus_width_bits),
        unavailable=fields.reasons,
    )


def without_library(root: Root, gpu: pci.PciGpu, reason: str) -> GpuInfo:
    """Return one GPU as far as the bus shows it: its driver cannot be asked, for the reason given."""
    # The name is read from the kernel's files, which would wake a GPU that sleeps.
    fields = FieldReader()
    name = None if reason == "suspended" else fields.read("name", partial(pci.name, root, gpu.path))
    info = from_bus(NAME, gpu, reason, *_OWN_FIELDS, name=name)
    return msgspec.structs.replace(info, unavailable=info.unavailable | fields.reasons)


def _mig(device: Device) -> Mig | None:
    """None where the GPU cannot be divided, which needs no reason."""
    # GPUs that cannot be divided refuse the question.
    enabled = optional(device.mig_enabled)
    if enabled is None:
        return None
    most = optional(device.max_mig_instances)
    found = instances(device, most or 0) if enabled else ()
    return Mig(enabled=enabled, max_instances=most, instances=tuple(map(_instance, found)))


def instances(device: Device, most: int) -> tuple[Device, ...]:
    """Return the MIG instances that exist."""
    # Parts have numbers with holes: those that are not in use are refused.
    numbers = range(min(most, _MOST_MIG_INSTANCES))
    found = (optional(partial(device.mig_instance, number)) for number in numbers)
    return tuple(instance for instance in found if instance is not None)


def _instance(instance: Device) -> MigInstance:
    memory = optional(instance.memory)
    return MigInstance(
        id=optional(instance.uuid) or f"mig-{instance.index}",
        name=optional(instance.name),
        gpu_instance_id=optional(instance.gpu_instance_id),
        compute_instance_id=optional(instance.compute_instance_id),
        multiprocessors=optional(instance.multiprocessors),
        memory_total_bytes=memory.total if memory else None,
    )
