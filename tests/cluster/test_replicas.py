"""Several replicas on one PostgreSQL: one leads, whoever is stopped or cut off writes nothing late."""

import asyncio
import contextlib
import functools
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import msgspec
import psycopg
import pytest
from sqlalchemy import insert
from sqlalchemy.orm import Session

from obt_agent.errors import StorageFailed
from obt_server.cli import main
from obt_server.hub.storage import Admission
from obt_server.replica_storage import LEASE_S, LeaderLease, LeaseLost, ReplicaState
from obt_server.replicas.beat_record import ALIVE_S
from obt_server.replicas.membership import Membership
from obt_server.rollout_storage import ModelSet
from obt_server.storage import Enrolment
from obt_server.store import Database, SqlStorage, leases, postgresql
from obt_server.store.tables import ModelSetRow
from tests.cluster.contest import contest
from tests.cluster.postgresql import PostgreSQL, say
from tests.cluster.test_schema import name_of
from tests.server.enrolling import enrol
from tests.stopping import stop
from tests.waiting import until

ROUNDS = 200
SLACK_S = 60
"""For a machine at load 20."""


@pytest.fixture
def opened(database: str) -> Iterator[Database]:
    with contextlib.closing(Database.open(database)) as one:
        yield one


@pytest.fixture
def storage(opened: Database) -> SqlStorage:
    return SqlStorage(opened)


async def wanted(storage: SqlStorage, name: str) -> None:
    await storage.save_model_set(ModelSet(name=name, models=(), labels=()))


async def expire(postgres: PostgreSQL, address: str) -> None:
    await asyncio.to_thread(postgres.execute, "update obt_leases set expires_at = 1", name_of(address))


async def contend(storage: SqlStorage, process: int) -> list[tuple[int, str | None, str]]:
    """Take the lease and give it up as often as possible."""
    found = []
    for _ in range(ROUNDS):
        beat = await storage.beat(f"r{process}", lead=True)
        found.append((beat.epoch, beat.leader, beat.cluster))
        if beat.leader == f"r{process}":
            await storage.beat(f"r{process}", lead=False)
    return found


async def test_4_processes_that_contend_for_the_lease_hold_it_one_after_another(database: str) -> None:
    Database.open(database).close()
    parts = await asyncio.to_thread(contest, database, contend)
    seen = [one for part in parts for one in part]
    holders: dict[int, set[str]] = {}
    for epoch, leader, _ in seen:
        if leader is not None:
            holders.setdefault(epoch, set()).add(leader)
    won = Counter(leader for leaders in holders.values() for leader in leaders)
    say(f"{4 * ROUNDS} beats: {len(holders)} epochs, by holder {dict(won)}")
    assert all(len(leaders) == 1 for leaders in holders.values())
    assert len({cluster for _, _, cluster in seen}) == 1
    mine = [
        (epoch, process)
        for process, part in enumerate(parts)
        for epoch, leader, _ in part
        if leader == f"r{process}"
    ]
    assert len(mine) == len({epoch for epoch, _ in mine}), "each lease was given once"
    assert len(won) > 1


async def admit_each(storage: SqlStorage, process: int) -> list[int]:
    about = Admission(
        agent_id="a1",
        credential_id=1,
        name="box",
        version="1",
        store_id="s",
        capabilities=(),
        replica=f"r{process}",
        at=2.0,
    )
    numbers = []
    for _ in range(25):
        numbers.append((await storage.admit(about)).session)
        await storage.left({"a1": numbers[-1] - 1})
    return numbers


async def test_100_admissions_at_4_replicas_leave_the_agent_to_the_one_of_the_last_session(
    database: str, storage: SqlStorage
) -> None:
    await enrol(storage, Enrolment(agent_id="a1", name="box", version="1", secret_sha256="s" * 64), 1.0)
    parts = await asyncio.to_thread(contest, database, admit_each)
    last = next(f"r{process}" for process, numbers in enumerate(parts) if 100 in numbers)
    owner = await storage.owner("a1")
    assert owner is not None
    assert (owner.session, owner.replica) == (100, last)


class Held:
    """A write of the leader that stops in the middle, with the lease checked."""

    def __init__(self, database: Database, lease: LeaderLease) -> None:
        self.begun, self.go_on, self.runs = threading.Event(), threading.Event(), 0
        self.task = asyncio.create_task(leases.FencedDatabase(database, lease).run(self._work))

    def _work(self, session: Session) -> None:
        self.runs += 1
        self.begun.set()
        self.go_on.wait(100)
        content = msgspec.json.encode(ModelSet(name="late", models=(), labels=()))
        session.execute(insert(ModelSetRow).values(name="late", content=content))


@pytest.fixture
async def held(opened: Database, storage: SqlStorage) -> AsyncIterator[Held]:
    await storage.beat("r1", lead=True)
    one = Held(opened, LeaderLease(holder="r1", epoch=1))
    await asyncio.to_thread(one.begun.wait, 60)
    yield one
    one.go_on.set()
    await asyncio.gather(one.task, return_exceptions=True)


