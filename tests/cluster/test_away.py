"""PostgreSQL is away: clear errors in time, nothing acknowledged that is not stored, and a return."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from obt_agent.errors import StorageFailed
from obt_agent.protocol.limits import Close
from obt_server.store import Database, SqlStorage, postgresql
from obt_server.store.postgresql import DatabaseUnavailable
from tests.cluster.postgresql import PostgreSQL, say
from tests.server import conftest as servers
from tests.server.agent_double import dial
from tests.server.conftest import Running, running
from tests.server.job_steps import finish
from tests.server.test_admission import refused as unadmitted
from tests.waiting import until

SLACK_S = 20
"""For a machine at load 20; what is measured is whether there is an end at all."""


@pytest.fixture(autouse=True)
def shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds, so that no test waits for half a minute."""
    for name, seconds in {"TRANSACTION_S": 3, "CONNECT_S": 2, "REPEATED_S": 2}.items():
        monkeypatch.setattr(postgresql, name, seconds)


@pytest.fixture
async def server(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setattr(servers, "address_in", lambda folder: database)
    async with running(tmp_path) as one:
        yield one


async def test_a_database_that_hangs_is_given_up_in_time_and_used_again_when_it_goes_on(
    database: str, postgres: PostgreSQL
) -> None:
    with contextlib.closing(Database.open(database)) as opened:
        storage = SqlStorage(opened)

        async def write(name: str) -> float:
            began = time.monotonic()
            with pytest.raises(DatabaseUnavailable, match="does not answer"):
                await storage.create_join_token(name, note=name, agent_id=None, at=1.0, expires_at=2.0)
            return time.monotonic() - began

        await storage.create_join_token("before", note="before", agent_id=None, at=1.0, expires_at=2.0)
        postgres.hang()
        try:
            async with asyncio.timeout(3 + 2 + SLACK_S):
                took = await asyncio.gather(*(write(f"w{number}") for number in range(20)), write("last"))
            with pytest.raises(DatabaseUnavailable):
                await storage.join_tokens()
        finally:
            postgres.go_on()
        say(f"21 writes while it hung: answered after {min(took):.1f} to {max(took):.1f} s")

        async def works() -> bool:
            with contextlib.suppress(DatabaseUnavailable):
                await storage.create_join_token("after", note="after", agent_id=None, at=1.0, expires_at=2.0)
                return True
            return False

        await until(works)
        assert {"before", "after"} <= {token.note for token in await storage.join_tokens()}


async def test_a_transaction_that_was_slow_is_repeated_once_in_any_case(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else a machine that stands for a second makes the repeat too late.
    monkeypatch.setattr(postgresql, "TRANSACTION_S", 60)
    attempts = 0

    def slow(db: Session) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            # Longer than repeats take in all: the machine, and not others who write the same.
            time.sleep(postgresql.REPEATED_S + 0.1)
            db.execute(text("do $$ begin raise exception 'conflict' using errcode = '40001'; end $$"))

    with contextlib.closing(Database.open(database)) as opened:
        await opened.run(slow)
    assert attempts == 2


async def test_what_was_acknowledged_is_there_after_a_crash_of_the_database(
    database: str, postgres: PostgreSQL
) -> None:
    acknowledged: list[str] = []
    refused = 0
    crashed = asyncio.Event()
    with contextlib.closing(Database.open(database)) as opened:
        storage = SqlStorage(opened)

        async def writer(number: int) -> None:
            nonlocal refused
            turn = 0
            while not crashed.is_set() or len(acknowledged) < 400:
                name, turn = f"{number}-{turn}", turn + 1
                try:
                    await storage.create_join_token(name, note=name, agent_id=None, at=1.0, expires_at=2.0)
                except DatabaseUnavailable:
                    refused += 1
                    await asyncio.sleep(0.05)
                else:
                    acknowledged.append(name)

        writers = [asyncio.create_task(writer(number)) for number in range(6)]

        async def crash_after(count: int) -> None:
            await until(lambda: len(acknowledged) >= count)
            await asyncio.to_thread(postgres.stop)
            before = refused
            await until(lambda: refused > before)
            await asyncio.to_thread(postgres.start)

        await crash_after(50)
        await crash_after(150)
        crashed.set()
        await asyncio.gather(*writers)
        stored = {token.note for token in await storage.join_tokens()}
    say(f"{len(acknowledged)} acknowledged through 2 crashes, {refused} refused, {len(stored)} stored")
    assert set(acknowledged) <= stored
    assert len(acknowledged) == len(set(acknowledged))


async def test_a_start_without_a_database_says_so_in_one_line(database: str, postgres: PostgreSQL) -> None:
    postgres.stop()
    try:
        with pytest.raises(DatabaseUnavailable) as refused:
            Database.open(database)
    finally:
        postgres.start()
    assert "does not answer" in refused.value.message
    assert "\n" not in refused.value.message
    Database.open(database).close()


async def test_requests_are_answered_503_and_agents_keep_their_results_until_it_is_back(
    server: Running, postgres: PostgreSQL
) -> None:
    async with server.agent() as agent:
        assert (await finish(agent, "j0", '{"a":1}')).sha256
        await asyncio.to_thread(postgres.stop)
        try:
            answer = await server.http.post("/api/v1/join-tokens", json={"note": "n"})
            assert (answer.status_code, answer.json()["error"]["kind"]) == (503, "storage_failed")
            assert answer.json()["error"]["retryable"]
            assert answer.headers["Retry-After"] == "1"
            assert (await server.http.get("/readyz")).status_code == 503
            assert (await server.http.get("/healthz")).status_code == 200
            with pytest.raises(StorageFailed) as refused:
                await finish(agent, "j1", '{"a":1}')
            assert refused.value.retryable
            upgrade = await unadmitted(server, "a credential")
            assert (upgrade.response.status_code, upgrade.response.headers["Retry-After"]) == (503, "1")
        finally:
            await asyncio.to_thread(postgres.start)

        async def ready() -> bool:
            return (await server.http.get("/readyz")).status_code == 200

        await until(ready)
        assert (await finish(agent, "j1", '{"a":1}')).sha256, "on the same link"


async def test_a_hello_that_cannot_be_stored_lets_the_agent_come_back_later(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent_id, secret = await server.enrol()

    async def away(_: object) -> int:
        raise DatabaseUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(server.parts.storage, "admit", away)
        async with dial(server.url, secret, agent_id) as agent:
            answer = asyncio.create_task(agent.hello())
            assert (await agent.until_closed())[0] == Close.DRAINING
            await asyncio.wait({answer})
            assert answer.cancelled(), "unanswered"
    async with server.agent(credentials=(agent_id, secret)):
        pass
