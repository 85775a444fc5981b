"""Which GPU providers there are. A new one (Apple, Windows, Jetson, NPUs) is added here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from obt_agent.hardware.gpu.amd.provider import amd
from obt_agent.hardware.gpu.intel.provider import intel
from obt_agent.hardware.gpu.nvidia.probe import Prober
from obt_agent.hardware.gpu.nvidia.provider import NvidiaProvider
from obt_agent.hardware.provider import GpuProvider
from obt_agent.hardware.snapshot.root import Root

if TYPE_CHECKING:
    from obt_agent.hardware.gpu.nvidia.nvml import Nvml


def gpu_providers(root: Root) -> tuple[GpuProvider, ...]:
    """All GPU providers; vendors' libraries are loaded for this machine, never for a snapshot."""
    nvidia = NvidiaProvider(root, _nvml, Prober()) if root.real else NvidiaProvider(root, None, None)
    return nvidia, amd(root), intel(root)


def _nvml() -> Nvml:
    from obt_agent.hardware.gpu.nvidia.nvml import Nvml  # noqa: PLC0415 -- only where there is a GPU to read

    return Nvml()
