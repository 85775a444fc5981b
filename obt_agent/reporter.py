"""What the server's copy of this machine is kept in sync by: full states after admission and on every change.

One ``Reporter`` serves the whole process; ``run`` serves one admitted session. Each state has a loop of its
own, so that a server that is slow with one never holds up another, nor the heartbeat.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec
import structlog

from obt_agent.errors import AgentError, LinkLost
from obt_agent.hardware.samples import Sample
from obt_agent.hardware.service import HardwareService
from obt_agent.jobs import JobService
from obt_agent.ollama.catalog import Catalog, Snapshot
from obt_agent.ollama.payloads import InstalledModel
from obt_agent.policy import Policy
from obt_agent.protocol import limits
from obt_agent.protocol.admission import (
    HeartbeatParams,
    HelloResult,
    LightGpu,
    LightSample,
)
from obt_agent.protocol.jobs import JobSummary
from obt_agent.protocol.state import HardwareSync, JobsSync, ModelsSync, Page, StateKind
from obt_agent.session import Session

log = structlog.get_logger(__name__)

SYNC_TIMEOUT_S: Final = 60.0
RETRY_AFTER_S: Final = 10.0
PAGE_BYTES: Final = 16 << 10
"""A page's target size: small enough to share a slow link fairly, large enough for some forty models."""

E = TypeVar("E", InstalledModel, JobSummary)


@dataclass(frozen=True, slots=True)
class Gauges:
    """Figures of the heartbeat from elsewhere: streams in flight, the event loop's lag in milliseconds."""

    streams: Callable[[], int]
    loop_lag_ms: Callable[[], float | None]


@dataclass(slots=True)
class _SessionState:
    """What is kept for one session: which states it asked for again, and its last revision."""

    session: Session
    requested: dict[StateKind, asyncio.Event] = field(
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
        models: Catalog,
        machine: HardwareService,
        jobs: JobService,
        policy: Policy,
        gauges: Gauges,
    ) -> None:
        self._models = models
        self._machine = machine
        self._jobs = jobs
        self._policy = policy
        self._gauges = gauges
        # Of the session that is reported to; one at a time.
        self._state: _SessionState | None = None

    def request(self, kinds: Sequence[StateKind]) -> None:
        """The server asks for states again (``state.request``)."""
        if self._state is not None:
            for kind in kinds:
                self._state.requested[kind].set()

    async def run(self, session: Session, heartbeat_interval_s: float) -> None:
        """Serve one session until it ends. Returns then; never raises ``LinkLost``."""
        state = self._state = _SessionState(session)
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            "models": lambda: self._models_loop(state),
            "hardware": lambda: self._hardware_loop(state),
            "jobs": lambda: self._jobs_loop(state),
            "heartbeat": lambda: self._heartbeat_loop(state, heartbeat_interval_s),
        }
        try:
            async with asyncio.TaskGroup() as group:
                for name, loop in loops.items():
                    group.create_task(_until_link_lost(name, loop), name=f"report-{name}")
        except* LinkLost:
            log.debug("report.session_over", session=session.number)
        finally:
            if self._state is state:
                self._state = None

    async def _models_loop(self, state: _SessionState) -> None:
        requested = state.requested["models"]
        while True:
            requested.clear()
            snapshot = self._models.snapshot
            await self._send_models(state, snapshot)
            await first_of(self._models.wait_changed(snapshot.generation), requested.wait())

    async def _send_models(self, state: _SessionState, snapshot: Snapshot) -> None:
        revision = state.next_revision()
        running = self._policy.visible_running(snapshot.running, snapshot.models)
        for page, models in pages(self._policy.visible(snapshot.models)):
            message = ModelsSync(
                revision=revision,
                page=page,
                ollama=snapshot.state,
                list_digest=snapshot.list_digest,
                models=models,
                running=running,
                stale=snapshot.stale,
            )
            await _sync(state.session, "models.sync", message)

    async def _hardware_loop(self, state: _SessionState) -> None:
        requested = state.requested["hardware"]
        while True:
            requested.clear()
            inventory = await self._machine.inventory()
            message = HardwareSync(revision=state.next_revision(), inventory=inventory)
            await _sync(state.session, "hardware.sync", message)
            await first_of(self._machine.wait_inventory_changed(inventory.fingerprint), requested.wait())

    async def _jobs_loop(self, state: _SessionState) -> None:
        requested = state.requested["jobs"]
        while True:
            requested.clear()
            generation = self._jobs.store.generation
            revision = state.next_revision()
            for page, jobs in pages(await self._jobs.unsettled()):
                message = JobsSync(
                    revision=revision, page=page, store_id=self._jobs.store.store_id, jobs=jobs
                )
                await _sync(state.session, "jobs.sync", message)
            await first_of(self._jobs.store.wait_changed(generation), requested.wait())

    async def _heartbeat_loop(self, state: _SessionState, interval_s: float) -> None:
        while True:
            state.session.notify("heartbeat", self.heartbeat())
            await asyncio.sleep(interval_s)

    def heartbeat(self) -> HeartbeatParams:
        """The status as it is now."""
        snapshot = self._models.snapshot
        return HeartbeatParams(
            ollama=snapshot.state,
            loaded=tuple(
                model.name for model in self._policy.visible_running(snapshot.running, snapshot.models)
            ),
            jobs=self._jobs.store.counts,
            outbox=self._jobs.store.waiting_counts,
            streams=self._gauges.streams(),
            t_mono_us=time.monotonic_ns() // 1000,
            loop_lag_ms=self._gauges.loop_lag_ms(),
            hardware=light(self._machine.latest),
            store_problem=self._jobs.store.problem,
        )


def heartbeat_every_s(hello: HelloResult, own_s: float) -> float:
    """Seconds between heartbeats: the server's wish, else our own, within bounds that no server may leave."""
    interval_s = hello.heartbeat_interval_s or own_s
    return min(max(interval_s, limits.HEARTBEAT_AT_LEAST_S), limits.HEARTBEAT_AT_MOST_S)


def light(sample: Sample | None) -> LightSample | None:
    """The few figures of a sample that a list of machines shows."""
    if sample is None:
        return None
    return LightSample(
        cpu_utilization_ratio=sample.cpu.utilization_ratio,
        cpu_temperature_celsius=sample.cpu.temperature_celsius,
        memory_used_bytes=sample.memory.used_bytes,
        memory_available_bytes=sample.memory.available_bytes,
        # The heartbeat's fields are a part of the sample's, by the same names.
        gpus=tuple(msgspec.convert(gpu, LightGpu, from_attributes=True) for gpu in sample.gpus),
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


async def _sync(session: Session, method: str, message: msgspec.Struct) -> None:
    """Any result acknowledges; the body is for people who debug a server."""
    await session.request(method, message, msgspec.Raw, timeout_s=SYNC_TIMEOUT_S, bulk=True)


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
