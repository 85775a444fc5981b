"""The directory of agents: kept in memory, and read where somebody must see a change."""

import asyncio
from collections.abc import Sequence

import pytest

from obt_server.hub import AgentHub, UnknownAgent
from obt_server.hub.directory import AgentDirectory
from obt_server.hub.events import EventBus
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


async def test_what_a_hello_said_is_seen_before_the_storage_is_read() -> None:
    storage = SlowStorage()
    directory = AgentDirectory(storage, EventBus())
    agent_id = await enrolled(storage, "box")
    storage.going_on.set()
    assert (await directory.current())[agent_id].own_labels == ()
    hello = Admission(
        agent_id=agent_id,
        credential_id=1,
        name="box",
        version="2",
        store_id="s",
        capabilities=("generate",),
        own_labels=("gpu",),
        at=5.0,
    )
    directory.stored(hello, 7)
    record = (await directory.current())[agent_id]
    assert (record.version, record.own_labels, record.capabilities) == ("2", ("gpu",), ("generate",))
    assert record.session == 7
    assert storage.reads == 1


async def test_nobody_waits_for_the_read_of_an_agent_that_dials() -> None:
    storage = SlowStorage()
    directory = AgentDirectory(storage, EventBus())
    first = await enrolled(storage, "first")
    storage.going_on.set()
    assert list(await directory.current()) == [first]
    storage.going_on.clear()
    second = await enrolled(storage, "second")
    dials = [asyncio.create_task(directory.admitted(agent)) for agent in (second, second, first)]
    await until(lambda: storage.reads == 2)
    assert list(await directory.current()) == [first]
    storage.going_on.set()
    await asyncio.gather(*dials)
    assert list(await directory.current()) == [first, second]
    # The second two came while the first one's read had begun: they share another.
    assert storage.reads == 3


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
