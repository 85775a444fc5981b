"""A GPU provider in its own thread, behind a watchdog.

Whatever the vendor's library does, the rest goes on: a call that does not come back is left alone and its
provider called stalled; one that fails is probed again later, after 30 s at first and 10 min at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import structlog

from obt_agent.daemon_thread import DaemonThread, Stalled
from obt_agent.hardware.inventory import GpuInfo, ProviderState
from obt_agent.hardware.provider import CostGroup, GpuProvider, GpuReadings, unread
from obt_agent.hardware.samples import GpuState

T = TypeVar("T")

log = structlog.get_logger(__name__)

_WELL = ("ok", "suspended", "absent")


@dataclass(frozen=True, slots=True)
class Timings:
    """How long calls may take, and how often what is not at every tick is done; in seconds.

    These are no configuration: nobody needs other values but a test that cannot wait for them.
    """

    # Fans, throttle reasons, PCIe link and the like: drivers serialise on them, so they are read this often.
    slow_interval_s: float = 5.0
    # How often to look whether devices, drivers or Ollama's process changed.
    check_interval_s: float = 30.0
    # A call to a GPU's driver that takes longer is stalled: its GPUs are shown as such from then on.
    gpu_deadline_s: float = 2.0
    # Reading the host's own values. They come from memory, so that only a machine in great trouble gets here.
    host_deadline_s: float = 10.0
    # Loading a driver's library and counting its GPUs, which wakes some of them.
    probe_deadline_s: float = 15.0
    # What is stalled, lost or degraded is probed again after the first, doubling up to the second.
    retry_first_s: float = 30.0
    retry_most_s: float = 600.0
    # A driver's thread that has not come back by then is left behind when the process ends.
    close_deadline_s: float = 1.0


class ProviderSupervisor:
    """Asks one provider, and knows how it is. Nothing of it raises but cancellation."""

    def __init__(
        self,
        provider: GpuProvider,
        timings: Timings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._provider = provider
        self._timings = timings
        self._clock = clock
        self._worker = DaemonThread(f"hardware-{provider.name}")
        # Until what is not well is probed again; doubles with each failure.
        self._delay_s = timings.retry_first_s
        # When that is due (the clock's seconds); None while all is well.
        self._retry_at: float | None = None
        # While a probe is out, samples must not queue behind it, for it may take 15 s.
        self._probing = False
        self.state = ProviderState(name=provider.name, status="absent", reason="not probed yet")
        self.gpus: tuple[GpuInfo, ...] = ()

    @property
    def name(self) -> str:
        """The provider's."""
        return self._provider.name

    @property
    def cpu_ns(self) -> int:
        """Processor time that its thread took."""
        return self._worker.cpu_ns

    @property
    def due(self) -> bool:
        """Whether it is time to look again at what was not well."""
        return self._retry_at is not None and self._clock() >= self._retry_at and not self._worker.busy

    async def refresh(self) -> None:
        """Probe, and describe the GPUs anew."""
        before = self.state.status
        self._probing = True
        try:
            await self._refresh()
        finally:
            self._probing = False
        if self.state.status != before:
            log.info(
                "hardware.provider", provider=self.name, status=self.state.status, reason=self.state.reason
            )

    async def sample(self, group: CostGroup, pids: tuple[int, ...]) -> GpuReadings:
        """The GPUs now; those of a provider that is not well are there too, with its state and no numbers."""
        if self.state.status == "absent":
            return GpuReadings()
        if self._probing:
            return self._unread("degraded", "not_reported: its driver is being probed")
        if self.state.status == "stalled" or self._worker.busy:
            return self._unread("stalled", "stalled")
        readings = await self._ask(lambda: self._sample(group, pids), self._timings.gpu_deadline_s)
        if readings is None:
            return self._unread(*self._why())
        self._notice(readings)
        return readings

    async def energy(self) -> dict[str, float]:
        """Energy counters in joules by GPU id, of GPUs that can be read."""
        if self._probing or self.state.status in ("absent", "stalled", "suspended"):
            return {}
        return await self._ask(self._provider.energy, self._timings.gpu_deadline_s) or {}

    async def close(self) -> None:
        """Let the provider go if it answers; within ``close_deadline_s`` in any case."""
        if not self._worker.busy:
            with contextlib.suppress(Exception):
                await self._worker.call(self._provider.close, deadline_s=self._timings.close_deadline_s)
        self._worker.close()

    async def _refresh(self) -> None:
        state = await self._ask(self._provider.probe, self._timings.probe_deadline_s)
        if state is None:
            return
        gpus = await self._ask(self._provider.inventory, self._timings.probe_deadline_s)
        if gpus is None:
            return
        self.state, self.gpus = state, gpus
        if state.status in _WELL:
            self._delay_s, self._retry_at = self._timings.retry_first_s, None
        else:
            self._later()

    def _sample(self, group: CostGroup, pids: tuple[int, ...]) -> GpuReadings:
        self._provider.follow(pids)
        return self._provider.sample(group)

    async def _ask(self, function: Callable[[], T], deadline_s: float) -> T | None:
        try:
            return await self._worker.call(function, deadline_s=deadline_s)
        except Stalled as error:
            self._fell("stalled", str(error))
        except Exception as error:  # a provider's fault must not end the sampler
            log.exception("hardware.provider_raised", provider=self.name)
            self._fell("degraded", f"raised {type(error).__name__}")
        return None

    def _notice(self, readings: GpuReadings) -> None:
        """A lost GPU, or one that woke, sends the provider to be probed again."""
        states = {gpu.state for gpu in readings.gpus}
        if "lost" in states and self.state.status != "lost":
            self._fell("lost", "a GPU is lost")
        elif "suspended" in states and self.state.status == "ok":
            self.state = msgspec.structs.replace(self.state, status="suspended", reason="suspended")
        elif self.state.status == "suspended" and "suspended" not in states and self._retry_at is None:
            self._retry_at = self._clock()

    def _fell(self, status: GpuState, reason: str) -> None:
        if self.state.status != status:
            log.warning("hardware.provider", provider=self.name, status=status, reason=reason)
        self.state = msgspec.structs.replace(self.state, status=status, reason=reason)
        self._later()

    def _later(self) -> None:
        self._retry_at = self._clock() + self._delay_s
        self._delay_s = min(self._delay_s * 2, self._timings.retry_most_s)

    def _why(self) -> tuple[GpuState, str]:
        """State and reason for GPUs of a provider whose call just failed."""
        return ("stalled", "stalled") if self.state.status == "stalled" else ("degraded", "driver_error")

    def _unread(self, state: GpuState, reason: str) -> GpuReadings:
        return GpuReadings(tuple(unread(gpu.id, state, reason) for gpu in self.gpus))


async def refresh_all(guards: tuple[ProviderSupervisor, ...]) -> None:
    """Refresh them side by side."""
    async with asyncio.TaskGroup() as group:
        for guard in guards:
            group.create_task(guard.refresh(), name=f"hardware.refresh.{guard.name}")
