"""A real agent within this process: what ``obt-agent run`` builds, but for signals and the status file."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from obt_agent.backoff import BackoffSettings
from obt_agent.config.schema import (
    AgentConfig,
    BenchmarkConfig,
    Config,
    OllamaConfig,
    OptionsPolicy,
    PolicyConfig,
    ServerConfig,
)
from obt_agent.daemon.components import Components, build
from obt_agent.identity.secret import Secret
from obt_agent.identity.state_dir import StateDir
from obt_agent.link.session import LinkSession
from obt_agent.protocol.admission import HelloResult
from tests.server.conftest import Running
from tests.server.enrolling import enrol_over_http
from tests.waiting import until

MANY = 10_000_000
QUICK = BackoffSettings(minimum_s=0.01, maximum_s=0.1)


@contextlib.asynccontextmanager
async def real_agent(
    server: Running, folder: Path, ollama_url: str, *, name: str = "box", **policy: Any
) -> AsyncIterator[Components]:
    """An agent that is admitted and has said which models it has."""
    folder.mkdir(parents=True, exist_ok=True)
    with StateDir.open(folder) as state:
        _, secret = await enrol_over_http(server.http, name, state.agent_id)
        config = Config(
            server=ServerConfig(url=server.url.replace("http", "ws") + "/api/v1/agents/connect"),
            ollama=OllamaConfig(url=ollama_url, poll_interval_s=0.2),
            agent=AgentConfig(name=name, state_dir=str(folder)),
            policy=PolicyConfig(
                **{"rate_limit": None, "max_tokens": MANY, "options": OptionsPolicy(num_predict=MANY)}
                | policy
            ),
            benchmark=BenchmarkConfig(lock_dir=str(folder / "locks")),
        )
        async with AsyncExitStack() as stack:
            agent = await build(stack, config, state, Secret(secret), backoff=QUICK, gpus=())
            await stack.enter_async_context(at_work(agent))

            def known() -> bool:
                presence = server.parts.hub.presence(state.agent_id)
                return presence is not None and presence.models is not None

            await until(known)
            yield agent


@contextlib.asynccontextmanager
async def at_work(agent: Components) -> AsyncIterator[None]:
    """Run the agent's root tasks while the context lasts."""
    tasks: set[asyncio.Task[None]] = set()

    def own(work: Coroutine[Any, Any, None], task_name: str) -> None:
        tasks.add(asyncio.create_task(work, name=task_name))

    def on_admitted(session: LinkSession, hello: HelloResult) -> None:
        own(agent.reporter.run(session, 15.0), "agent report")
        own(agent.jobs.report(session, hello.time), "agent jobs")

    agent.on_admitted = on_admitted
    await agent.hardware.start()
    for part in ("catalog", "jobs", "link"):
        own(getattr(agent, part).run(), f"agent {part}")
    try:
        yield
    finally:
        await agent.dispatcher.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
