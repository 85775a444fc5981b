"""The whole agent within this process: built as the daemon builds it, with deadlines of the test's choice."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from obt_agent.config.schema import Config
from obt_agent.daemon.components import Components, build
from obt_agent.identity.secret import Secret
from obt_agent.identity.state_dir import StateDir
from obt_agent.link.session import LinkSession
from obt_agent.protocol.admission import HelloResult
from tests.faults.timing import Timing

OUTBOX_DRAIN_S = 0.5


@dataclass(frozen=True)
class Site:
    """Where an agent lives and whom it serves."""

    folder: Path
    url: str
    ollama_url: str
    secret: str
    ca_file: Path | None = None

    def config(self) -> Config:
        """As its owner would write it."""
        server = {"url": self.url, "ca_file": None if self.ca_file is None else str(self.ca_file)}
        return msgspec.convert(
            {
                "server": server,
                "ollama": {"url": self.ollama_url, "poll_interval_s": 0.5},
                "agent": {"name": "box", "state_dir": str(self.folder)},
                "benchmark": {"cooldown_s": 0},
            },
            Config,
        )


class Agent:
    """An agent from its start to its end."""

    def __init__(self, site: Site, timing: Timing) -> None:
        self.site = site
        self.timing = timing
        self.components: Components
        self.state: StateDir
        self.admitted: asyncio.Queue[LinkSession] = asyncio.Queue()
        self._stack = AsyncExitStack()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Build it and let it run."""
        self.state = self._stack.enter_context(StateDir.open(self.site.folder))
        self.components = await build(
            self._stack,
            self.site.config(),
            self.state,
            Secret(self.site.secret),
            timings=self.timing.timings,
            backoff=self.timing.backoff,
        )
        components = self.components
        components.on_admitted = self._on_admitted
        await components.hardware.start()
        self._own(components.catalog.run(), "catalog")
        self._own(components.jobs.run(), "jobs")
        self._own(components.link.run(), "link")

    def _on_admitted(self, session: LinkSession, hello: HelloResult) -> None:
        beat_s = hello.heartbeat_interval_s or 15.0
        self._own(self.components.reporter.run(session, beat_s), f"report-{session.number}")
        self._own(self.components.jobs.report(session, hello.time), f"jobs-{session.number}")
        self.admitted.put_nowait(session)

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=f"agent {name}")
        self._tasks[name] = task
        task.add_done_callback(lambda _: self._tasks.pop(name, None))

    @property
    def problem(self) -> str:
        """What the link says is wrong."""
        return self.components.link.status.problem or ""

    async def session(self) -> LinkSession:
        """The newest admitted session, waited for."""
        session = await self.admitted.get()
        while not self.admitted.empty():
            session = self.admitted.get_nowait()
        return session

    async def end(self) -> None:
        """The orderly end, in the order of the daemon's own."""
        components = self.components
        components.dispatcher.stop_accepting()
        queue = self._tasks.get("jobs")
        if queue is not None:
            queue.cancel()
            await asyncio.wait([queue])
        await components.jobs.close()
        await components.dispatcher.close()
        if components.link.session is not None:
            await components.jobs.uploader.drain(OUTBOX_DRAIN_S)
        await components.link.drain("shutdown")
        await self.close()

    async def close(self) -> None:
        """Stop everything that still runs, and close the files."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._stack.aclose()
