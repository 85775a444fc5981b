"""Which GPU providers there are. A new one (Apple, Windows, Jetson, NPUs) is added here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from obt_agent.hardware.providers.amd import amd
from obt_agent.hardware.providers.base import GpuProvider
from obt_agent.hardware.providers.intel import intel
from obt_agent.hardware.providers.nvidia import NvidiaProvider
from obt_agent.hardware.providers.nvml_probe import Prober
from obt_agent.hardware.root import Root

if TYPE_CHECKING:
    from obt_agent.hardware.providers.nvml import Nvml


def gpu_providers(root: Root) -> tuple[GpuProvider, ...]:
    """All GPU providers; vendors' libraries are loaded for this machine, never for a snapshot."""
    nvidia = NvidiaProvider(root, _nvml, Prober()) if root.real else NvidiaProvider(root, None, None)
    return nvidia, amd(root), intel(root)


def _nvml() -> Nvml:
    from obt_agent.hardware.providers.nvml import Nvml  # noqa: PLC0415 -- only where there is a GPU to read

    return Nvml()
