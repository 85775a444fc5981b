"""Which GPU providers there are. A new one (Apple, Windows, Jetson, NPUs) is added here."""

from __future__ import annotations

from obt_agent.hardware.providers.base import GpuProvider
from obt_agent.hardware.root import Root


def gpu_providers(root: Root) -> tuple[GpuProvider, ...]:
    """All GPU providers, for the machine or snapshot under ``root``."""
    del root
    return ()
