"""The vendors of GPUs: one row for each. What a row holds, ``vendor`` says; see "Add a GPU vendor"."""

from __future__ import annotations

import sys

from obt_agent.hardware.gpu.amd.vendor import AMD
from obt_agent.hardware.gpu.apple.vendor import APPLE
from obt_agent.hardware.gpu.intel.vendor import INTEL
from obt_agent.hardware.gpu.nvidia.vendor import NVIDIA
from obt_agent.hardware.gpu.vendor import Vendor
from obt_agent.hardware.provider import GpuProvider
from obt_agent.hardware.snapshot.root import Root

VENDORS: tuple[Vendor, ...] = (
    NVIDIA,
    AMD,
    INTEL,
    APPLE,
)

TOPOLOGY = tuple(dict.fromkeys(path for vendor in VENDORS for path in vendor.topology))
"""What the host's reader watches beside its own places, to notice drivers that come and go."""


def gpu_providers(root: Root) -> tuple[GpuProvider, ...]:
    """Return the providers of the vendors that this machine's system, or a snapshot's, can read."""
    system = sys.platform if root.real else "linux"
    return tuple(vendor.provider(root) for vendor in VENDORS if system in vendor.systems)
