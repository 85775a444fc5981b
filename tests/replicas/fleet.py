"""Several servers in one process, on one database and one bus."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from obt_server.bus import LocalBroker, LocalBus
from obt_server.replicas.fleet_hub import FleetHub
from tests.server.agent_double import AgentDouble
from tests.server.conftest import Running, running
from tests.waiting import until


@dataclass
class Replica:
    """One of them; ``bus.lose()`` and ``bus.restore()`` are what its network does."""

    server: Running
    bus: LocalBus
    hub: FleetHub

    async def hears_of(self, agent: AgentDouble) -> None:
        """Wait until the agent is there for this one."""
        session = agent.hello_result.session if agent.hello_result is not None else 0

        def known() -> bool:
            presence = self.hub.presence(agent.agent_id)
            return presence is not None and presence.session >= session

        await until(known)

    async def misses(self, agent_id: str) -> None:
        """Wait until an agent is not there any more."""
        await until(lambda: self.hub.presence(agent_id) is None)


@dataclass
class Fleet:
    """The servers, and the bus between them."""

    folder: Path
    broker: LocalBroker
    replicas: list[Replica]

    @contextlib.asynccontextmanager
    async def another(self, *, lost: bool = False, **options: Any) -> AsyncIterator[Replica]:
        """One more server; ``lost``: without the bus."""
        bus = LocalBus(self.broker)
        if lost:
            bus.lose()
        async with running(self.folder, bus=bus, **options) as server:
            hub = server.parts.hub
            assert isinstance(hub, FleetHub)
            replica = Replica(server, bus, hub)
            self.replicas.append(replica)
            try:
                yield replica
            finally:
                self.replicas.remove(replica)


@contextlib.asynccontextmanager
async def fleet_of(folder: Path, count: int = 2, **options: Any) -> AsyncIterator[Fleet]:
    """So many servers that know of each other."""
    fleet = Fleet(folder, LocalBroker(), [])
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(count):
            await stack.enter_async_context(fleet.another(**options))
        yield fleet


def asked_last(agent: AgentDouble) -> str:
    """The method that an agent was asked for last."""
    return agent.requests[-1].method if agent.requests else ""
