"""What an agent is in the midst of when a fault strikes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import msgspec

from obt_agent.errors import AgentError
from obt_agent.link.session import LinkSession
from tests.faults.place import MODEL, Place
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

    def __init__(self, place: Place) -> None:
        self.items = 0
        self.ended_with: AgentError | None = None
        self.task = asyncio.create_task(self._read(place), name="reader")

    async def _read(self, place: Place) -> None:
        params = msgspec.Raw(
            msgspec.json.encode({"model": MODEL, "prompt": "x", "options": {"num_predict": 90_000}})
        )
        try:
            async with place.server.hub.stream(place.agent_id, "generate", params) as stream:
                async for batch in stream.batches():
                    self.items += len(batch)
        except AgentError as error:
            self.ended_with = error


State = Callable[[Place], contextlib.AbstractAsyncContextManager[Busy]]


@contextlib.asynccontextmanager
async def idle(place: Place) -> AsyncIterator[Busy]:
    """Between two dials: the server is away, and comes back in the instant in which the fault strikes."""
    await place.agent.start()
    session = await place.agent.session()
    place.gate.refusing = True
    await place.gate.cut()
    await until(lambda: place.agent.components.link.status.state == "waiting")
    yield Busy(session)


@contextlib.asynccontextmanager
async def admitted(place: Place) -> AsyncIterator[Busy]:
    """A session in which nothing is asked."""
    await place.agent.start()
    yield Busy(await place.agent.session())


@contextlib.asynccontextmanager
async def streaming(place: Place, count: int = 1) -> AsyncIterator[Busy]:
    """Generations that never end by themselves."""
    await place.agent.start()
    session = await place.agent.session()
    busy = Busy(session, tuple(Reader(place) for _ in range(count)))
    try:
        await until(lambda: all(reader.items > 0 for reader in busy.readers))
        yield busy
    finally:
        await busy.stop()


@contextlib.asynccontextmanager
async def crowded(place: Place) -> AsyncIterator[Busy]:
    """Eight generations, and a result that waits behind them: as much as a slow link is promised to bear."""
    place.standin.script.num_parallel = CROWD
    await place.store_result(CROWDED_BYTES)
    place.gate.up.bytes_per_second = UPLOAD_RATE
    async with streaming(place, CROWD) as busy:
        yield busy


@contextlib.asynccontextmanager
async def uploading(place: Place) -> AsyncIterator[Busy]:
    """In the middle of a result of many pieces."""
    await place.store_result(UPLOAD_BYTES)
    place.gate.up.bytes_per_second = UPLOAD_RATE
    await place.agent.start()
    session = await place.agent.session()
    begun = place.gate.up.passed
    await until(lambda: place.gate.up.passed > begun + UPLOAD_BYTES // 8)
    yield Busy(session)


@contextlib.asynccontextmanager
async def benchmarking(place: Place) -> AsyncIterator[Busy]:
    """In the middle of a benchmark."""
    await place.agent.start()
    session = await place.agent.session()
    job_id = await place.start_benchmark(num_iterations=ITERATIONS)

    def measuring() -> bool:
        presence = place.server.hub.presence(place.agent_id)
        told = presence.progress.get(job_id) if presence is not None else None
        return told is not None and (told.progress.iteration or 0) >= 1

    await until(measuring)
    yield Busy(session)


@contextlib.asynccontextmanager
async def draining(place: Place) -> AsyncIterator[Busy]:
    """At its orderly end, with a generation and a result on the way; the cell begins the end."""
    await place.store_result(UPLOAD_BYTES)
    place.gate.up.bytes_per_second = UPLOAD_RATE
    async with streaming(place) as busy:
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
