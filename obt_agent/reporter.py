"""What the server's copy of this machine is kept in sync by: full states after admission and on every change.

One ``Reporter`` serves the whole process; ``run`` serves one admitted session. Each state has a loop of its
own, so that a server that is slow with one never holds up another, nor the heartbeat.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

import msgspec
import structlog

from obt_agent.errors import AgentError, LinkLost
from obt_agent.hardware.schema import Inventory, Sample
from obt_agent.ollama.catalog import Snapshot
from obt_agent.ollama.payloads import InstalledModel, RunningModel
from obt_agent.peer import Peer
from obt_agent.protocol import limits
from obt_agent.protocol.admission import (
    HeartbeatParams,
    HelloResult,
    JobCounts,
    LightGpu,
    LightSample,
    OutboxCounts,
)
from obt_agent.protocol.jobs import JobSummary
from obt_agent.protocol.state import HardwareSync, JobsSync, ModelsSync, Page, StateKind

log = structlog.get_logger(__name__)

SYNC_TIMEOUT_S: Final = 60.0
RETRY_AFTER_S: Final = 10.0
PAGE_BYTES: Final = 16 << 10
"""A page's target size: small enough to share a slow link fairly, large enough for some forty models."""

E = TypeVar("E", InstalledModel, JobSummary)


class CatalogSource(Protocol):
    """The catalogue of models, as ``obt_agent.ollama.catalog.Catalog`` keeps it."""

    @property
    def snapshot(self) -> Snapshot:
        """What is known now."""

    async def wait_changed(self, after_generation: int) -> Snapshot:
        """The next snapshot of a later generation."""


class HardwareSource(Protocol):
    """The hardware, as ``obt_agent.hardware.service.HardwareService`` reads it."""

    @property
    def latest(self) -> Sample | None:
        """The last sample taken, if any."""

    async def inventory(self, *, refresh: bool = False) -> Inventory:
        """What the machine is."""

    async def wait_inventory_changed(self, after_fingerprint: str) -> Inventory:
        """The next inventory with another fingerprint."""


class JobSource(Protocol):
    """Jobs that are open, or finished and not acknowledged."""

    @property
    def generation(self) -> int:
        """Grows with every change of the list."""

    @property
    def store_id(self) -> str:
        """Names the store of jobs."""

    async def unsettled(self) -> tuple[JobSummary, ...]:
        """The jobs, oldest first."""

    async def wait_changed(self, after_generation: int) -> int:
        """Wait for a later generation."""

    def counts(self) -> JobCounts:
        """How many."""

    def outbox_counts(self) -> OutboxCounts:
        """What waits to be sent."""

    @property
    def store_problem(self) -> str | None:
        """What is wrong with the store of jobs, or that it was replaced."""


