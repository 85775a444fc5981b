"""The root tasks of the agent, of which one's end ends all; signals, reload, and an orderly shutdown.

SIGTERM, SIGINT   stop accepting, checkpoint jobs, end streams, drain the outbox, say goodbye, close
the second one    ends the process at once
SIGHUP            read the configuration again, and dial at once
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import structlog

from obt_agent.config.load import LoadedConfig
from obt_agent.config.problems import WrongConfig
from obt_agent.config.reload import Reloaded, reload
from obt_agent.daemon.components import Components
from obt_agent.daemon.status_writer import StatusWriter
from obt_agent.errors import AgentError, ConfigError
from obt_agent.identity.state_dir import StateDir
from obt_agent.link.session import LinkSession
from obt_agent.log_setup.setup import set_level
from obt_agent.protocol.admission import HelloResult
from obt_agent.reporter import heartbeat_every_s
from obt_agent.sdnotify import Notifier
from obt_agent.system import signals

log = structlog.get_logger(__name__)

SHUTDOWN_WITHIN_S: Final = 20.0
"""The whole of an orderly shutdown; the unit's TimeoutStopSec is longer."""
OUTBOX_DRAIN_S: Final = 5.0
FORCED: Final = 128


class Supervisor:
    """One run of the agent.

    Args:
        components: everything, built and not yet running.
        loaded: the configuration in force.
        state: the state folder, locked.
        notifier: systemd, if it listens.
    """

    def __init__(
        self,
        components: Components,
        loaded: LoadedConfig,
        state: StateDir,
        *,
        notifier: Notifier | None = None,
    ) -> None:
        self._components = components
        self._loaded = loaded
        self._state = state
        self._notifier = notifier or Notifier()
        self._status_writer = StatusWriter(components, loaded.config, state, self._notifier)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        self._signals = 0
        self._reloads = 0
        # whoever has it reads the configuration and takes it over: an older reading must not come last
        self._reloading = asyncio.Lock()

    async def run(self) -> int:
        """Run until a signal (status 0), or until a root task fails (its error is raised)."""
        loop = asyncio.get_running_loop()
        if signals.RELOAD is not None:
            signals.handle(loop, signals.RELOAD, self._on_hangup)
        for number in signals.STOP:
            signals.handle(loop, number, self._on_stop, number)
        self._components.on_admitted = self._on_admitted
        await self._components.hardware.start()
        self._start_root_tasks()
        self._notifier.ready("starting")
        log.info(
            "agent.started",
            agent_id=self._state.agent_id,
            name=self._loaded.config.agent.name,
            config=str(self._loaded.path) if self._loaded.path else None,
        )
        await self._stop.wait()
        await self._shut_down()
        if self._failure is not None:
            raise self._failure
        return 0

    def _start_root_tasks(self) -> None:
        components = self._components
        roots: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "catalog": components.catalog.run,
            "follow-ollama": self._follow_ollama,
            "follow-store": self._follow_store,
            "jobs": components.jobs.run,
            "link": components.link.run,
            "status_writer": self._status_writer.run,
            "watchdog": self._status_writer.watchdog,
        }
        for name, root in roots.items():
            self._own(root(), name=name, forever=True)

    def _own(self, work: Coroutine[Any, Any, None], *, name: str, forever: bool = False) -> None:
        """Run it as a task of the agent's own: its failure (or, for a root task, its end) ends the agent."""
        task = asyncio.create_task(work, name=name)
        self._tasks[name] = task

        task.add_done_callback(lambda done: self._ended(done, name, forever=forever))

    def _ended(self, task: asyncio.Task[None], name: str, *, forever: bool) -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]
        error = None if task.cancelled() else task.exception()
        if self._stop.is_set() or (error is None and (task.cancelled() or not forever)):
            return
        self._failure = error or RuntimeError(f"the task {name} ended")
        trace = None if isinstance(error, AgentError) else error  # what was foreseen needs no traceback
        log.error("agent.task_failed", task=name, reason=str(self._failure), exc_info=trace)
        self._stop.set()

    # Sessions.

    def _on_admitted(self, session: LinkSession, hello: HelloResult) -> None:
        components, number = self._components, session.number
        beat_s = heartbeat_every_s(hello, self._loaded.config.server.heartbeat_interval_s)
        self._own(components.reporter.run(session, beat_s), name=f"report-{number}")
        self._own(components.jobs.report(session, hello.time), name=f"jobs-{number}")
        self._status_writer.changed()

    async def _follow_ollama(self) -> None:
        """A loaded model makes the sampler faster; another version of Ollama has other processes."""
        components, generation = self._components, -1
        while True:
            snapshot = await components.catalog.wait_changed(generation)
            generation = snapshot.generation
            components.hardware.note_loaded(bool(snapshot.running))
            components.hardware.note_ollama_version(
                snapshot.state.version if snapshot.state.reachable else None
            )
            self._status_writer.changed()

    async def _follow_store(self) -> None:
        """A store that was found damaged and replaced has another id, which only a hello tells the server."""
        jobs = self._components.jobs
        known = jobs.store.store_id
        while True:
            await jobs.store.wait_changed(jobs.store.generation)
            if jobs.store.store_id != known:
                known = jobs.store.store_id
                self._status_writer.changed()
                await self._components.link.redial("reload")

    # Signals.

    def _on_stop(self, number: int) -> None:
        self._signals += 1
        if self._signals > 1:
            log.warning("agent.forced", signal=signal.Signals(number).name)
            os._exit(FORCED + number)
        log.info("agent.stopping", signal=signal.Signals(number).name)
        self._stop.set()

    def _on_hangup(self) -> None:
        self._reloads += 1
        self._own(self._reload(), name=f"reload-{self._reloads}")

    async def _reload(self) -> None:
        """Read the configuration again; a wrong one is told and changes nothing. Dials at once either way."""
        async with self._reloading:
            self._notifier.reloading()
            try:
                await self._adopt(await asyncio.to_thread(reload, self._loaded))
            except ConfigError as error:
                for problem in error.problems if isinstance(error, WrongConfig) else [error.message]:
                    log.error("config.refused", problem=str(problem))  # noqa: TRY400 - the text is for the owner
            finally:
                self._notifier.ready()
                self._status_writer.changed()
                self._components.link.dial_now()

    async def _adopt(self, reloaded: Reloaded) -> None:
        config = reloaded.loaded.config
        self._components.policy.adopt(config.policy)
        set_level(config.log.level)
        self._loaded = reloaded.loaded
        log.info("config.reloaded", changed=[change.key for change in reloaded.changes])
        if reloaded.needing_restart:
            log.warning("config.needs_restart", keys=list(reloaded.needing_restart))
        if any(change.key.startswith("policy.") for change in reloaded.changes):
            await self._components.link.redial("reload")

    # The end.

    async def _shut_down(self) -> None:
        """In order, each step bounded, and the whole of it too."""
        self._notifier.stopping("stopping")
        components = self._components
        steps: dict[str, Callable[[], Awaitable[object]]] = {
            "jobs": self._checkpoint_jobs,
            "commands": components.dispatcher.close,
            "outbox": self._drain_outbox,
            "link": lambda: components.link.drain("shutdown" if self._failure is None else "error"),
        }
        components.dispatcher.stop_accepting()
        try:
            async with asyncio.timeout(SHUTDOWN_WITHIN_S):
                for name, step in steps.items():
                    await self._step(name, step)
        except TimeoutError:
            log.error("agent.shutdown_took_too_long", limit_s=SHUTDOWN_WITHIN_S)  # noqa: TRY400 - no fault of a line
        left = list(self._tasks.values())
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        self._status_writer.stopped()
        log.info("agent.stopped")

    async def _step(self, name: str, step: Callable[[], Awaitable[object]]) -> None:
        try:
            await step()
        except Exception:
            log.exception("agent.shutdown_step_failed", step=name)

    async def _checkpoint_jobs(self) -> None:
        """Cancelling the queue is a checkpoint: records of the running job are kept, Ollama is left quiet."""
        queue = self._tasks.get("jobs")
        if queue is not None:
            queue.cancel()
            await asyncio.wait([queue])
        await self._components.jobs.close()

    async def _drain_outbox(self) -> None:
        if self._components.link.session is not None:
            await self._components.jobs.uploader.drain(OUTBOX_DRAIN_S)
