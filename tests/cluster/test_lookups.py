"""Single statements on PostgreSQL in the event loop: who has an agent."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

import pytest

from obt_server.hub.storage import Admission
from obt_server.replica_storage import Owner
from obt_server.storage import Enrolment
from obt_server.store import Database, SqlStorage, lookups, postgresql
from obt_server.store.column_types import NulInText
from obt_server.store.postgresql import DatabaseUnavailable
from tests.cluster.postgresql import PostgreSQL
from tests.server.enrolling import enrol
from tests.waiting import until

ADMISSION = Admission(
    agent_id="a0",
    credential_id=1,
    name="box",
    version="1",
    store_id="s",
    capabilities=(),
    replica="r1",
    at=1.0,
)


@pytest.fixture
async def opened(database: str) -> AsyncIterator[Database]:
    with contextlib.closing(Database.open(database)) as one:
        for number in range(3):
            enrolment = Enrolment(agent_id=f"a{number}", name=f"box {number}", version="1", secret_sha256="0")
            await enrol(SqlStorage(one), dataclasses.replace(enrolment, secret_sha256=f"{number}"), 1.0)
        yield one


async def some_turns() -> None:
    """Let the loop do what needs no answer of anybody."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_each_look_sees_what_was_committed_before_it(opened: Database) -> None:
    storage = SqlStorage(opened)
    assert await storage.owner("nobody") is None
    assert await storage.owner("a0") == Owner(session=0, replica=None)
    for replica in ("r1", "r2", "r1"):
        record = await storage.admit(dataclasses.replace(ADMISSION, replica=replica))
        assert await storage.owner("a0") == Owner(session=record.session, replica=replica)


async def test_many_at_once_have_each_their_own_answer(opened: Database) -> None:
    storage = SqlStorage(opened)
    for number in range(3):
        await storage.admit(dataclasses.replace(ADMISSION, agent_id=f"a{number}", replica=f"r{number}"))
    asked = [f"a{number % 4}" for number in range(200)]
    found = await asyncio.gather(*map(storage.owner, asked))
    replicas = [None if owner is None else owner.replica for owner in found]
    assert replicas == [{"a0": "r0", "a1": "r1", "a2": "r2"}.get(agent_id) for agent_id in asked]


async def test_who_gives_up_on_a_database_that_hangs_is_free_at_once_and_the_others_are_told(
    opened: Database, postgres: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = SqlStorage(opened)
    await storage.owner("a0")
    # Longer than the test: whoever gives up must not wait for it.
    monkeypatch.setattr(lookups, "WITHIN_S", 3600.0)
    postgres.hang()
    try:
        async with asyncio.timeout(60):
            asked = asyncio.create_task(storage.owner("a0"))
            await some_turns()
            asked.cancel()
            await some_turns()
            assert asked.done()
            # It is still asked, and this one waits behind it.
            behind = asyncio.create_task(storage.owner("a1"))
            await some_turns()
            assert not behind.done()
            opened.close()
            with pytest.raises(DatabaseUnavailable):
                await behind
    finally:
        postgres.go_on()


async def test_a_statement_that_takes_too_long_is_given_up_and_the_next_one_is_answered(
    opened: Database, postgres: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = SqlStorage(opened)
    await storage.owner("a0")
    monkeypatch.setattr(lookups, "WITHIN_S", 0.2)
    before = opened.counters.undone
    postgres.hang()
    try:
        async with asyncio.timeout(60):
            with pytest.raises(DatabaseUnavailable, match="does not answer") as refused:
                await storage.owner("a0")
        assert refused.value.retry_after_ms == 1000
        assert opened.counters.undone == before + 1
    finally:
        postgres.go_on()
    monkeypatch.setattr(lookups, "WITHIN_S", 60.0)

    async def answered() -> bool:
        with contextlib.suppress(DatabaseUnavailable):
            return await storage.owner("a0") is not None
        return False

    await until(answered)


async def test_a_restart_of_the_database_costs_nobody_an_answer(
    opened: Database, postgres: PostgreSQL
) -> None:
    storage = SqlStorage(opened)
    await storage.owner("a0")
    await asyncio.to_thread(postgres.stop)
    await asyncio.to_thread(postgres.start)
    assert await storage.owner("a0") == Owner(session=0, replica=None)


async def test_a_database_that_is_away_is_not_asked_again_for_a_moment(
    opened: Database, postgres: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than a busy machine takes from one question to the next.
    monkeypatch.setattr(postgresql, "AWAY_S", 10)
    storage = SqlStorage(opened)
    await storage.owner("a0")
    await asyncio.to_thread(postgres.stop)
    try:
        with pytest.raises(DatabaseUnavailable):
            await storage.owner("a0")
        reads = opened.counters.reads
        with pytest.raises(DatabaseUnavailable):
            await storage.owner("a0")
        assert opened.counters.reads == reads, "answered without a question"
    finally:
        await asyncio.to_thread(postgres.start)

    async def answered() -> bool:
        with contextlib.suppress(DatabaseUnavailable):
            return await storage.owner("a0") is not None
        return False

    await until(answered)


async def test_a_text_that_postgresql_cannot_hold_is_refused_as_everywhere(opened: Database) -> None:
    with pytest.raises(NulInText):
        await SqlStorage(opened).owner("a\0")
    assert await SqlStorage(opened).owner("a0") is not None


async def test_after_the_end_nothing_is_asked(opened: Database) -> None:
    storage = SqlStorage(opened)
    await storage.owner("a0")
    opened.close()
    with pytest.raises(DatabaseUnavailable):
        await storage.owner("a0")
