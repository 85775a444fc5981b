"""What the providers of all vendors build alike. Pure."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from obt_agent.hardware.field_reader import FieldReader
from obt_agent.hardware.host.linux.pci import PciGpu
from obt_agent.hardware.inventory import GpuInfo, GpuMemory
from obt_agent.hardware.samples import GpuSample

StructT = TypeVar("StructT", bound=msgspec.Struct)

# A GPU that lacks a sensor works as it should; one whose driver gives errors or nonsense does not.
_FAULTS = ("driver_error", "malformed", "inconsistent")

_SLOW_FIELDS = (
    "slow_t_mono_ns",
    "energy_joules_total",
    "others_ratio",
    "throttle_reasons",
    "fan_ratio",
    "pcie_gen",
    "pcie_width",
    "ecc_uncorrected",
)


def from_bus(vendor: str, gpu: PciGpu, reason: str, *more: str, name: str | None = None) -> GpuInfo:
    """Return a GPU as far as the PCI bus shows it.

    Args:
        vendor: the provider's name.
        gpu: the device.
        reason: why nothing else is known: it sleeps, or its driver cannot be asked.
        more: fields that this vendor has beside the usual ones.
        name: from the database of PCI devices, where reading it was allowed.
    """
    fields = ("uuid", "integrated", "driver_version", "shader_cores", "power_limit_watts", *more)
    unknown = dict.fromkeys(fields if name else ("name", *fields), reason)
    return GpuInfo(
        id=gpu.address,
        vendor=vendor,
        provider=vendor,
        name=name,
        pci_address=gpu.address,
        driver=gpu.driver,
        memory=GpuMemory(unavailable={"kind": reason, "total_bytes": reason}),
        unavailable=unknown,
    )


def merged(fast: GpuSample, slow: GpuSample) -> GpuSample:
    """Return what is read at every tick, with what is read rarely as it was then."""
    reasons = fast.unavailable | slow.unavailable
    faulty = any(reason.startswith(_FAULTS) for reason in reasons.values())
    return msgspec.structs.replace(
        fast,
        state="degraded" if faulty else "ok",
        unavailable=reasons,
        **{field: getattr(slow, field) for field in _SLOW_FIELDS},
    )


def unless_empty(fields: FieldReader, field: str, group: StructT) -> StructT | None:
    """Return a group of readings, or None where it has none at all: then ``field`` keeps its reason."""
    if group == type(group)():
        return None
    fields.reasons.pop(field, None)
    return group
