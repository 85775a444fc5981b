"""Limits on guessing, and shares of tokens, hold over all replicas together."""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from obt_server.auth.limiter import FREE_FAILURES, MAX_DELAY_S, FailureLimiter
from obt_server.bus import Exchanges, LocalBroker, LocalBus
from obt_server.hub.budget import WaitingBudget
from obt_server.replicas import limits as shared_limits
from obt_server.replicas.limits import SharedLimits
from obt_server.replicas.membership import Membership
from obt_server.replicas.subjects import Subjects
from obt_server.store import Database, SqlStorage
from tests.server.databases import address_in
from tests.waiting import until

KEY = ("admin", "10.0.0.1")


@dataclass
class Parts:
    """What limits need of a replica."""

    membership: Membership
    bus: LocalBus
    exchanges: Exchanges

    @property
    def subjects(self) -> Subjects:
        return Subjects(self.membership.cluster)


@dataclass
class Replica:
    """The limits of one replica."""

    membership: Membership
    bus: LocalBus
    shared: SharedLimits
    limiter: FailureLimiter = field(default_factory=FailureLimiter)
    open: dict[str, int] = field(default_factory=dict)

    @property
    def counted(self) -> int:
        return sum(found.count for found in self.limiter._failures.values())  # noqa: SLF001 - shown nowhere

    def wait_s(self, now: float | None = None) -> float:
        return self.limiter.wait_s(KEY, time.monotonic() if now is None else now)

    def delay_s(self) -> float:
        """How long the last failure makes somebody wait, however long ago it was."""
        return max((self.wait_s(found.last) for found in self.limiter._failures.values()), default=0.0)  # noqa: SLF001 - shown nowhere


@contextlib.asynccontextmanager
async def replica(storage: SqlStorage, broker: LocalBroker) -> AsyncIterator[Replica]:
    membership, bus = Membership(storage), LocalBus(broker)
    await membership.start()
    exchanges = Exchanges(bus, membership.replica_id, WaitingBudget(1 << 20))
    shared = SharedLimits(Parts(membership, bus, exchanges))
    one = Replica(membership, bus, shared)
    shared.share("sign-ins", one.limiter)
    shared.count_open(lambda: one.open)
    await shared.start()
    try:
        yield one
    finally:
        await shared.close()
        await membership.close()
        await bus.close()


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[list[Replica]]:
    database = Database.open(address_in(tmp_path))
    broker = LocalBroker()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(database.close)
        some = [await stack.enter_async_context(replica(SqlStorage(database), broker)) for _ in range(3)]
        await until(lambda: all(len(one.membership.others) == 2 for one in some))
        yield some


def all_counted(some: list[Replica], failures: int) -> bool:
    return {one.counted for one in some} == {failures}


async def test_guesses_at_three_replicas_are_as_many_as_at_one(three: list[Replica]) -> None:
    guesses = 0
    for one in itertools.cycle(three):
        if one.delay_s() > 0:
            break
        guesses += 1
        one.limiter.failed(KEY, time.monotonic())
        await until(functools.partial(all_counted, three, guesses))
    # One alone lets somebody try so often before the first delay.
    assert guesses == FREE_FAILURES
    assert all(one.delay_s() > 0 for one in three)


async def test_a_success_anywhere_is_one_everywhere(three: list[Replica]) -> None:
    for _ in range(FREE_FAILURES + 10):
        three[0].limiter.failed(KEY, time.monotonic())
    await until(lambda: all(one.wait_s() > MAX_DELAY_S / 2 for one in three))
    three[1].limiter.succeeded(KEY)
    await until(lambda: all(one.wait_s() == 0 for one in three))


async def test_a_flood_of_failures_is_told_in_few_messages(three: list[Replica]) -> None:
    heard: list[bytes] = []
    await three[2].bus.subscribe("obt.>", lambda message: heard.append(message.data))
    for number in range(shared_limits.MOST_TOLD * 3):
        three[0].limiter.failed(("admin", f"10.0.{number}"), time.monotonic())
    three[0].limiter.failed(KEY, time.monotonic())
    await until(lambda: three[1].counted == shared_limits.MOST_TOLD)
    assert len(heard) <= 3
    # What was not told is counted where it came in.
    assert three[0].counted == shared_limits.MOST_TOLD * 3 + 1


async def test_without_the_bus_each_counts_for_itself(three: list[Replica]) -> None:
    three[0].bus.lose()
    for _ in range(FREE_FAILURES + 3):
        three[0].limiter.failed(KEY, time.monotonic())
    assert three[0].wait_s() > 0
    # What could not be told is not told later.
    await until(lambda: not three[0].shared._untold)  # noqa: SLF001 - it shows nowhere else
    three[0].bus.restore()
    three[0].limiter.failed(KEY, time.monotonic())
    await until(lambda: three[1].counted == 1)
    assert three[1].wait_s() == 0


async def test_open_requests_of_a_token_are_those_of_all_replicas(three: list[Replica]) -> None:
    one, two, last = three
    one.open["7"], two.open["7"] = 3, 4
    await until(lambda: last.shared.open_elsewhere("7") == 7)
    assert one.shared.open_elsewhere("7") == 4
    # What ended is told once, and then nothing more.
    del one.open["7"]
    await until(lambda: last.shared.open_elsewhere("7") == 4)
    # One that left counts no more, whatever it said last.
    await two.membership.close()
    await until(lambda: last.shared.open_elsewhere("7") == 0)


async def test_counts_of_a_replica_that_is_not_heard_hold_for_a_while(
    three: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _, last = three
    one.open["7"] = 3
    await until(lambda: last.shared.open_elsewhere("7") == 3)
    one.bus.lose()
    assert last.shared.open_elsewhere("7") == 3
    monkeypatch.setattr(shared_limits, "COUNT_VALID_S", 0.0)
    assert last.shared.open_elsewhere("7") == 0
    assert last.shared.open_elsewhere("other") == 0
