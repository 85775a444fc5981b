"""One replica at a time does what one alone does, and what it began ends when it leads no more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from obt_agent.errors import StorageFailed
from obt_server.replica_storage import LeaderLease
from obt_server.replicas import leadership
from obt_server.replicas.leadership import Leadership
from obt_server.replicas.membership import Membership
from obt_server.store import Database, SqlStorage
from tests.server.databases import address_in
from tests.waiting import until


@dataclass
class Seat:
    """A replica that would lead; its clock goes on when a test says so."""

    storage: SqlStorage
    log: list[tuple[str, str]]
    name: str
    now: float = 1000.0
    leases: list[LeaderLease] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    """What the next terms fail with when they begin."""
    stuck: bool = False
    """Whether terms never come to their beginning."""

    def __post_init__(self) -> None:
        self.membership = Membership(self.storage, lambda: self.now)
        self.leadership = Leadership(self.membership, self.led)

    @contextlib.asynccontextmanager
    async def led(self, lease: LeaderLease) -> AsyncIterator[None]:
        self.leases.append(lease)
        self.log.append((self.name, "begins"))
        try:
            if self.failures:
                raise self.failures.pop()
            if self.stuck:
                await asyncio.get_running_loop().create_future()
            yield
        finally:
            # What takes a moment to end.
            await asyncio.sleep(0)
            self.log.append((self.name, "ends"))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.membership.start()
        await self.leadership.start()
        try:
            yield
        finally:
            await self.leadership.close()
            await self.membership.close()


@pytest.fixture
def storage(tmp_path: Path) -> Any:
    with contextlib.closing(Database.open(address_in(tmp_path))) as database:
        yield SqlStorage(database)


async def test_one_leads_at_a_time_and_the_next_when_it_left(storage: SqlStorage) -> None:
    log: list[tuple[str, str]] = []
    first, second = Seat(storage, log, "first"), Seat(storage, log, "second")
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(first.running())
        await until(lambda: log == [("first", "begins")])
        await stack.enter_async_context(second.running())
        await until(lambda: second.membership.leader == first.membership.replica_id)
        await first.leadership.close()
        await first.membership.close()
        await until(lambda: ("second", "begins") in log)
    assert log == [("first", "begins"), ("first", "ends"), ("second", "begins"), ("second", "ends")]
    assert second.leases[0].epoch > first.leases[0].epoch


async def test_a_leader_that_hears_nothing_of_the_database_ends_by_its_own_clock(
    storage: SqlStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[tuple[str, str]] = []
    seat = Seat(storage, log, "first")
    async with seat.running():
        await until(lambda: log == [("first", "begins")])
        beat = storage.beat

        async def away(*_: Any, **__: Any) -> Any:
            raise StorageFailed("away")

        monkeypatch.setattr(storage, "beat", away)
        seat.now += 8.0
        await until(lambda: log == [("first", "begins"), ("first", "ends")])
        # It may lead again when the database is back, in a term of its own.
        monkeypatch.setattr(storage, "beat", beat)
        await until(lambda: len(seat.leases) == 2)
    assert seat.leases[1].epoch > seat.leases[0].epoch


async def test_a_term_that_cannot_begin_is_tried_again(
    storage: SqlStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leadership, "AGAIN_AFTER_S", 0.01)
    seat = Seat(storage, [], "first", failures=[StorageFailed("full"), ValueError("a fault")])
    async with seat.running():
        await until(lambda: len(seat.leases) == 3)
        assert seat.membership.leading


async def test_a_term_ends_also_where_it_has_not_begun(storage: SqlStorage) -> None:
    log: list[tuple[str, str]] = []
    seat = Seat(storage, log, "first", stuck=True)
    async with seat.running():
        await until(lambda: log == [("first", "begins")])
        seat.now += 8.0
        await until(lambda: ("first", "ends") in log)