class Visibility(Protocol):
    """Which models the host's owner lets the server see."""

    def visible(self, models: Sequence[InstalledModel]) -> tuple[InstalledModel, ...]:
        """Installed models, filtered."""

    def visible_running(self, models: Sequence[RunningModel]) -> tuple[RunningModel, ...]:
        """Loaded models, filtered."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """Figures of the heartbeat that other rooms hold: streams in flight, event-loop lag in milliseconds."""

    streams: Callable[[], int]
    loop_lag_ms: Callable[[], float | None]


@dataclass(slots=True)
class _Session:
    peer: Peer
    asked: dict[StateKind, asyncio.Event] = field(
        default_factory=lambda: {
            "models": asyncio.Event(),
            "hardware": asyncio.Event(),
            "jobs": asyncio.Event(),
        }
    )
    revision: int = 0

    def next_revision(self) -> int:
        self.revision += 1
        return self.revision


class Reporter:
    """Sends states and heartbeats over whatever session is admitted."""

    def __init__(
        self,
        *,
        models: CatalogSource,
        machine: HardwareSource,
        jobs: JobSource,
        visibility: Visibility,
        gauges: Gauges,
    ) -> None:
        self._models = models
        self._machine = machine
        self._jobs = jobs
        self._visibility = visibility
        self._gauges = gauges
        self._session: _Session | None = None

    def request(self, kinds: Sequence[StateKind]) -> None:
        """The server asks for states again (``state.request``)."""
        if self._session is not None:
            for kind in kinds:
                self._session.asked[kind].set()

    async def run(self, peer: Peer, heartbeat_interval_s: float) -> None:
        """Serve one session until it ends. Returns then; never raises ``LinkLost``."""
        session = _Session(peer)
        self._session = session
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            "models": lambda: self._models_loop(session),
            "hardware": lambda: self._hardware_loop(session),
            "jobs": lambda: self._jobs_loop(session),
            "heartbeat": lambda: self._heartbeat_loop(session, heartbeat_interval_s),
        }
        try:
            async with asyncio.TaskGroup() as group:
                for name, loop in loops.items():
                    group.create_task(_until_link_lost(name, loop), name=f"report-{name}")
        except* LinkLost:
            log.debug("report.session_over", session=peer.session)
        finally:
            if self._session is session:
                self._session = None

    async def _models_loop(self, session: _Session) -> None:
        asked = session.asked["models"]
        while True:
            asked.clear()
            snapshot = self._models.snapshot
            await self._send_models(session, snapshot)
            await first_of(self._models.wait_changed(snapshot.generation), asked.wait())

    async def _send_models(self, session: _Session, snapshot: Snapshot) -> None:
        revision = session.next_revision()
        running = self._visibility.visible_running(snapshot.running)
        for page, models in pages(self._visibility.visible(snapshot.models)):
            message = ModelsSync(
                revision=revision,
                page=page,
                ollama=snapshot.state,
                list_digest=snapshot.list_digest,
                models=models,
                running=running,
                stale=snapshot.stale,
            )
            await _sync(session.peer, "models.sync", message)

    async def _hardware_loop(self, session: _Session) -> None:
        asked = session.asked["hardware"]
        while True:
            asked.clear()
            inventory = await self._machine.inventory()
            message = HardwareSync(revision=session.next_revision(), inventory=inventory)
            await _sync(session.peer, "hardware.sync", message)
            await first_of(self._machine.wait_inventory_changed(inventory.fingerprint), asked.wait())

    async def _jobs_loop(self, session: _Session) -> None:
        asked = session.asked["jobs"]
        while True:
            asked.clear()
            generation = self._jobs.generation
            revision = session.next_revision()
            for page, jobs in pages(await self._jobs.unsettled()):
                message = JobsSync(revision=revision, page=page, store_id=self._jobs.store_id, jobs=jobs)
                await _sync(session.peer, "jobs.sync", message)
            await first_of(self._jobs.wait_changed(generation), asked.wait())

    async def _heartbeat_loop(self, session: _Session, interval_s: float) -> None:
        while True:
            session.peer.notify("heartbeat", self.heartbeat())
            await asyncio.sleep(interval_s)

    def heartbeat(self) -> HeartbeatParams:
        """The status as it is now."""
        snapshot = self._models.snapshot
        return HeartbeatParams(
            ollama=snapshot.state,
            loaded=tuple(model.name for model in self._visibility.visible_running(snapshot.running)),
            jobs=self._jobs.counts(),
            outbox=self._jobs.outbox_counts(),
            streams=self._gauges.streams(),
            t_mono_us=time.monotonic_ns() // 1000,
            loop_lag_ms=self._gauges.loop_lag_ms(),
            hardware=light(self._machine.latest),
            store_problem=self._jobs.store_problem,
        )


def heartbeat_every_s(hello: HelloResult, own_s: float) -> float:
    """Seconds between heartbeats: the server's wish, else our own, within bounds that no server may leave."""
    asked_s = hello.heartbeat_interval_s or own_s
    return min(max(asked_s, limits.HEARTBEAT_AT_LEAST_S), limits.HEARTBEAT_AT_MOST_S)


def light(sample: Sample | None) -> LightSample | None:
    """The few figures of a sample that a list of machines shows."""
    if sample is None:
        return None
    return LightSample(
        cpu_utilization_ratio=sample.cpu.utilization_ratio,
        cpu_temperature_celsius=sample.cpu.temperature_celsius,
        memory_used_bytes=sample.memory.used_bytes,
        memory_available_bytes=sample.memory.available_bytes,
        gpus=tuple(
            LightGpu(
                id=gpu.id,
                state=gpu.state,
                utilization_ratio=gpu.utilization_ratio,
                memory_used_bytes=gpu.memory_used_bytes,
                temperature_celsius=gpu.temperature_celsius,
                power_watts=gpu.power_watts,
            )
            for gpu in sample.gpus
        ),
    )


def pages(entries: Sequence[E], target_bytes: int = PAGE_BYTES) -> Iterator[tuple[Page, tuple[E, ...]]]:
    """Cut a list into pages of about ``target_bytes`` of JSON; an empty list is one empty page."""
    page: list[E] = []
    size = index = 0
    for entry in entries:
        entry_bytes = len(msgspec.json.encode(entry))
        if page and size + entry_bytes > target_bytes:
            yield Page(index=index, last=False), tuple(page)
            page, size, index = [], 0, index + 1
        page.append(entry)
        size += entry_bytes
    yield Page(index=index, last=True), tuple(page)


async def _sync(peer: Peer, method: str, message: msgspec.Struct) -> None:
    """Any result acknowledges; the body is for people who debug a server."""
    await peer.request(method, message, msgspec.Raw, timeout_s=SYNC_TIMEOUT_S, bulk=True)


async def _until_link_lost(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    """Run a loop; when the server refuses a sync or does not answer it, say so and start it again later."""
    while True:
        try:
            await loop()
        except LinkLost:
            raise
        except AgentError as error:
            log.warning("report.refused", state=name, kind=error.kind, reason=error.message)
        await asyncio.sleep(RETRY_AFTER_S)


async def first_of(*waits: Awaitable[Any]) -> None:
    """Wait until one of several ends; the others are cancelled, and an error of the first is raised."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
