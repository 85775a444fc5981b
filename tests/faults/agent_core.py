"""An agent's core within this process, which can be killed before or after any commit to its store.

A kill within this process cannot be SIGKILL. It is this: the connection is reset, the thread that commits
stands still, every task is cancelled, and nothing is written to the store any more. What SIGKILL itself does
is shown by ``tests.faults.kills``.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

from obt_agent.config.schema import ServerConfig
from obt_agent.dispatcher import Dispatcher
from obt_agent.handlers.services import Services
from obt_agent.handlers.table import commands
from obt_agent.identity.credentials import Credentials
from obt_agent.identity.secret import Secret
from obt_agent.identity.state_dir import StateDir
from obt_agent.jobs import GenerationGate, JobService
from obt_agent.jobs.store import JobStore
from obt_agent.jobs.store.database import JobDatabase
from obt_agent.link.connection import Link, LinkEvents
from obt_agent.link.session import LinkSession
from obt_agent.protocol.admission import AgentIdentity, HelloParams, HelloResult, VersionRange
from obt_agent.reporter import Gauges, Reporter
from tests.dispatcher.doubles import permissive
from tests.faults.agent import Site
from tests.faults.measuring import MeasuringRunner
from tests.faults.timing import SHORT
from tests.handlers.bench import facts
from tests.jobs.doubles import FAST, fast_uploader
from tests.link.doubles import QUICK
from tests.reporter.test_reporter import FakeMachine, FakeModels

STILL_S = 60.0


class Killed(BaseException):
    """The agent was killed here."""


class KillPoint:
    """Kills at a commit, counted from 1; never when ``at`` is None."""

    def __init__(self, at: int | None, *, before: bool) -> None:
        self.reached = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._at = at
        self._before = before
        self._commits = 0
        self._killed = False
        self._over = threading.Event()

    def check(self) -> None:
        """Raise Killed once it was killed: it writes nothing any more."""
        if self._killed:
            raise Killed

    def commit(self, *, before: bool) -> None:
        """Called on both sides of each commit, in the store's thread."""
        if before:
            self._commits += 1
        if self._commits == self._at and before == self._before:
            self._loop.call_soon_threadsafe(self.reached.set)
            self._over.wait(STILL_S)
            self._killed = True
        self.check()

    def finish(self) -> None:
        """Nothing of this agent runs any more: the thread may go on, and writes nothing."""
        self._killed = True
        self._over.set()


class KilledDatabase(JobDatabase):
    """Commits until its kill point is reached."""

    def __init__(self, path: Path, kill_point: KillPoint) -> None:
        self._kill_point = kill_point
        super().__init__(path)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._kill_point.check()
        with super()._transaction():
            yield
            self._kill_point.commit(before=True)
        self._kill_point.commit(before=False)


def _any_size(job_id: str) -> str:
    """Other than any other run's: a second one shows as a second result."""
    return secrets.token_hex(random.Random(job_id).choice((16, 500, 20_000, 60_000)))


class AgentCore:
    """Store, jobs, dispatcher, reporter and link of one process; ``run`` lasts until it is cancelled."""

    def __init__(self, site: Site, kill_point: KillPoint) -> None:
        self._site = site
        self._kill_point = kill_point
        self.outbox = JobStore(site.folder, database=lambda path: KilledDatabase(path, kill_point))
        self.opened = asyncio.Event()
        self._closers: list[Callable[[], Awaitable[None]]] = []

    async def run(self) -> None:
        """Serve until cancelled."""
        with StateDir.open(self._site.folder) as state:
            try:
                await self.outbox.open()
                await self._serve(state)
            finally:
                self._kill_point.finish()
                for close in self._closers:
                    await close()
                await self.outbox.close()

    async def _serve(self, state: StateDir) -> None:
        policy = permissive()
        runners: Any = {"benchmark": MeasuringRunner(self.outbox, _any_size)}
        jobs = JobService(self.outbox, runners, policy, uploader=fast_uploader(self.outbox), timings=FAST)
        nothing: Any = None  # no command of these histories asks for Ollama or the hardware
        models: Any = FakeModels(("a:latest",))
        services = Services(
            ollama=nothing,
            catalog=models,
            hardware=nothing,
            policy=policy,
            jobs=jobs,
            generation_gate=GenerationGate(),
            facts=facts(),
        )
        dispatcher = Dispatcher(commands(services), policy)
        self._closers = [dispatcher.close, jobs.close]
        reporter = Reporter(
            models=models,
            machine=cast("Any", FakeMachine()),
            jobs=jobs,
            policy=policy,
            gauges=Gauges(streams=lambda: 0, loop_lag_ms=lambda: None),
        )
        async with asyncio.TaskGroup() as tasks:

            def on_admitted(session: LinkSession, hello: HelloResult) -> None:
                tasks.create_task(reporter.run(session, 15.0), name="core report")
                tasks.create_task(jobs.report(session, hello.time), name="core report")

            link = self._link(state, dispatcher, reporter, on_admitted)
            self.opened.set()
            tasks.create_task(jobs.run(), name="core jobs")
            await link.run()

    def _link(
        self,
        state: StateDir,
        dispatcher: Dispatcher,
        reporter: Reporter,
        on_admitted: Callable[[LinkSession, HelloResult], None],
    ) -> Link:
        def hello() -> HelloParams:
            return HelloParams(
                protocol=VersionRange(min=1, max=1),
                agent=AgentIdentity(id=state.agent_id, name="box", version="1", instance=state.instance),
                store_id=self.outbox.store_id,
                capabilities=("run_benchmark", "benchmark_status"),
            )

        return Link(
            ServerConfig(url=self._site.url),
            credentials=Credentials(state.folder, Secret(self._site.secret)),
            events=LinkEvents(hello, on_admitted, reporter.request),
            handler=dispatcher,
            timings=SHORT.timings,
            backoff=QUICK,
        )

    async def settled(self) -> None:
        """Wait until it has jobs, and none of them is left to run or to deliver."""
        await self.opened.wait()
        while (counts := self.outbox.counts).open or counts.finished_unacknowledged:
            await self.outbox.wait_changed(self.outbox.generation)
