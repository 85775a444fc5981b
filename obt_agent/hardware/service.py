"""What the machine is and does, for the event loop; everything is read in threads of its own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import structlog

from obt_agent.config.schema import HardwareConfig
from obt_agent.daemon_thread import DaemonThread, Stalled
from obt_agent.hardware.combine import assemble, combine
from obt_agent.hardware.gpu.registry import TOPOLOGY, gpu_providers
from obt_agent.hardware.host.reader import LOCAL_OLLAMA_URL, HostReader
from obt_agent.hardware.inventory import Inventory, ProviderState, StorageInfo
from obt_agent.hardware.provider import CostGroup, GpuProvider, GpuReadings, state_of
from obt_agent.hardware.samples import Sample, SamplerSample
from obt_agent.hardware.sampling_schedule import SampleStream, Ticks
from obt_agent.hardware.snapshot.root import open_root
from obt_agent.hardware.supervisor import ProviderSupervisor, Timings, refresh_all
from obt_agent.hardware.temperatures import LowestTemperatures

__all__ = ["HardwareService", "SampleStream", "SamplerCost"]

log = structlog.get_logger(__name__)

# The inventory is collected so often though nothing seems to have changed: no sign tells of everything.
_HOURLY_S = 3600.0


@dataclass(frozen=True, slots=True)
class SamplerCost:
    """What sampling cost since the service started: its share of one core, samples taken, ticks missed."""

    cpu_ratio: float
    samples: int
    missed: int


class HardwareService:
    """Knows what the machine is and does. One per agent; used from one event loop.

    Args:
        config: how often to sample.
        ollama_url: whether it leads to this machine decides whether to look for Ollama's processes here.
        root: "/", or the folder of a snapshot.
        providers: the GPU providers; those for this machine when omitted.
        timings: deadlines, and the intervals that no configuration needs.
    """

    def __init__(
        self,
        config: HardwareConfig,
        *,
        ollama_url: str = LOCAL_OLLAMA_URL,
        root: Path = Path("/"),
        providers: Iterable[GpuProvider] | None = None,
        timings: Timings = Timings(),  # noqa: B008 -- frozen
    ) -> None:
        self._config = config
        self._timings = timings
        files = open_root(root)
        self._host = HostReader(files, ollama_url)
        self._host_worker = DaemonThread("hardware-host")
        self._storage = self._host.storage
        self._storage_worker = DaemonThread("hardware-storage")
        found = gpu_providers(files) if providers is None else tuple(providers)
        self._guards = tuple(ProviderSupervisor(provider, timings) for provider in found)
        self._tasks: list[asyncio.Task[None]] = []
        # Everybody who follows samples; the fastest of them sets the cadence.
        self._watches: set[SampleStream] = set()
        # Whether Ollama has a model in memory: then it is worth sampling at the active interval.
        self._loaded = False
        # Set when the sampler must not sleep until the tick that it had in mind.
        self._cadence_changed = asyncio.Event()
        # Somebody wants a sample now; else a change of cadence only moves the next tick.
        self._sample_now = False
        # Set when the inventory is to be collected before the next check.
        self._inventory_due = asyncio.Event()
        self._inventory: Inventory | None = None
        # Notified with each new inventory.
        self._changed = asyncio.Condition()
        # One collection, and one sample, at a time: the second waits and takes the result of the first.
        self._collecting = asyncio.Lock()
        self._sampling = asyncio.Lock()
        self._ollama_version: str | None = None
        # Another version answers: its process may be a new program under a known PID.
        self._ollama_changed = False
        # As of the last inventory; another one now means that devices or drivers changed.
        self._topology: tuple[str, ...] = ()
        self._ticks = Ticks()
        self._samples = 0
        # When the rarely read group of the GPUs is due again.
        self._slow_due_ns = 0
        self._started_ns = time.monotonic_ns()
        # Processor time of the event loop for sampling, and of everything at the last sample.
        self._loop_ns = 0
        self._cpu_at_last_ns = 0
        self._server_pid: int | None = None
        # Of the last sample: providers that must examine each process are told these.
        self._pids: tuple[int, ...] = ()
        self.latest: Sample | None = None
        """The newest sample, or None before the first."""
        self.lowest_temperatures = LowestTemperatures()

    async def start(self) -> None:
        """Begin to collect and to sample, in the background."""
        self._tasks = [
            asyncio.create_task(self._keep_inventory(), name="hardware.inventory"),
            asyncio.create_task(self._keep_sampling(), name="hardware.sampler"),
        ]

    async def close(self) -> None:
        """Stop. Bounded by ``close_deadline_s`` even when a driver hangs: its thread is left behind."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for watch in self._watches:
            watch.end()
        await asyncio.gather(*(guard.close() for guard in self._guards))
        with contextlib.suppress(Stalled):
            await self._host_worker.call(self._host.close, deadline_s=self._timings.close_deadline_s)
        self._host_worker.close()
        self._storage_worker.close()

    async def inventory(self, *, refresh: bool = False) -> Inventory:
        """What the machine is, as last collected; collected now when ``refresh`` or never collected before.

        Raises:
            Stalled: the kernel's own files did not come within ``host_deadline_s``.
        """
        before = self._inventory
        async with self._collecting:
            if self._inventory is None or (refresh and self._inventory is before):
                await self._collect()
        assert self._inventory is not None  # noqa: S101 -- _collect sets it or raises
        return self._inventory

    async def model_store(self) -> StorageInfo | None:
        """The disk that holds Ollama's models, read now; None when it is not to be found.

        Raises:
            Stalled: the kernel's own files did not come within ``host_deadline_s``.
        """
        # The first inventory finds Ollama's process, which tells where its models are.
        await self.inventory()
        found, _ = await self._collect_storage()
        return found[0] if found else None

    async def wait_inventory_changed(self, after_fingerprint: str) -> Inventory:
        """The first inventory whose fingerprint is another one; waits until there is one."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_other(after_fingerprint))
            assert self._inventory is not None  # noqa: S101 -- the condition says so
            return self._inventory

    async def sample(self) -> Sample:
        """A fresh sample; the latest when that is younger than ``min_interval_s``.

        Raises:
            Stalled: the kernel's own files did not come within ``host_deadline_s``.
        """
        async with self._sampling:
            age_ns = time.monotonic_ns() - self.latest.t_mono_ns if self.latest else None
            if self.latest is not None and age_ns is not None and age_ns < self._config.min_interval_s * 1e9:
                return self.latest
            return await self._take()

    async def energy_edges(self) -> dict[str, float]:
        """Energy counters read now, in joules by GPU id: differences between two calls are exact.

        GPUs with no counter, or whose driver does not answer, are left out.
        """
        found = await asyncio.gather(*(guard.energy() for guard in self._guards))
        return {gpu: joules for energies in found for gpu, joules in energies.items()}

    @contextlib.asynccontextmanager
    async def watch(self, interval_s: float, *, reason: str) -> AsyncIterator[SampleStream]:
        """Samples every ``interval_s``, or ``min_interval_s`` where that is longer, while the context lasts.

        The sampler's cadence is that of the fastest watch.
        """
        watch = SampleStream(max(interval_s, self._config.min_interval_s), reason=reason)
        self._watches.add(watch)
        self._change_cadence(sample_now=True)
        log.debug("hardware.watch", reason=reason, interval_s=watch.interval_s)
        try:
            yield watch
        finally:
            self._watches.discard(watch)
            watch.end()
            # No sample for who is gone: whoever measures what sampling costs has windows without any.
            self._change_cadence(sample_now=False)

    def note_loaded(self, loaded: bool) -> None:  # noqa: FBT001 -- a state, in the caller's one word
        """Ollama has a model loaded, or no longer: sample at ``active_interval_s``, or idle."""
        if loaded != self._loaded:
            self._loaded = loaded
            self._change_cadence(sample_now=True)

    def _change_cadence(self, *, sample_now: bool) -> None:
        self._sample_now = self._sample_now or sample_now
        self._cadence_changed.set()

    def note_ollama_version(self, version: str | None) -> None:
        """Ollama answers with this version, or no longer; its processes are looked for again."""
        if version != self._ollama_version:
            self._ollama_version = version
            self._ollama_changed = True
            self._inventory_due.set()

    @property
    def providers(self) -> tuple[ProviderState, ...]:
        """The sources of readings as of the last inventory; empty before the first."""
        return self._inventory.providers if self._inventory is not None else ()

    @property
    def sampler_cost(self) -> SamplerCost:
        """What sampling cost so far."""
        passed = max(1, time.monotonic_ns() - self._started_ns)
        return SamplerCost(self._cpu_ns() / passed, self._samples, self._ticks.missed)

    @property
    def interval_s(self) -> float:
        """The cadence now."""
        wanted = [watch.interval_s for watch in self._watches]
        wanted.append(self._config.active_interval_s if self._loaded else self._config.idle_interval_s)
        return max(min(wanted), self._config.min_interval_s)

    def _is_other(self, fingerprint: str) -> bool:
        return self._inventory is not None and self._inventory.fingerprint != fingerprint

    async def _keep_inventory(self) -> None:
        """Collect when something changed, when a provider is to be probed again, and hourly."""
        collected_at = float("-inf")
        while True:
            try:
                due = self._inventory_due.is_set() or time.monotonic() - collected_at >= _HOURLY_S
                if due or await self._something_changed():
                    self._inventory_due.clear()
                    collected_at = float("-inf")  # due until it succeeds: nobody may ask again
                    await self.inventory(refresh=self._inventory is not None)
                    collected_at = time.monotonic()
            except Stalled as error:
                log.warning("hardware.inventory_stalled", reason=error.message)
            except Exception:  # one reading that nobody foresaw must not end all that follow
                log.exception("hardware.inventory_failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timings.check_interval_s):
                    await self._inventory_due.wait()

    async def _something_changed(self) -> bool:
        if any(guard.due for guard in self._guards):
            return True
        topology = await self._host_worker.call(
            partial(self._host.topology, TOPOLOGY), deadline_s=self._timings.host_deadline_s
        )
        return topology != self._topology

    async def _collect(self) -> None:
        deadline = self._timings.host_deadline_s
        host, self._topology, self._server_pid = await self._host_worker.call(
            self._read_host, deadline_s=deadline
        )
        storage, _ = await asyncio.gather(self._collect_storage(), refresh_all(self._guards))
        gpus = tuple(gpu for guard in self._guards for gpu in guard.gpus)
        states = tuple(guard.state for guard in self._guards)
        inventory = assemble(host, storage[0], gpus, (*storage[1], *states))
        async with self._changed:
            self._inventory = inventory
            self._changed.notify_all()

    def _read_host(self) -> tuple[Inventory, tuple[str, ...], int | None]:
        """Return the host's part, its topology and Ollama's PID; called in the host's thread."""
        # Another version of Ollama is another program, perhaps under a known PID.
        if self._ollama_changed:
            self._ollama_changed = False
            self._host.rescan()
        inventory = self._host.inventory(self._ollama_version)
        return inventory, self._host.topology(TOPOLOGY), self._host.server_pid

    def _sample_host(self) -> tuple[Sample, int | None]:
        return self._host.sample(), self._host.server_pid

    async def _collect_storage(self) -> tuple[tuple[StorageInfo, ...], tuple[ProviderState, ...]]:
        """The model store; a network file system that hangs costs only this."""
        try:
            return await self._storage_worker.call(
                self._read_storage, deadline_s=self._timings.host_deadline_s
            )
        except Stalled as error:
            state = state_of(self._storage.name, error.message, verified=True)
            return (), (msgspec.structs.replace(state, status="stalled"),)

    def _read_storage(self) -> tuple[tuple[StorageInfo, ...], tuple[ProviderState, ...]]:
        self._storage.follow(self._server_pid)
        return self._storage.inventory(), (self._storage.probe(),)

    async def _keep_sampling(self) -> None:
        """Take a sample at every tick, for ever."""
        while True:
            await self._wait_for_tick()
            try:
                async with self._sampling:
                    await self._take()
            except Stalled as error:
                log.warning("hardware.sampler_stalled", reason=error.message)
            except Exception:  # as above
                log.exception("hardware.sample_failed")

    async def _wait_for_tick(self) -> None:
        """Until the tick, or until somebody wants a sample now: then count from now."""
        began = time.monotonic()
        # Whoever began to watch during the last sample was given it.
        self._sample_now = False
        while True:
            due = self._ticks.next_after(time.monotonic(), self.interval_s)
            self._cadence_changed.clear()
            try:
                async with asyncio.timeout(due - time.monotonic()):
                    await self._cadence_changed.wait()
            except TimeoutError:
                return
            if self._sample_now:
                self._sample_now = False
                self._ticks.restart(time.monotonic())
                return
            # Counted from the last sample: watches that end one after the other do not put the next one off.
            self._ticks.restart(began)

    async def _take(self) -> Sample:
        started_ns, cpu_before = time.monotonic_ns(), self._cpu_ns()
        group = self._group(started_ns)
        (host, server_pid), readings = await self._read(group)
        thread_ns = time.thread_time_ns()
        # The limits and the model store in the inventory are those of the server before.
        if server_pid != self._server_pid:
            self._server_pid = server_pid
            self._inventory_due.set()
        self._pids = tuple(process.pid for process in host.ollama)
        sample = self._finish(combine(host, readings), started_ns, cpu_before)
        for watch in self._watches:
            watch.offer(sample)
        self._loop_ns += time.thread_time_ns() - thread_ns
        return sample

    async def _read(self, group: CostGroup) -> tuple[tuple[Sample, int | None], list[GpuReadings]]:
        """Kernel's files and GPUs side by side; with no GPU, no task is made for one."""
        # An absent provider is not asked at every sample whether it is still absent.
        asked = [
            asyncio.create_task(guard.sample(group, self._pids), name=f"hardware.sample.{guard.name}")
            for guard in self._guards
            if guard.state.status != "absent"
        ]
        try:
            host = await self._host_worker.call(self._sample_host, deadline_s=self._timings.host_deadline_s)
        except BaseException:
            for task in asked:
                task.cancel()
            raise
        return host, await asyncio.gather(*asked) if asked else []

    def _group(self, now_ns: int) -> CostGroup:
        if now_ns >= self._slow_due_ns:
            self._slow_due_ns = now_ns + int(self._timings.slow_interval_s * 1e9)
            return CostGroup.FAST | CostGroup.SLOW
        return CostGroup.FAST

    def _finish(self, sample: Sample, started_ns: int, cpu_before: int) -> Sample:
        """Stamp the sample, with what it cost, and keep it as the latest."""
        now_ns, cpu_ns = time.monotonic_ns(), self._cpu_ns()
        before = self.latest
        window = started_ns - before.t_mono_ns if before else 0
        self._samples += 1
        self.latest = msgspec.structs.replace(
            sample,
            t_wall=time.time() - (now_ns - started_ns) / 1e9,
            t_mono_ns=started_ns,
            sampler=SamplerSample(
                duration_us=(now_ns - started_ns) // 1000,
                cpu_us=(cpu_ns - cpu_before) // 1000,
                missed=self._ticks.missed,
                cpu_ratio=(cpu_ns - self._cpu_at_last_ns) / window if window > 0 else None,
            ),
        )
        self._cpu_at_last_ns = cpu_ns
        self.lowest_temperatures.note(self.latest)
        return self.latest

    def _cpu_ns(self) -> int:
        """Processor time of our threads, and of the loop's where it works for the sampler."""
        threads = (self._host_worker.cpu_ns, self._storage_worker.cpu_ns, *(g.cpu_ns for g in self._guards))
        return sum(threads) + self._loop_ns
