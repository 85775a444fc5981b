"""Server processes at one bus, as far as exchanges go: all in this process, messages can be lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

from obt_agent.errors import AgentError
from obt_server.bus import Bus, BusSubscription, Exchanges, ExchangeSettings, LocalBroker, LocalBus
from obt_server.bus.bus import Take
from obt_server.bus.frames import Envelope, Kind, unpack
from obt_server.hub.budget import WaitingBudget
from obt_server.hub.errors import AgentOffline

NATS: Final = os.environ.get("OBT_TEST_NATS", "")
"""Address of a real NATS that these tests run on in place of a bus inside the process."""
MOST_BYTES: Final = 256 << 20

Fate = Callable[[Envelope], int]
"""How many times a message arrives."""


class Elsewhere(AgentError):
    """An error that only servers know."""

    kind = "elsewhere"


class FaultyBus:
    """A connection that loses messages, or doubles them."""

    def __init__(self, bus: Bus) -> None:
        self.inner = bus
        self.fate: Fate = lambda frame: 1
        # what was sent, lost or not
        self.sent: list[Envelope] = []
        # where answers to requests were expected
        self.replies: list[str] = []

    async def start(self) -> None:
        await self.inner.start()

    @property
    def connected(self) -> bool:
        return self.inner.connected

    @property
    def max_payload(self) -> int:
        return self.inner.max_payload

    async def publish(self, subject: str, data: bytes, reply: str | None = None) -> None:
        frame = unpack(data)
        self.sent.append(frame)
        self.replies += [] if reply is None else [reply]
        for _ in range(self.fate(frame)):
            await self.inner.publish(subject, data, reply)

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        return await self.inner.request(subject, data, timeout_s)

    async def subscribe(self, subject: str, take: Take) -> BusSubscription:
        return await self.inner.subscribe(subject, take)

    def on_connection(self, observer: Callable[[bool], None]) -> None:
        self.inner.on_connection(observer)

    async def close(self) -> None:
        await self.inner.close()

    def kinds(self) -> list[Kind]:
        """Return what was sent, without signs of life."""
        quiet = {Kind.CALLER_ALIVE, Kind.SERVER_ALIVE}
        return [frame.kind for frame in self.sent if frame.kind not in quiet]


@dataclass
class Side:
    """One process."""

    bus: FaultyBus
    exchanges: Exchanges
    budget: WaitingBudget


@dataclass
class Sides:
    """Those of a test.

    Args:
        real: whether the environment may put a real NATS under them.
    """

    real: bool = True
    prefix: str = field(default_factory=lambda: f"obt.{uuid.uuid4().hex}")
    broker: LocalBroker = field(default_factory=LocalBroker)
    all: list[Side] = field(default_factory=list)

    @property
    def subject(self) -> str:
        """One to serve."""
        return f"{self.prefix}.replica.b"

    async def join(self, settings: ExchangeSettings | None = None, most: int = MOST_BYTES) -> Side:
        """Start another."""
        chosen = settings or ExchangeSettings(prefix=self.prefix, errors=(AgentOffline, Elsewhere))
        bus = FaultyBus(await self.connect())
        budget = WaitingBudget(most)
        side = Side(bus, Exchanges(bus, f"replica {len(self.all)}", budget, chosen), budget)
        await side.exchanges.start()
        self.all.append(side)
        return side

    async def connect(self) -> Bus:
        """Return a connection: to a real NATS where the environment names one."""
        if not NATS or not self.real:
            return LocalBus(self.broker)
        from obt_server.bus.nats import NatsBus, NatsSettings  # noqa: PLC0415 - not installed everywhere

        bus = NatsBus(NatsSettings((NATS,)))
        await bus.start()
        return bus

    async def close(self) -> None:
        """End them, and check that nothing is left."""
        for side in self.all:
            await side.exchanges.close()
            await side.bus.close()
        await asyncio.sleep(0)
        assert [side.exchanges.open_calls for side in self.all] == [0] * len(self.all)
        assert [side.budget.held for side in self.all] == [0] * len(self.all)


@contextlib.asynccontextmanager
async def sides(*, real: bool = True) -> AsyncIterator[Sides]:
    """Processes for as long as the context lasts."""
    some = Sides(real)
    try:
        yield some
    finally:
        await some.close()
