"""The sampler of a run: watches the machine, keeps what an iteration needs, feeds the live series."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeVar

import msgspec
import structlog

from obt_agent.benchmark import resources
from obt_agent.benchmark.live import LiveSeries
from obt_agent.benchmark.model_processes import NOT_SEEN, ModelProcesses
from obt_agent.benchmark.resources import EdgeReading
from obt_agent.benchmark.result import Phase, ResourceSample, SamplerReport
from obt_agent.hardware.samples import OllamaProcess, Sample
from obt_agent.hardware.service import HardwareService

log = structlog.get_logger(__name__)

T = TypeVar("T")

_NS_PER_MS: Final = 1e6
# An iteration of hours keeps its latest samples; the live series keeps them all.
_BUFFER: Final = 20_000


class RunPhase(NamedTuple):
    """What the run does now, as the live series says it."""

    phase: Phase
    cell: int | None = None
    iteration: int | None = None


class Sampler:
    """Takes samples while open and not paused; an async context manager.

    Args:
        machine: where samples come from.
        interval_s: seconds between samples.
        reason: why, for the machine's log.
        series: where they go.
        select: which of Ollama's processes are the model's; samples show no others.
        doing: what the run does now, and its speed in tokens a second.
    """

    def __init__(
        self,
        machine: HardwareService,
        *,
        interval_s: float,
        reason: str,
        series: LiveSeries,
        select: Callable[[Sequence[OllamaProcess]], ModelProcesses],
        doing: Callable[[], tuple[RunPhase, float | None]],
    ) -> None:
        self._machine = machine
        self._interval_s = interval_s
        self._reason = reason
        self._series = series
        self._select = select
        self._doing = doing
        # Takes samples until it is cancelled by ``pause``; None while paused.
        self._task: asyncio.Task[None] | None = None
        # Notified at each sample and when no more will come.
        self._came = asyncio.Condition()
        # Zero of the live series' clock.
        self._start_ns = time.monotonic_ns()
        self._taken = 0
        # CPU time that taking them cost, as the hardware service says of each.
        self._cpu_us = 0
        # Ticks left out, over all resumptions: each watch counts from 0.
        self._missed = 0
        # The hardware service gave up, or a reading raised: the run goes on without samples.
        self._failed = False
        # Why the newest sample lacks a process of the model's.
        self.no_process: str | None = NOT_SEEN
        # Samples since the last ``forget``, and the one before it, which speaks for a window's beginning.
        self.recent: list[Sample] = []

    async def __aenter__(self) -> Self:
        self.resume()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.pause()

    @property
    def latest(self) -> Sample | None:
        """The newest sample; None before the first."""
        return self.recent[-1] if self.recent else None

    @property
    def missed(self) -> int:
        """Ticks left out so far."""
        return self._missed

    @property
    def running(self) -> bool:
        """Whether samples are being taken."""
        return self._task is not None and not self._failed

    def resume(self) -> None:
        """Take samples (again)."""
        if self._task is None:
            self._failed = False
            self._task = asyncio.create_task(self._keep_taking(), name="benchmark.sampler")

    async def pause(self) -> None:
        """Take no samples until resumed."""
        task, self._task = self._task, None
        if task is not None:
            # Waited for, so that no sample of the old watch comes after the pause.
            task.cancel()
            await asyncio.wait({task})

    def forget(self) -> None:
        """Drop what no iteration needs any more."""
        del self.recent[:-1]

    async def wait_next(self, timeout_s: float) -> Sample | None:
        """The next sample, or None when none comes in time."""
        before = self._taken
        try:
            async with asyncio.timeout(timeout_s), self._came:
                await self._came.wait_for(lambda: self._taken > before or not self.running)
        except TimeoutError:
            return None
        return self.latest if self._taken > before else None

    def report(self) -> SamplerReport:
        """What was taken, missed and spent so far."""
        elapsed_us = max((time.monotonic_ns() - self._start_ns) / 1e3, 1.0)
        return SamplerReport(
            interval_ms=self._interval_s * 1e3,
            samples=self._taken,
            missed=self._missed,
            cpu_percent=100 * self._cpu_us / elapsed_us if self._taken else None,
        )

    async def _keep_taking(self) -> None:
        try:
            async with self._machine.watch(self._interval_s, reason=self._reason) as watch:
                self._interval_s = watch.interval_s
                before = self._missed
                async for sample in watch:
                    self._missed = before + watch.missed
                    await self._take(sample)
        except Exception as error:  # noqa: BLE001 - a benchmark goes on without samples, and its result says so
            log.warning("benchmark.sampler_failed", error=str(error), kind=type(error).__name__)
        self._failed = True
        async with self._came:
            self._came.notify_all()

    async def _take(self, seen: Sample) -> None:
        chosen = self._select(seen.ollama)
        sample = msgspec.structs.replace(seen, ollama=chosen.processes)
        self.no_process = chosen.reason
        self.recent.append(sample)
        del self.recent[:-_BUFFER]
        self._cpu_us += sample.sampler.cpu_us if sample.sampler else 0
        doing, speed = self._doing()
        self._series.append(self._as_live(sample, doing, speed))
        async with self._came:
            self._taken += 1
            self._came.notify_all()

    def _as_live(self, sample: Sample, doing: RunPhase, speed: float | None) -> ResourceSample:
        return ResourceSample(
            n=self._series.next_n,
            t_ms=(sample.t_mono_ns - self._start_ns) / _NS_PER_MS,
            phase=doing.phase,
            cell=doing.cell,
            iteration=doing.iteration,
            tokens_per_second=speed,
            cpu_percent=resources.cpu_percent(sample),
            cpu_temperature=resources.cpu_temperature(sample),
            memory_used_mb=resources.memory_used(sample),
            ollama_cpu_percent=resources.ollama_cpu_percent(sample),
            # Before the model is loaded, what the server holds without it.
            ollama_rss_mb=resources.ollama_rss(sample) or resources.server_rss(sample),
            gpu_percent=resources.gpu_percent(sample),
            gpu_memory_used_mb=resources.gpu_memory_used(sample),
            gpu_power_watts=resources.gpu_power(sample),
            gpu_temperature=resources.gpu_temperature(sample),
            gpu_clock_mhz=resources.gpu_clock_mhz(sample),
        )


async def read_once(reading: Awaitable[T], *, what: str, timeout_s: float) -> T | None:
    """The reading, or None when it fails or takes too long: a driver's bad day ends no benchmark."""
    try:
        async with asyncio.timeout(timeout_s):
            return await reading
    except Exception as error:  # noqa: BLE001 - whatever a reading raises, the run goes on without it
        log.warning("benchmark.reading_failed", what=what, error=str(error), kind=type(error).__name__)
        return None


async def energy_edge(machine: HardwareService, timeout_s: float) -> EdgeReading | None:
    """The GPUs' energy counters, as of the middle of the reading; None when there are none."""
    began_ns = time.monotonic_ns()
    joules = await read_once(machine.energy_edges(), what="energy counters", timeout_s=timeout_s)
    return EdgeReading((began_ns + time.monotonic_ns()) // 2, joules) if joules else None