async def test_a_lease_is_given_on_when_the_old_leader_s_write_has_ended(
    held: Held, storage: SqlStorage, postgres: PostgreSQL, database: str
) -> None:
    # Renewed meanwhile, which does not touch the write, nor wait for it.
    assert (await storage.beat("r1", lead=True)).leader == "r1"
    await expire(postgres, database)
    for _ in range(3):
        found = await storage.beat("r2", lead=True)
        assert (found.leader, found.epoch) == (None, 1), "its beats are not held up either"
    held.go_on.set()
    await held.task
    assert held.runs == 1
    found = await storage.beat("r2", lead=True)
    assert (found.leader, found.epoch) == ("r2", 2)
    assert [one.name for one in await storage.model_sets()] == ["late"], "what the next leader reads"
    with pytest.raises(LeaseLost):
        await wanted(storage.fenced(LeaderLease(holder="r1", epoch=1)), "stale")
    assert [one.name for one in await storage.model_sets()] == ["late"]


async def test_a_write_that_meets_the_change_of_the_lease_waits_for_it_and_fails(
    storage: SqlStorage, postgres: PostgreSQL, database: str
) -> None:
    await storage.beat("r1", lead=True)
    taking = await psycopg.AsyncConnection.connect(
        host=str(postgres.folder), user="obt", dbname=name_of(database)
    )
    async with taking:
        await taking.execute("update obt_leases set holder = 'r2', epoch = epoch + 1")
        late = asyncio.create_task(wanted(storage.fenced(LeaderLease(holder="r1", epoch=1)), "stale"))
        waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        await until(lambda: postgres.execute(waits) == [(1,)])
        await taking.commit()
        with pytest.raises(LeaseLost):
            await late
    assert await storage.model_sets() == []


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other transactions may be idle for longer than any test."""
    monkeypatch.setattr(postgresql, "IDLE_S", 300)
    monkeypatch.setattr(postgresql, "TRANSACTION_S", 300)


async def test_a_leader_that_hangs_in_a_write_keeps_the_lease_from_nobody_for_long(
    patient: None,
    opened: Database,
    storage: SqlStorage,
    postgres: PostgreSQL,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert leases.IDLE_S < LEASE_S, "it is ended before the lease runs out"
    monkeypatch.setattr(leases, "IDLE_S", 1)
    await storage.beat("r1", lead=True)
    held = Held(opened, LeaderLease(holder="r1", epoch=1))
    await asyncio.to_thread(held.begun.wait, 60)
    await expire(postgres, database)

    async def taken() -> bool:
        return (await storage.beat("r2", lead=True)).leader == "r2"

    await until(taken)
    held.go_on.set()
    with pytest.raises((StorageFailed, LeaseLost)):
        await held.task
    assert await storage.model_sets() == []


class Process:
    """A replica's process, and what it printed."""

    def __init__(self, address: str, name: str) -> None:
        words = [sys.executable, "-m", "tests.cluster.replica_process", address, name]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self.looks: list[tuple[float, int]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # Among them are those of the log.
            if line.startswith("look "):
                _, at, epoch = line.split()
                self.looks.append((float(at), int(epoch)))

    @property
    def epoch(self) -> int:
        """Under which it led when it looked last."""
        return self.looks[-1][1] if self.looks else 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def processes(database: str) -> Iterator[list[Process]]:
    Database.open(database).close()
    started = [Process(database, name) for name in ("first", "second")]
    yield started
    for one in started:
        one.end()


async def test_a_leader_that_was_stopped_and_goes_on_neither_leads_nor_writes(
    processes: list[Process], postgres: PostgreSQL, database: str
) -> None:
    def written() -> list[tuple[int, str]]:
        notes = postgres.execute("select note from obt_join_tokens order by id", name_of(database))
        return [(int(str(note).split()[0]), str(note).split()[1]) for (note,) in notes]

    await until(lambda: any(one.epoch for one in processes))
    await until(lambda: len(written()) > 3)
    leader, other = sorted(processes, key=lambda one: -one.epoch)
    before = leader.epoch
    began = time.monotonic()
    stop(leader.pid)
    try:
        await until(lambda: other.epoch > before)
        took = time.monotonic() - began
        count = len(written())
        await until(lambda: len(written()) > count)
    finally:
        went_on = time.monotonic()
        leader.signal(signal.SIGCONT)
    seen = len(leader.looks)
    await until(lambda: len(leader.looks) > seen + 40)
    for at, epoch in leader.looks:
        assert at < went_on or epoch == 0
    epochs = [epoch for epoch, _ in written()]
    say(f"another led {took:.1f} s after the stop; {len(epochs)} writes in epochs {sorted(set(epochs))}")
    assert epochs == sorted(epochs), "no write of an epoch comes after one of a later epoch"
    assert len({name for _, name in written()}) == 2
    # The one that leads now dies.
    led = other.epoch
    other.end()
    await until(lambda: leader.epoch > led)


async def test_a_database_that_is_away_for_longer_than_the_silence_ends_nobody_but_the_leading(
    opened: Database, database: str, postgres: PostgreSQL
) -> None:
    with contextlib.closing(Database.open(database)) as second:
        members = [Membership(SqlStorage(opened)), Membership(SqlStorage(second))]
        gone: list[str] = []

        def look(member: Membership, other: Membership) -> None:
            if other.replica_id not in member.others:
                gone.append(member.replica_id)

        for member in members:
            await member.start()
        first, other = members
        await until(lambda: other.replica_id in first.others and first.replica_id in other.others)
        first.observe(lambda: look(first, other))
        other.observe(lambda: look(other, first))
        assert (first.leading, other.leading) == (True, False)
        epoch = first.epoch
        began = time.monotonic()
        await asyncio.to_thread(postgres.stop)
        try:
            await until(lambda: not first.leading)
            stopped = time.monotonic() - began
            # The silence is what is waited for: nothing announces that nothing happens.
            await asyncio.sleep(max(0.0, ALIVE_S + 3 - stopped))
        finally:
            await asyncio.to_thread(postgres.start)
        await until(lambda: first.leading or other.leading)
        back = time.monotonic() - began
        leader = first if first.leading else other
        assert leader.epoch > epoch
        await until(lambda: first.epoch == other.epoch and first.leader == other.leader)
        say(f"away: led until {stopped:.1f} s, somebody again at {back:.1f} s; gone: {gone}")
        assert gone == []
        for member in members:
            await member.close()


def _has_beaten(database: Database, writes: int) -> bool:
    return database.counters.writes >= writes


async def test_a_jump_of_the_database_s_clock_ends_nobody_and_two_never_write(
    opened: Database, database: str, postgres: PostgreSQL
) -> None:
    with contextlib.closing(Database.open(database)) as second:
        stores = [SqlStorage(opened), SqlStorage(second)]
        first, other = (Membership(storage) for storage in stores)
        await first.start()
        await other.start()
        await until(lambda: other.replica_id in first.others)
        gone: list[str] = []
        first.observe(lambda: None if first.others else gone.append("first"))
        other.observe(lambda: None if other.others else gone.append("other"))
        for jump_s in (7200, -7200, 5, -5):
            # As its clock would be ahead by so much of what it wrote.
            for statement in (
                f"update obt_replicas set seen_at = seen_at - {jump_s}",  # noqa: S608 - numbers of this test
                f"update obt_leases set expires_at = expires_at - {jump_s}",  # noqa: S608 - the same
            ):
                await asyncio.to_thread(postgres.execute, statement, name_of(database))
            for one in (opened, second):
                enough = one.counters.writes + 3
                await until(functools.partial(_has_beaten, one, enough))
            await until(lambda: first.leading != other.leading and first.epoch == other.epoch)
            leader, follower = (first, other) if first.leading else (other, first)
            lease = leader.lease
            assert lease is not None
            assert follower.leader == leader.replica_id
        assert gone == []
        await first.close()
        await other.close()


async def test_the_status_lists_who_runs_leads_and_is_connected(
    storage: SqlStorage, database: str, postgres: PostgreSQL, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ReplicaState(host="box-1", version="1.0", bus_connected=True, exchanges=2)
    await storage.beat("a" * 32, lead=True, state=state)
    await storage.beat("b" * 32, lead=True, state=ReplicaState(host="box-2"))
    await storage.beat("c" * 32, lead=True)
    postgres.execute("update obt_replicas set seen_at = seen_at - 99 where id like 'c%'", name_of(database))
    words = ["status", "--database", database]
    # Nobody listens at the port of the settings: what the database says is said all the same.
    assert await asyncio.to_thread(main, words) == 1
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("not ready at ")
    ages = [int(age) for age in re.findall(r"heard (\d+) s", "".join(lines))]
    assert len(ages) == 1
    assert 99 <= ages[0] < 99 + SLACK_S
    assert [re.sub(r"heard \d+ s", "heard N s", line) for line in lines] == [
        "aaaaaaaa at box-1 (1.0): leads, epoch 1; connected to NATS, 2 open exchanges",
        "bbbbbbbb at box-2 (?): NOT connected to NATS, 0 open exchanges",
        "cccccccc at ? (?): gone, last heard N s ago",
    ]
    assert await asyncio.to_thread(main, [*words, "--json"]) == 1
    listed = json.loads(capsys.readouterr().out)["replicas"]
    assert [(one["running"], one["epoch"], one["bus_connected"]) for one in listed] == [
        (True, 1, True),
        (True, None, False),
        (False, None, False),
    ]
    postgres.stop()
    try:
        assert await asyncio.to_thread(main, words) == 1
        assert "replicas: The database postgresql://obt@" in capsys.readouterr().out
    finally:
        postgres.start()
