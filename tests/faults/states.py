"""What an agent is in the midst of when a fault strikes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from obt_agent.errors import AgentError
from obt_agent.link.session import LinkSession
from tests.faults.environment import MODEL, Environment
from tests.waiting import until

UPLOAD_BYTES = 600_000
UPLOAD_RATE = 256 << 10
CROWD = 8
CROWDED_BYTES = 1 << 20
ITERATIONS = 8


@dataclass
class Busy:
    """A session and what goes on in it. ``readers`` are the server's ends of streams."""

    session: LinkSession
    readers: tuple[Reader, ...] = ()

    async def stop(self) -> None:
        """Nobody wants the streams any more."""
        for reader in self.readers:
            reader.task.cancel()
        await self.ended()

    async def ended(self) -> None:
        """Wait for the streams' ends."""
        await asyncio.gather(*(reader.task for reader in self.readers), return_exceptions=True)


class Reader:
    """Reads one endless generation as a server's user does."""

    def __init__(self, environment: Environment) -> None:
        self.items = 0
        self.ended_with: AgentError | None = None
        self.task = asyncio.create_task(self._read(environment), name="reader")

    async def _read(self, environment: Environment) -> None:
        params = {"model": MODEL, "prompt": "x", "options": {"num_predict": 90_000}}
        try:
            async with environment.server.hub.stream(environment.agent_id, "generate", params) as stream:
                async for batch in stream.text_batches():
                    self.items += len(batch)
        except AgentError as error:
            self.ended_with = error


State = Callable[[Environment], contextlib.AbstractAsyncContextManager[Busy]]


@contextlib.asynccontextmanager
async def idle(environment: Environment) -> AsyncIterator[Busy]:
    """Between two dials: the server is away, and comes back in the instant in which the fault strikes."""
    await environment.agent.start()
    session = await environment.agent.session()
    environment.gate.refusing = True
    await environment.gate.cut()
    await until(lambda: environment.agent.components.link.status.state == "waiting")
    yield Busy(session)


@contextlib.asynccontextmanager
async def admitted(environment: Environment) -> AsyncIterator[Busy]:
    """A session in which nothing is asked."""
    await environment.agent.start()
    yield Busy(await environment.agent.session())


@contextlib.asynccontextmanager
async def streaming(environment: Environment, count: int = 1) -> AsyncIterator[Busy]:
    """Generations that never end by themselves."""
    await environment.agent.start()
    session = await environment.agent.session()
    busy = Busy(session, tuple(Reader(environment) for _ in range(count)))
    try:
        await until(lambda: all(reader.items > 0 for reader in busy.readers))
        yield busy
    finally:
        await busy.stop()


@contextlib.asynccontextmanager
async def crowded(environment: Environment) -> AsyncIterator[Busy]:
    """Eight generations, and a result that waits behind them: as much as a slow link is promised to bear."""
    environment.standin.script.num_parallel = CROWD
    await environment.store_result(CROWDED_BYTES)
    environment.gate.up.bytes_per_second = UPLOAD_RATE
    async with streaming(environment, CROWD) as busy:
        yield busy


@contextlib.asynccontextmanager
async def uploading(environment: Environment) -> AsyncIterator[Busy]:
    """In the middle of a result of many pieces."""
    await environment.store_result(UPLOAD_BYTES)
    environment.gate.up.bytes_per_second = UPLOAD_RATE
    await environment.agent.start()
    session = await environment.agent.session()
    begun = environment.gate.up.passed
    await until(lambda: environment.gate.up.passed > begun + UPLOAD_BYTES // 8)
    yield Busy(session)


@contextlib.asynccontextmanager
async def benchmarking(environment: Environment) -> AsyncIterator[Busy]:
    """In the middle of a benchmark."""
    await environment.agent.start()
    session = await environment.agent.session()
    job_id = await environment.start_benchmark(num_iterations=ITERATIONS)

    def measuring() -> bool:
        presence = environment.server.hub.presence(environment.agent_id)
        job_progress = presence.progress.get(job_id) if presence is not None else None
        return job_progress is not None and (job_progress.progress.iteration or 0) >= 1

    await until(measuring)
    yield Busy(session)


@contextlib.asynccontextmanager
async def draining(environment: Environment) -> AsyncIterator[Busy]:
    """At its orderly end, with a generation and a result on the way; the cell begins the end."""
    await environment.store_result(UPLOAD_BYTES)
    environment.gate.up.bytes_per_second = UPLOAD_RATE
    async with streaming(environment) as busy:
        yield busy


STATES: dict[str, State] = {
    "idle": idle,
    "admitted": admitted,
    "streaming": streaming,
    "crowded": crowded,
    "uploading": uploading,
    "benchmark": benchmarking,
    "draining": draining,
}
