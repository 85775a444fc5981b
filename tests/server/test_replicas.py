"""What the storage keeps of several server processes, and what one of them makes of it."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from obt_agent.errors import StorageFailed
from obt_server.hub.storage import Admission
from obt_server.replica_storage import (
    Beat,
    LeaderLease,
    LeaseLost,
    Owner,
    ReplicaSeen,
    ReplicaState,
    ReplicaStorage,
)
from obt_server.replicas import membership as membership_module
from obt_server.replicas.beat_record import ALIVE_S, LEAD_S
from obt_server.replicas.membership import Membership
from obt_server.rollout_storage import ModelSet
from obt_server.storage import Enrolment
from obt_server.store import Database, SqlStorage
from tests.server.databases import address_in
from tests.server.enrolling import enrol
from tests.waiting import until


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SqlStorage]:
    with contextlib.closing(Database.open(address_in(tmp_path))) as database:
        yield SqlStorage(database)


async def admit(storage: SqlStorage, replica: str | None) -> int:
    about = Admission(
        agent_id="a1",
        credential_id=1,
        name="box",
        version="1",
        store_id="s",
        capabilities=(),
        replica=replica,
        at=2.0,
    )
    return (await storage.admit(about)).session


async def test_an_agent_s_replica_is_stored_with_its_session_and_taken_back_by_the_same_alone(
    storage: SqlStorage,
) -> None:
    assert await storage.owner("a1") is None
    await enrol(storage, Enrolment(agent_id="a1", name="box", version="1", secret_sha256="s" * 64), 1.0)
    assert await storage.owner("a1") == Owner(session=0, replica=None)
    assert (await admit(storage, "r1"), await admit(storage, "r2")) == (1, 2)
    await storage.left({"a1": 1})
    assert await storage.owner("a1") == Owner(session=2, replica="r2")
    assert [record.replica for record in await storage.agents()] == ["r2"]
    await storage.left({"nobody": 2, "a1": 2})
    assert await storage.owner("a1") == Owner(session=2, replica=None)
    await admit(storage, "r1")
    await admit(storage, None)
    assert await storage.owner("a1") == Owner(session=4, replica=None)


async def test_one_of_two_replicas_leads_until_it_leaves(storage: SqlStorage) -> None:
    first = await storage.beat("r1", lead=True)
    assert (first.leader, first.epoch, set(first.replicas)) == ("r1", 1, {"r1"})
    assert len(first.cluster) == 32
    second = await storage.beat("r2", lead=True)
    assert (second.leader, second.epoch, set(second.replicas)) == ("r1", 1, {"r1", "r2"})
    assert second.cluster == first.cluster
    assert 0 <= second.replicas["r1"] < 60
    await storage.leave("r1")
    third = await storage.beat("r2", lead=True)
    assert (third.leader, third.epoch) == ("r2", 2)
    assert third.left == {"r1"}
    # Without the wish it gives up what it has.
    assert (await storage.beat("r2", lead=False)).leader is None
    assert (await storage.beat("r2", lead=False)).epoch == 2
    assert (await storage.beat("r2", lead=True)).epoch == 3


async def test_only_the_last_lease_writes(storage: SqlStorage) -> None:
    await storage.beat("r1", lead=True)
    fenced = storage.fenced(LeaderLease(holder="r1", epoch=1))
    await fenced.save_model_set(ModelSet(name="one", models=(), labels=()))
    await storage.beat("r1", lead=False)
    # Nobody else has it yet.
    await fenced.save_model_set(ModelSet(name="two", models=(), labels=()))
    await storage.beat("r2", lead=True)
    with pytest.raises(LeaseLost) as lost:
        await fenced.save_model_set(ModelSet(name="three", models=(), labels=()))
    assert (lost.value.kind, lost.value.retryable) == ("busy", True)
    await enrol(storage, Enrolment(agent_id="a1", name="box", version="1", secret_sha256="s" * 64), 1.0)
    with pytest.raises(LeaseLost):
        await admit(fenced, "r1")
    assert [one.name for one in await fenced.model_sets()] == ["one", "two"]
    other = storage.fenced(LeaderLease(holder="r2", epoch=2))
    await other.delete_model_set("one")
    with pytest.raises(LeaseLost):
        await storage.fenced(LeaderLease(holder="r2", epoch=1)).delete_model_set("two")
    assert (await fenced.beat("r1", lead=True)).leader == "r2"


async def test_what_replicas_say_of_themselves_is_there_for_who_looks(storage: SqlStorage) -> None:
    member = Membership(storage)
    member.describe = lambda: ReplicaState(host="box-7", version="1.2", bus_connected=True, exchanges=3)
    await member.beat()
    await storage.beat("z", lead=True)
    await storage.beat("gone", lead=True)
    await storage.leave("gone")
    first, second = sorted(await storage.replicas(), key=lambda one: one.id == "z")
    assert (first.id, first.epoch, first.state) == (member.replica_id, 1, member.describe())
    assert (second.id, second.epoch, second.state) == ("z", None, ReplicaState())
    assert 0 <= first.age_s < 60


class Beats:
    """A storage of beats as a test makes them."""

    def __init__(self) -> None:
        self.count = 0
        self.asked: list[bool] = []
        self.left: list[str] = []
        self.answer: Callable[[str], Coroutine[Any, Any, Beat]] = self.leads

    async def leads(self, replica_id: str) -> Beat:
        return beat({replica_id: self.count}, leader=replica_id)

    async def beat(self, replica_id: str, *, lead: bool, state: ReplicaState | None = None) -> Beat:
        self.count += 1
        self.asked.append(lead)
        return await self.answer(replica_id)

    async def leave(self, replica_id: str) -> None:
        self.left.append(replica_id)

    async def owner(self, agent_id: str) -> Owner | None:
        raise NotImplementedError

    async def confirm(self) -> None:
        raise NotImplementedError

    async def replicas(self) -> list[ReplicaSeen]:
        raise NotImplementedError

    def fenced(self, lease: LeaderLease) -> "Beats":
        raise NotImplementedError


def beat(beats: dict[str, int], leader: str | None, epoch: int = 1) -> Beat:
    ages = dict.fromkeys(beats, 0.0)
    return Beat(replicas=ages, beats=beats, leader=leader, epoch=epoch, cluster="c" * 32, now=0.0)


async def away(replica_id: str) -> Beat:
    raise StorageFailed("away")


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVERY_S", "PAUSE_S"):
        monkeypatch.setattr(membership_module, name, 0.01)


async def test_a_start_without_the_database_fails_and_leaves_nothing_behind() -> None:
    beats = Beats()
    beats.answer = away
    member = Membership(beats)
    with pytest.raises(StorageFailed):
        await member.start()
    await member.close()
    assert (beats.count, beats.left, member.leading, member.leader) == (1, [], False, None)


async def test_no_two_replicas_have_one_id() -> None:
    assert len({Membership(Beats()).replica_id for _ in range(100)}) == 100


@pytest.mark.usefixtures("quick")
async def test_observers_hear_of_each_change_once_and_the_stop_leaves() -> None:
    beats = Beats()
    member = Membership(beats)
    told: list[tuple[bool, int, frozenset[str]]] = []
    stop = member.observe(lambda: told.append((member.leading, member.epoch, member.others)))

    def broken() -> None:
        raise RuntimeError("an observer")

    member.observe(broken)
    with capture_logs() as logs:
        await member.start()
    assert [one["event"] for one in logs if one["log_level"] == "error"] == ["replicas.observer_failed"]
    await until(lambda: beats.count > 3)
    assert told == [(True, 1, frozenset())]
    assert (member.leader, member.cluster) == (member.replica_id, "c" * 32)
    assert member.lease == LeaderLease(holder=member.replica_id, epoch=1)
    assert (member.alive(member.replica_id), member.alive("b")) == (True, False)

    async def follows(replica_id: str) -> Beat:
        return beat({replica_id: beats.count, "b": beats.count}, leader="b", epoch=2)

    beats.answer = follows
    await until(lambda: len(told) == 2)
    assert told[1] == (False, 2, frozenset("b"))
    assert (member.leader, member.leading, member.alive("b")) == ("b", False, True)
    stop()
    stop()
    with capture_logs():
        await member.close()
    assert len(told) == 2
    assert (beats.left, member.leader) == ([member.replica_id], None)
    count = beats.count
    await member.close()
    assert (beats.count, beats.left) == (count, [member.replica_id])


@pytest.mark.usefixtures("quick")
async def test_while_the_database_is_away_it_stops_leading_in_time_and_nobody_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("obt_server.replicas.beat_record.LEAD_S", 0.2)
    beats = Beats()

    async def leads_with_another(replica_id: str) -> Beat:
        return beat({replica_id: beats.count, "b": beats.count}, leader=replica_id, epoch=epoch)

    epoch = 1
    beats.answer = leads_with_another
    member = Membership(beats)
    told: list[tuple[bool, frozenset[str]]] = []
    member.observe(lambda: told.append((member.leading, member.others)))
    with capture_logs() as logs:
        await member.start()
        beats.answer = away
        # Without any beat that is answered: its own clock says so.
        await until(lambda: len(told) == 2)
        assert told == [(True, frozenset("b")), (False, frozenset("b"))]
        assert member.alive("b")
        count = beats.count
        await until(lambda: beats.count > count + 2)
        assert beats.asked[-1] is False, "it gives up the lease that it let run out"
        beats.answer = leads_with_another
        count = beats.count
        await until(lambda: beats.count > count + 2)
        assert not member.leading, "the same lease again"
        epoch = 2
        await until(lambda: member.leading)
        await member.close()
    assert [one["event"] for one in logs if one["log_level"] == "warning"] == ["replicas.no_beat"]


@pytest.mark.usefixtures("quick")
async def test_a_fault_in_a_beat_does_not_end_the_beats() -> None:
    beats = Beats()
    member = Membership(beats)
    await member.start()

    async def broken(replica_id: str) -> Beat:
        raise ValueError("a fault")

    beats.answer = broken
    with capture_logs() as logs:
        await until(lambda: beats.count > 5)
    assert {one["event"] for one in logs} == {"replicas.beat_failed"}
    await member.close()


@pytest.mark.usefixtures("quick")
async def test_a_stop_waits_for_the_beat_on_its_way_and_bears_a_database_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    beats = Beats()
    member = Membership(beats)
    await member.start()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(replica_id: str) -> Beat:
        begun.set()
        await go_on.wait()
        return await beats.leads(replica_id)

    beats.answer = slow
    await begun.wait()
    closing = asyncio.create_task(member.close())
    await asyncio.sleep(0)
    assert not member.leading, "at once, with seconds left of its lease"
    assert beats.left == []

    async def unreachable(replica_id: str) -> None:
        raise StorageFailed("away")

    monkeypatch.setattr(beats, "leave", unreachable)
    go_on.set()
    with capture_logs() as logs:
        await closing
    assert [one["event"] for one in logs if one["log_level"] == "warning"] == ["replicas.not_left"]
    assert not member.leading


async def test_what_it_says_of_itself_follows_its_own_clock() -> None:
    beats, clock = Beats(), Clock()
    checked: ReplicaStorage = beats
    member = Membership(checked, clock)
    await member.beat()
    clock.now += LEAD_S - 0.1
    assert (member.leading, member.leader) == (True, member.replica_id)
    clock.now += 0.2
    assert (member.leading, member.leader) == (False, None)
    assert member.alive(member.replica_id)
    clock.now += ALIVE_S
    assert not member.alive(member.replica_id)
    await member.close()
