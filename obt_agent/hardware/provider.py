"""What a provider of GPUs offers.

A provider is used from one thread at a time, and owns its files and handles. ``probe`` looks whether there is
anything to read, ``inventory`` describes it, ``sample`` reads what changes, ``close`` lets go; after
``close`` the next ``probe`` starts afresh. No exception leaves any of them: what cannot be read is null, with
the reason. Providers for other systems (Apple, Windows, Jetson, NPUs) implement the same and are named in
``gpu.registry``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from obt_agent.hardware.inventory import GpuInfo, ProviderState, ProviderStatus
from obt_agent.hardware.samples import GpuSample, GpuState


class CostGroup(enum.Flag):
    """What to read, by what it costs the driver."""

    FAST = enum.auto()
    """Utilisation, memory, power, temperature, clocks: at every tick."""
    SLOW = enum.auto()
    """Fans, throttle reasons, PCIe link, ECC, energy, processes: every 5 to 10 s, as drivers serialise."""


@dataclass(frozen=True, slots=True)
class GpuReadings:
    """What a GPU provider's ``sample`` gives.

    The GPUs; the GPU memory of processes in bytes, by PID and GPU id; and why it is not known, by PID.
    """

    gpus: tuple[GpuSample, ...] = ()
    process_memory: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    process_reasons: Mapping[int, str] = field(default_factory=dict)


class GpuProvider(Protocol):
    """The GPUs of one vendor."""

    @property
    def name(self) -> str:
        """The word in ``ProviderState.name``."""

    def probe(self) -> ProviderState:
        """Return whether and how well it can be read now."""

    def inventory(self) -> tuple[GpuInfo, ...]:
        """Return what is there."""

    def sample(self, group: CostGroup) -> GpuReadings:
        """Return what it does now."""

    def close(self) -> None:
        """Let go of files and handles."""

    def energy(self) -> dict[str, float]:
        """Return the energy counters as they are now, in joules by GPU id, of those GPUs that have one."""

    def follow(self, pids: tuple[int, ...]) -> None:
        """Take Ollama's processes, for providers that must examine each to know its GPU memory."""


def state_of(name: str, reason: str | None, *, verified: bool) -> ProviderState:
    """Return a provider's state: ok with no reason, degraded with one."""
    status: ProviderStatus = "ok" if reason is None else "degraded"
    return ProviderState(name=name, status=status, reason=reason, verified=verified)


# Not read from the device, or without a reason of their own when they are missing.
_NOT_MEASURED = ("id", "state", "t_mono_ns", "slow_t_mono_ns", "mig", "unavailable")
_MEASURED = tuple(name for name in GpuSample.__struct_fields__ if name not in _NOT_MEASURED)


def unread(gpu: str, state: GpuState, reason: str) -> GpuSample:
    """Return a sample of a GPU of which nothing can be read, and why."""
    return GpuSample(id=gpu, state=state, unavailable=dict.fromkeys(_MEASURED, reason))
