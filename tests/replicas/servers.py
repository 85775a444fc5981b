"""Several servers of one database in this process, with a bus between them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from obt_server.bus import LocalBroker, LocalBus
from obt_server.replica_storage import LeaderLease
from obt_server.replicas.fleet_hub import FleetHub
from tests.campaigns.machines import QUICK as QUICK_CAMPAIGNS
from tests.rollouts.machines import QUICK as QUICK_ROLLOUTS
from tests.server.conftest import Running, running
from tests.waiting import until


def fleet_of(server: Running) -> FleetHub:
    hub = server.parts.hub
    assert isinstance(hub, FleetHub)
    return hub


def bus_of(server: Running) -> LocalBus:
    bus = fleet_of(server).bus
    assert isinstance(bus, LocalBus)
    return bus


def leads(server: Running) -> bool:
    """Whether its engines run."""
    membership = fleet_of(server).membership
    return membership.leading and server.parts.context.engines.now.running


def lease_of(server: Running) -> LeaderLease:
    lease = fleet_of(server).membership.lease
    assert lease is not None
    return lease


@contextlib.asynccontextmanager
async def replicas(
    folder: Path, count: int = 2, broker: LocalBroker | None = None, *, beside: int = 0, **options: Any
) -> AsyncIterator[list[Running]]:
    """So many servers, the leader first, when all know each other, and those that are there already."""
    broker = broker or LocalBroker()
    options = {"rollouts": QUICK_ROLLOUTS, "campaigns": QUICK_CAMPAIGNS} | options
    async with contextlib.AsyncExitStack() as stack:
        some = [
            await stack.enter_async_context(running(folder, bus=LocalBus(broker), **options))
            for _ in range(count)
        ]
        await until(lambda: all(len(fleet_of(one).membership.others) == count - 1 + beside for one in some))
        await until(lambda: beside or any(leads(one) for one in some))
        await until(lambda: len({fleet_of(one).membership.leader for one in some}) == 1)
        yield sorted(some, key=leads, reverse=True)
