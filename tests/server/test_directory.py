"""The directory of agents: kept in memory, and read where somebody must see a change."""

import asyncio
import dataclasses
from collections.abc import Sequence

import pytest

from obt_server.hub import AgentHub, UnknownAgent
from obt_server.hub.directory import AgentDirectory
from obt_server.hub.events import AgentChanged, EventBus
from obt_server.hub.storage import Admission, AgentRecord
from obt_server.storage import Enrolment
from tests.server.agent_double import uuid7
from tests.server.enrolling import enrol
from tests.server.memory_storage import MemoryStorage
from tests.waiting import until


class SlowStorage(MemoryStorage):
    """Reads of all agents wait for ``going_on``, as behind a database that others keep busy."""

    def __init__(self) -> None:
        super().__init__()
        self.going_on = asyncio.Event()
        self.reads = 0

    async def agents(self) -> Sequence[AgentRecord]:
        self.reads += 1
        await self.going_on.wait()
        return await super().agents()


async def enrolled(storage: MemoryStorage, name: str) -> str:
    one = Enrolment(agent_id=uuid7(), name=name, version="1", secret_sha256=uuid7())
    return (await enrol(storage, one, 1.0)).id


def hello(agent_id: str, name: str, own_labels: tuple[str, ...] = ()) -> Admission:
    return Admission(
        agent_id=agent_id,
        credential_id=1,
        name=name,
        version="2",
        store_id="s",
        capabilities=("generate",),
        own_labels=own_labels,
        at=5.0,
    )


async def test_what_a_hello_said_is_seen_without_a_read() -> None:
    storage = SlowStorage()
    directory = AgentDirectory(storage, EventBus())
    agent_id, other = await enrolled(storage, "box"), await enrolled(storage, "cab")
    storage.going_on.set()
    assert list(await directory.current()) == [agent_id, other]
    directory.stored(await storage.admit(hello(agent_id, "box", ("gpu",))))
    record = (await directory.current())[agent_id]
    assert (record.version, record.own_labels, record.capabilities) == ("2", ("gpu",), ("generate",))
    assert (record.session, record.last_seen) == (1, 5.0)
    directory.stored(await storage.admit(hello(agent_id, "den")))
    records = await directory.current()
    assert [(one.id, one.name) for one in records.values()] == [(other, "cab"), (agent_id, "den")]
    assert storage.reads == 1


async def test_a_fleet_that_returns_reads_nothing() -> None:
    storage = SlowStorage()
    storage.going_on.set()
    hub = AgentHub(storage)
    agents = [await enrolled(storage, f"box {number}") for number in range(20)]
    await hub.directory.current()
    for name, agent_id in enumerate(agents):
        hub.directory.stored(await storage.admit(hello(agent_id, f"box {name}")))
        hub.directory.session_changed(agent_id)
        assert (await hub.directory.current())[agent_id].session == 1
    assert storage.reads == 1


async def test_who_asks_after_an_agent_that_another_process_enrolled_waits_for_a_read() -> None:
    storage = SlowStorage()
    directory = AgentDirectory(storage, EventBus())
    first = await enrolled(storage, "first")
    storage.going_on.set()
    assert list(await directory.current()) == [first]
    second = await enrolled(storage, "second")
    directory.stored(await storage.admit(hello(second, "second")))
    assert list(await directory.current()) == [first, second]
    directory.stored(await storage.admit(hello(second, "second")))
    assert (await directory.current())[second].session == 2
    assert storage.reads == 2


async def test_a_read_that_began_before_an_admission_takes_nothing_back() -> None:
    storage = SlowStorage()
    directory = AgentDirectory(storage, EventBus())
    agent_id = await enrolled(storage, "box")
    storage.going_on.set()
    await directory.current()
    storage.going_on.clear()
    before = dict(storage.records)
    reading = asyncio.create_task(directory.refresh())
    await until(lambda: storage.reads == 2)
    directory.stored(await storage.admit(hello(agent_id, "den", ("gpu",))))
    storage.records = before | {agent_id: dataclasses.replace(before[agent_id], labels=("lab",))}
    storage.going_on.set()
    await reading
    record = directory.records[agent_id]
    assert (record.session, record.own_labels, record.labels) == (1, ("gpu",), ("lab",))
    # Renamed by an operator or by its hello: the next read says which.
    assert record.name == "box"


async def test_an_admission_that_is_heard_of_late_takes_nothing_back() -> None:
    storage = SlowStorage()
    directory = AgentDirectory(storage, EventBus())
    agent_id = await enrolled(storage, "box")
    storage.going_on.set()
    await directory.current()
    admitted = await storage.admit(hello(agent_id, "box"))
    await storage.label_agent(agent_id, ["lab"])
    directory.changed(agent_id)
    assert (await directory.current())[agent_id].labels == ("lab",)
    directory.stored(admitted)
    assert (await directory.current())[agent_id].labels == ("lab",)


async def test_who_asks_after_an_operators_change_waits_for_it() -> None:
    storage = SlowStorage()
    directory = AgentDirectory(storage, EventBus())
    storage.going_on.set()
    assert not await directory.current()
    storage.going_on.clear()
    added = await enrolled(storage, "added")
    directory.changed(added)
    asked = asyncio.create_task(directory.current())
    await until(lambda: storage.reads == 2)
    assert not asked.done()
    storage.going_on.set()
    assert list(await asked) == [added]


async def test_what_is_read_of_others_by_the_way_is_published_once() -> None:
    storage = SlowStorage()
    storage.going_on.set()
    events = EventBus()
    directory = AgentDirectory(storage, events)
    changed: list[object] = []
    events.observe(changed.append)
    first, second = await enrolled(storage, "first"), await enrolled(storage, "second")
    await directory.current()
    assert changed == [], "nobody knew anything before"
    # An operator's rename here has the storage name another agent anew.
    for agent_id, name in ((first, "second"), (second, "second (2)")):
        storage.records[agent_id] = dataclasses.replace(storage.records[agent_id], name=name)
    directory.changed(first)
    await directory.current()
    assert changed == [AgentChanged(first), AgentChanged(second)]
    await directory.refresh()
    assert len(changed) == 2


async def test_a_name_that_is_not_known_costs_no_read_of_all_agents() -> None:
    storage = SlowStorage()
    storage.going_on.set()
    hub = AgentHub(storage)
    await hub.directory.current()
    late = await enrolled(storage, "late")  # by another process, which says nothing here
    assert (await hub.find("late")).id == (await hub.find(late)).id == late
    with pytest.raises(UnknownAgent):
        await hub.find("nobody")
    assert storage.reads == 1


async def test_an_id_wins_over_a_name() -> None:
    storage = SlowStorage()
    storage.going_on.set()
    directory = AgentDirectory(storage, EventBus())
    first = await enrolled(storage, "pc")
    second = await enrolled(storage, first)
    await directory.current()
    assert [one.id for one in directory.find(first)] == [first]
    assert [one.id for one in directory.find("pc")] == [first]
    assert directory.find("another") == []
    assert [one.id for one in directory.find(second)] == [second]
