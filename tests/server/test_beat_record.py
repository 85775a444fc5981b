"""Replicas that beat in one database, in every order: one leads at most, and nobody is gone who runs."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from obt_server.replica_storage import LEASE_S, Beat, ReplicaState
from obt_server.replicas.beat_record import ALIVE_S, COUNTED_S, LEAD_S, BeatRecord
from obt_server.store import replicas
from obt_server.store.schema import bring_up_to_date
from obt_server.store.tables import Table

HOURS = 3600.0


@dataclass
class World:
    """A database with a clock of its own, and the replicas that beat in it."""

    engine: Engine
    # Of the machines, and of the database: what lies between them moves when the latter's clock is set.
    now: float = 1000.0
    ahead: float = 1_700_000_000.0
    jumped_at: float = -1e9
    records: dict[str, BeatRecord] = field(default_factory=dict)
    # by epoch: who had it
    holders: dict[int, str] = field(default_factory=dict)
    # by replica: the epoch under which it was seen to lead, and then not to
    over: dict[str, int] = field(default_factory=dict)

    def beat(self, name: str, lead: bool) -> Beat:
        with Session(self.engine) as session, session.begin():
            return replicas.beat(session, name, lead=lead, state=ReplicaState(host=name))

    def look(self) -> list[str]:
        """Check what must hold at every moment; return who leads."""
        leaders = []
        for name, record in self.records.items():
            lease = record.lease(self.now)
            if lease is None:
                self.over[name] = record.epoch if record.leader(self.now) is None else self.over.get(name, 0)
                continue
            assert self.holders.setdefault(lease.epoch, name) == name, "an epoch has one holder"
            assert lease.epoch > self.over.get(name, 0), "nobody leads again under a lease that ended"
            leaders.append(name)
        if self.now - self.jumped_at > LEASE_S:
            assert len(leaders) <= 1, leaders
        return leaders


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = create_engine("sqlite://", poolclass=StaticPool)
    bring_up_to_date(made)
    yield made
    made.dispose()


@pytest.fixture
def world(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> World:
    one = World(engine)
    monkeypatch.setattr(replicas, "_now", lambda session: one.now + one.ahead)
    return one


def anew(world: World) -> None:
    """Begin an example."""
    with world.engine.begin() as connection:
        for table in ("obt_replicas", "obt_leases"):
            connection.execute(Table.metadata.tables[table].delete())
    world.now, world.ahead, world.jumped_at = 1000.0, 1_700_000_000.0, -1e9
    world.records = {name: BeatRecord(name) for name in "abc"}
    world.holders, world.over = {}, {}


NAMES = st.sampled_from("abc")
PAUSES = st.floats(0.0, 4.0)
STEPS = st.one_of(
    # A beat that takes so long to the database, and so long back; what comes of it.
    st.tuples(st.just("beat"), NAMES, PAUSES, PAUSES, st.sampled_from(("answered", "unanswered", "failed"))),
    st.tuples(st.just("wait"), st.floats(0.0, 20.0)),
    st.tuples(st.just("leave"), NAMES),
    st.tuples(st.just("jump"), st.sampled_from((-HOURS, -30.0, -5.0, 5.0, 30.0, HOURS))),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=40))
def test_one_leads_at_most_whatever_is_late_or_lost_and_each_epoch_has_one_holder(
    world: World, steps: list[tuple[object, ...]]
) -> None:
    anew(world)
    for step in steps:
        match step:
            case ("beat", str(name), float(there), float(back), outcome):
                record, began = world.records[name], world.now
                lead = record.would_lead(began)
                world.now += there
                world.look()
                found = None if outcome == "failed" else world.beat(name, lead)
                world.now += back
                world.look()
                if found is not None and outcome == "answered":
                    record.take(found, began, world.now)
            case ("wait", float(pause)):
                world.now += pause
            case ("leave", str(name)):
                with Session(world.engine) as session, session.begin():
                    replicas.leave(session, name)
                world.records[name] = BeatRecord(name)
            case ("jump", float(seconds)):
                world.ahead += seconds
                world.jumped_at = world.now
        world.look()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nobody_is_gone_who_runs_through_outages_and_jumps_of_the_clock_and_who_died_is_gone_in_time(
    world: World, data: st.DataObject
) -> None:
    anew(world)
    due = {name: world.now + data.draw(st.floats(0.0, 1.0)) for name in "abc"}
    asked_since_death = 0.0

    def turn(running: str) -> str:
        name = min(running, key=lambda one: due[one])
        world.now = max(world.now, due[name])
        record = world.records[name]
        record.take(world.beat(name, record.would_lead(world.now)), world.now, world.now)
        due[name] = world.now + data.draw(st.floats(0.9, 1.6))
        world.look()
        return name

    seen = 0
    for _ in range(data.draw(st.integers(0, 4))):
        for _ in range(data.draw(st.integers(6, 20))):
            turn("abc")
            seen += 1
            if seen > 6:
                for name, record in world.records.items():
                    assert record.others() == frozenset("abc") - {name}
        # Nobody reaches the database for a while; then all come back, each in its own time.
        world.now += data.draw(st.floats(0.0, 60.0))
        due = {name: world.now + data.draw(st.floats(0.0, 3.0)) for name in "abc"}
        world.ahead += data.draw(st.sampled_from((0.0, 0.0, HOURS, -HOURS, 8.0)))
        world.jumped_at = world.now
    for _ in range(9):
        turn("abc")
    assert all(record.others() == frozenset("abc") - {name} for name, record in world.records.items())
    while "c" in world.records["a"].others():
        before = world.now
        turn("ab")
        asked_since_death += world.now - before
    assert asked_since_death < ALIVE_S + 3.0
    assert world.records["a"].others() == {"b"}


def test_a_process_that_was_stopped_leads_no_more_at_its_first_look(world: World) -> None:
    anew(world)
    record = world.records["a"]
    record.take(world.beat("a", lead=True), world.now, world.now)
    assert record.lease(world.now + LEAD_S - 0.01) is not None
    assert record.lease(world.now + 60.0) is None
    assert record.leader(world.now + 60.0) is None
    assert not record.alive("a", world.now + 60.0)
    world.now += 60.0
    # What it was at may still be on its way: the lease that nobody took is given up before it leads again.
    assert not record.would_lead(world.now)
    record.take(world.beat("a", lead=False), world.now, world.now)
    assert record.lease(world.now) is None
    assert record.would_lead(world.now)
    record.take(world.beat("a", lead=True), world.now, world.now)
    lease = record.lease(world.now)
    assert lease is not None
    assert lease.epoch == 2


def test_a_clean_stop_gives_the_lease_and_the_place_at_once(world: World) -> None:
    anew(world)
    first, second = world.records["a"], world.records["b"]
    first.take(world.beat("a", lead=True), world.now, world.now)
    second.take(world.beat("b", lead=True), world.now, world.now)
    assert second.lease(world.now) is None
    assert second.others() == {"a"}
    with Session(world.engine) as session, session.begin():
        replicas.leave(session, "a")
    # A beat of the one that left, which was on its way.
    late = world.beat("a", lead=True)
    assert (late.leader, late.left) == (None, frozenset("a"))
    second.take(world.beat("b", lead=True), world.now, world.now)
    assert second.lease(world.now) is not None
    assert second.others() == frozenset()


def test_a_lease_of_a_dead_leader_does_not_hold_for_an_hour_where_the_clock_is_set_back(world: World) -> None:
    anew(world)
    world.beat("a", lead=True)
    world.now += 1
    world.ahead -= HOURS
    found = world.beat("b", lead=True)
    assert (found.leader, found.epoch) == ("b", 2)


def test_a_replica_that_starts_takes_the_database_s_word_for_the_ages(world: World) -> None:
    anew(world)
    for name, before_s in (("dead", 3000.0), ("old", ALIVE_S + 1), ("alive", ALIVE_S - 1)):
        world.now -= before_s
        world.beat(name, lead=False)
        world.now += before_s
    record = world.records["a"]
    record.take(world.beat("a", lead=True), world.now, world.now)
    assert record.others() == {"alive"}
    world.now += COUNTED_S
    record.take(world.beat("a", lead=True), world.now, world.now)
    assert record.others() == frozenset()


def test_a_dead_replica_s_row_goes_after_an_hour(world: World) -> None:
    anew(world)
    world.beat("dead", lead=True)
    with Session(world.engine) as session, session.begin():
        replicas.leave(session, "dead")
    world.now += HOURS - 1
    assert world.beat("a", lead=True).left == {"dead"}
    world.now += 2
    world.beat("a", lead=True)
    found = world.beat("a", lead=True)
    assert (found.left, set(found.replicas)) == (frozenset(), {"a"})
    assert found.beats == {"a": 3}


def test_a_last_beat_is_seen_before_a_clock_that_jumped_removes_it(world: World) -> None:
    anew(world)
    world.beat("a", lead=True)
    # Found by the property: whoever beat next removed that row and had not seen it; twice, and it was gone.
    world.ahead += HOURS + 1
    assert world.beat("b", lead=True).beats == {"a": 1, "b": 1}
    assert world.beat("b", lead=True).beats == {"b": 2}
