"""What the running agent reports on this machine: status file, systemd's line and watchdog."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import Final
from urllib.parse import urlsplit

import msgspec
import structlog

from obt_agent.config.schema import Config
from obt_agent.daemon.components import Components
from obt_agent.daemon.status_file import Clocks, LinkReport, ProviderReport, Status, StatusFile, status_line
from obt_agent.errors import StorageFailed
from obt_agent.identity.folder import FolderError
from obt_agent.identity.state_dir import StateDir
from obt_agent.protocol.jobs import JobSummary
from obt_agent.sdnotify import Notifier
from obt_agent.timer_grid import until_tick
from obt_agent.version import full_version

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 5.0
"""Between two looks for what changed without a word: commands in flight, a job's progress."""
AT_LEAST_EVERY_S: Final = 15.0
"""Of the file, though nothing changed: one that is twice as old is taken for that of a hung agent."""
AT_MOST_EVERY_S: Final = 0.5


class StatusWriter:
    """Writes the status when something changed, and at least every ``AT_LEAST_EVERY_S``."""

    def __init__(self, components: Components, config: Config, state: StateDir, notifier: Notifier) -> None:
        self._components = components
        self._config = config
        self._state = state
        self._notifier = notifier
        self._file = StatusFile(state.folder)
        self._changed = asyncio.Event()
        self._started = Clocks.now()
        self._link_since = ("", self._started)
        self._line = ""
        self._jobs: tuple[JobSummary, ...] = ()
        # Of the job store, when ``_jobs`` was read.
        self._jobs_generation = -1
        # What was written last, without what each moment changes, and when (monotonic seconds).
        self._written: Status | None = None
        self._written_at = -AT_LEAST_EVERY_S

    def changed(self) -> None:
        """Something that people want to see changed."""
        self._changed.set()

    async def run(self) -> None:
        """Write it until cancelled."""
        while True:
            self._changed.clear()
            await self._write()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until_tick(LOOK_EVERY_S)):
                    await self._changed.wait()
                    # Changes come together: one file for all of them.
                    await asyncio.sleep(self._written_at + AT_MOST_EVERY_S - time.monotonic())

    async def watchdog(self) -> None:
        """Feed systemd's watchdog from the event loop: blocked, it starves it; an absent server does not."""
        interval_s = self._notifier.watchdog_interval_s
        while interval_s is not None:
            self._notifier.watchdog()
            await asyncio.sleep(interval_s / 2)
        await asyncio.get_running_loop().create_future()  # no watchdog: a root task never ends by itself

    def stopped(self) -> None:
        """Remove the file: the agent ends in order."""
        with contextlib.suppress(FolderError):
            self._file.remove()

    async def _write(self) -> None:
        # Each file is a turn of another thread, as is each look into the store: what is idle has few.
        due = time.monotonic() - self._written_at >= AT_LEAST_EVERY_S - LOOK_EVERY_S / 2
        if due or self._jobs_may_differ:
            await self._read_jobs()
        status = self.status(self._jobs)
        line = status_line(status)
        if line != self._line:
            self._line = line
            self._notifier.status(line)
        steady = msgspec.structs.replace(status, written_at=0.0, written_tick_s=None, loop_lag_ms=None)
        if steady == self._written and not due:
            return
        try:
            await asyncio.to_thread(self._file.write, status)
        except FolderError as error:
            log.warning("status.not_written", reason=error.message)
        else:
            self._written, self._written_at = steady, time.monotonic()

    @property
    def _jobs_may_differ(self) -> bool:
        """Open jobs progress, position and all; what is over changes with the store's generation alone."""
        unchanged = self._components.jobs.store.generation == self._jobs_generation
        return not unchanged or any(job.finished_at is None for job in self._jobs)

    async def _read_jobs(self) -> None:
        jobs = self._components.jobs
        generation = jobs.store.generation
        with contextlib.suppress(StorageFailed):  # the status says so; jobs are those last known
            self._jobs = await jobs.unsettled()
            self._jobs_generation = generation

    def status(self, jobs: tuple[JobSummary, ...]) -> Status:
        """The agent as it is now."""
        components, snapshot, now = self._components, self._components.catalog.snapshot, Clocks.now()
        return Status(
            pid=os.getpid(),
            version=full_version(),
            started_at=self._started.wall,
            started_uptime_s=self._started.uptime,
            written_at=now.wall,
            written_tick_s=now.tick,
            agent_id=self._state.agent_id,
            name=self._config.agent.name,
            link=self._link(),
            ollama=snapshot.state,
            models=len(components.policy.visible(snapshot.models)),
            loaded=tuple(model.name for model in snapshot.running),
            commands=components.dispatcher.in_flight,
            streams=components.dispatcher.streams,
            blob_bytes=components.dispatcher.blob_bytes,
            jobs=tuple(sorted((job for job in jobs if job.finished_at is None), key=_running_first)),
            job_counts=components.jobs.store.counts,
            outbox=components.jobs.store.waiting_counts,
            store_problem=components.jobs.store.problem,
            providers=self._providers(),
            loop_lag_ms=components.link.lag.last_ms,
        )

    def _link(self) -> LinkReport:
        link = self._components.link.status
        if link.state != self._link_since[0]:
            self._link_since = (link.state, Clocks.now())
        return LinkReport(
            state=link.state,
            server=urlsplit(self._config.server.url or "").netloc,
            since=self._link_since[1].wall,
            since_uptime_s=self._link_since[1].uptime,
            session=link.session,
            problem=link.problem,
            next_dial_in_s=link.next_dial_in_s,
            clock_skew_s=link.clock_skew_s,
            pins=self._components.link.pins,
        )

    def _providers(self) -> tuple[ProviderReport, ...]:
        return tuple(
            ProviderReport(name=provider.name, status=provider.status, reason=provider.reason)
            for provider in self._components.hardware.providers
        )


def _running_first(job: JobSummary) -> bool:
    return job.state != "running"
