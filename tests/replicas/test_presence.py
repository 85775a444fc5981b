"""Agents of other servers: there at once, gone at once, and the same after whatever was lost in between."""

import asyncio
import gc
from pathlib import Path
from typing import Any

import msgspec
import pytest

from obt_agent.hardware.inventory import Inventory, StorageInfo
from obt_agent.ollama.payloads import InstalledModel, OllamaState
from obt_agent.protocol.admission import HeartbeatParams, LightSample
from obt_agent.protocol.state import HardwareSync, ModelsSync, Page
from obt_server.bus import BusMessage, LocalBus
from obt_server.hub.events import AgentChanged
from obt_server.hub.presence import Presence
from obt_server.hub.storage import AgentRecord
from obt_server.replicas import peers
from obt_server.replicas.messages import AgentUpdate, BeatPart, HelloPart, PresenceNews
from obt_server.replicas.presence_exchange import COALESCE_S
from obt_server.replicas.recorded_agents import RecordedAgents
from obt_server.replicas.remote_agents import RemoteAgents
from obt_server.replicas.subjects import Subjects
from obt_server.rollouts.fleet_models import Capacities
from tests.replicas.fleet import Replica, fleet_of
from tests.waiting import until

Two = tuple[Replica, Replica]


def beat(streams: int) -> HeartbeatParams:
    return HeartbeatParams(
        ollama=OllamaState(reachable=True, version="0.5.0"),
        loaded=("tiny:latest",),
        streams=streams,
        t_mono_us=1,
        hardware=LightSample(cpu_utilization_ratio=0.5),
    )


async def view(replica: Replica, agent_id: str) -> dict[str, object]:
    answer = await replica.server.http.get(f"/api/v1/agents/{agent_id}")
    found: dict[str, object] = answer.json()
    return found


async def test_what_an_agent_reports_is_shown_by_every_server(two: Two) -> None:
    here, there = two
    async with there.server.agent("rack-7") as agent:
        await here.hears_of(agent)
        await agent.sync_models(InstalledModel(name="tiny:latest", digest="d2", size_bytes=1))
        await agent.notify("heartbeat", beat(3))
        presence = here.hub.presence

        def told() -> bool:
            found = presence(agent.agent_id)
            return found is not None and found.heartbeat is not None and found.models is not None

        await until(told)
        shown, own = await view(here, agent.agent_id), await view(there, agent.agent_id)
        # Each says how long ago it heard of the agent: not in the same instant.
        for one in (shown, own):
            assert one.pop("heard_ago_s") is not None
            assert one.pop("last_seen") is not None
        assert shown == own
        assert (shown["name"], shown["streams"], shown["model_count"]) == ("rack-7", 3, 1)
        found = presence(agent.agent_id)
        assert found is not None
        assert found.digest_of("tiny") == "d2"
    await here.misses(agent.agent_id)
    assert (await view(here, agent.agent_id))["presence"] == "offline"


async def test_a_new_agent_is_in_the_list_and_its_events_at_every_server(two: Two) -> None:
    here, there = two
    with here.hub.events.listen() as listener:
        async with there.server.agent() as agent:
            assert await listener.next() == AgentChanged(agent.agent_id)
            await here.hears_of(agent)
            listed = (await here.server.http.get("/api/v1/agents")).json()
            assert [(one["id"], one["presence"]) for one in listed] == [(agent.agent_id, "online")]
            assert here.hub.online() == {agent.agent_id}
            assert (here.hub.heard_ago_s(agent.agent_id) or 0.0) < 60


async def test_a_server_that_comes_later_knows_all_agents_when_it_serves(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 2) as fleet:
        one, two = fleet.replicas
        async with one.server.agent("a") as first, two.server.agent("b") as second:
            async with fleet.another() as late:
                assert late.hub.online() == {first.agent_id, second.agent_id}
            # Those of one that leaves in order are gone at once, and none of the others.
            assert one.hub.online() == {first.agent_id, second.agent_id}


async def test_agents_of_a_server_that_drains_leave_at_once_everywhere_and_come_to_others(
    tmp_path: Path,
) -> None:
    async with fleet_of(tmp_path, 2) as fleet:
        here = fleet.replicas[0]
        credentials = await here.server.enrol()
        async with fleet.another() as leaving, leaving.server.agent(credentials=credentials) as agent:
            await here.hears_of(agent)
            await leaving.hub.drain()
            assert (await agent.until_closed())[0] == 4503
            await here.misses(agent.agent_id)
            async with here.server.agent(credentials=credentials):
                await until(lambda: leaving.hub.presence(agent.agent_id) is not None)


async def test_a_lost_message_is_made_good_by_the_whole_list(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    lost: list[BusMessage] = []
    subjects = Subjects(there.hub.membership.cluster)
    deliver = LocalBus.deliver

    def lose_some(bus: LocalBus, message: BusMessage) -> bool:
        if message.subject == subjects.presence(there.hub.membership.replica_id) and not lost:
            lost.append(message)
            return True
        return deliver(bus, message)

    async with there.server.agent() as agent:
        await here.hears_of(agent)
        monkeypatch.setattr(here.bus, "deliver", lambda message: lose_some(here.bus, message))
        await agent.notify("heartbeat", beat(7))

        def told() -> bool:
            found = here.hub.presence(agent.agent_id)
            return found is not None and found.heartbeat is not None and found.heartbeat.streams == 7

        await until(told)
        assert lost


async def test_changes_while_the_bus_is_away_are_known_when_it_is_back(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 2) as fleet:
        here, there = fleet.replicas
        staying = await there.server.enrol("staying")
        async with there.server.agent(credentials=staying) as agent:
            async with there.server.agent("leaving") as leaving:
                await here.hears_of(agent)
                await here.hears_of(leaving)
                there.bus.lose()
            async with there.server.agent("coming") as coming:
                await until(lambda: there.hub.online() == {agent.agent_id, coming.agent_id})
                # What was heard last stays. Of what is not heard the database says who has it.
                assert here.hub.online() >= {agent.agent_id, leaving.agent_id}
                await here.hears_of(coming)
                there.bus.restore()
                await until(lambda: here.hub.online() == {agent.agent_id, coming.agent_id})


async def test_a_server_that_starts_without_the_bus_shows_whom_the_others_have(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, 2) as fleet:
        one, two = fleet.replicas
        async with one.server.agent("a") as first, two.server.agent("b") as second:
            await first.notify("heartbeat", beat(3))
            async with fleet.another(lost=True) as late:
                assert late.hub.online() == {first.agent_id, second.agent_id}
                shown = await view(late, first.agent_id)
                assert (shown["presence"], shown["version"], shown["streams"]) == ("online", "1.2.3", None)
                assert shown["heard_ago_s"] is None
                assert shown["connected_at"] is None
                path = f"/api/v1/agents/{first.agent_id}/commands/running_models"
                assert (await late.server.http.post(path)).status_code == 503, "it is there, and out of reach"
                # An agent that leaves meanwhile: the database says so.
                await second.socket.close()
                await late.misses(second.agent_id)
                late.bus.restore()

                def told() -> bool:
                    found = late.hub.presence(first.agent_id)
                    return found is not None and found.heartbeat is not None

                await until(told)
                assert late.hub.online() == {first.agent_id}


async def test_agents_of_a_server_that_died_unheard_are_offline_when_its_beats_are_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_of(tmp_path, 1) as fleet:
        (one,) = fleet.replicas
        async with one.server.agent("a") as agent, fleet.another(lost=True) as late:
            assert late.hub.online() == {agent.agent_id}
            with late.hub.events.listen() as listener:
                record = late.hub.membership._record  # noqa: SLF001 - what ten seconds without beats would do
                monkeypatch.setattr(record, "alive", lambda *_: False)
                await late.misses(agent.agent_id)
                assert await listener.next() == AgentChanged(agent.agent_id)


async def test_what_a_server_tells_itself_comes_before_what_is_stored(two: Two) -> None:
    here, there = two
    async with there.server.agent() as agent:
        await here.hears_of(agent)
        with here.hub.events.listen() as listener:
            await agent.socket.close()
            assert agent.hello_result is not None
            # What it reported before may be told first.
            while here.hub._remote.last_ended(agent.agent_id) < agent.hello_result.session:  # noqa: SLF001
                assert await listener.next() == AgentChanged(agent.agent_id)
            assert here.hub.presence(agent.agent_id) is None, "also before the database says so"


async def test_a_server_whose_list_is_being_read_again_is_not_heard(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    async with there.server.agent() as agent:
        await here.hears_of(agent)
        exchange = here.hub._presence  # noqa: SLF001
        there_id = there.hub.membership.replica_id
        await until(lambda: exchange.heard(there_id))
        peer, read = exchange._peers[there_id], exchange._read_once  # noqa: SLF001
        reading, go_on = asyncio.Event(), asyncio.Event()

        async def held(*asked: Any) -> bool:
            reading.set()
            await go_on.wait()
            return await read(*asked)

        monkeypatch.setattr(exchange, "_read_once", held)
        # As after a gap in the numbers: agents that came meanwhile are not known yet.
        peer.number = -100
        await reading.wait()
        assert not exchange.heard(there_id)
        go_on.set()
        await until(lambda: exchange.heard(there_id))


def test_a_session_that_ended_is_not_shown_again_by_an_older_record() -> None:
    remote = RemoteAgents()
    heard, alive = set[str](), {"r1", "own"}
    recorded = RecordedAgents("own", remote, alive.__contains__, heard.__contains__)

    def record(agent_id: str, session: int, replica: str | None) -> AgentRecord:
        return AgentRecord(
            id=agent_id,
            name=agent_id,
            version="1",
            session=session,
            store_id="s",
            capabilities=(),
            enrolled_at=1.0,
            last_seen=2.0,
            replica=replica,
        )

    records = {
        one.id: one
        for one in (
            record("a", 5, "r1"),
            record("mine", 1, "own"),
            record("nobody's", 1, None),
            record("of the dead", 1, "r0"),
        )
    }
    assert recorded.take(records) == {"a"}
    assert recorded.presence("a") == Presence(
        session=5, instance="", version="1", capabilities=(), connected_at=None
    )
    remote.end("a", 4)
    recorded.ended("a", remote.last_ended("a"))
    assert list(recorded) == ["a"], "an older one ended"
    remote.end("a", 5)
    recorded.ended("a", remote.last_ended("a"))
    assert list(recorded) == []
    assert recorded.take(records) == frozenset(), "stored before it ended"
    assert recorded.take({"a": record("a", 6, "r1")}) == {"a"}
    heard.add("r1")
    assert recorded.take({"a": record("a", 6, "r1")}) == {"a"}, "its process tells of its agents now"
    assert list(recorded) == []


async def test_a_list_of_models_that_fills_no_message_is_fetched(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    lists: list[object] = []
    models = [
        InstalledModel(name=f"{'m' * 150}{number}:latest", digest=f"{number:064x}", size_bytes=1)
        for number in range(6000)
    ]
    async with there.server.agent() as agent:
        await here.hears_of(agent)
        monkeypatch.setattr(here.hub._presence, "_ask_for_list", lambda *_: lists.append(1))  # noqa: SLF001
        for index, start in enumerate(range(0, 6000, 1000)):
            part = tuple(models[start : start + 1000])
            sync = ModelsSync(
                revision=1,
                page=Page(index=index, last=start == 5000),
                ollama=OllamaState(reachable=True),
                list_digest="d",
                models=part,
            )
            await agent.ask("models.sync", sync)

        def told() -> bool:
            found = here.hub.presence(agent.agent_id)
            return found is not None and found.models is not None and len(found.models) == 6000

        await until(told)
        assert not lists, "no message was lost for being too large"


async def test_a_flood_by_one_agent_is_few_messages_and_the_last_state_arrives(two: Two) -> None:
    here, there = two
    heard: list[BusMessage] = []
    subjects = Subjects(there.hub.membership.cluster)
    async with there.server.agent() as agent:
        await here.hears_of(agent)
        watching = await here.bus.subscribe(subjects.presence("*"), heard.append)
        loop = asyncio.get_running_loop()
        began, number = loop.time(), 0
        while loop.time() - began < 1.5:
            number += 1
            await agent.notify("heartbeat", beat(number))
            await asyncio.sleep(0.01)

        def told() -> bool:
            found = here.hub.presence(agent.agent_id)
            return found is not None and found.heartbeat is not None and found.heartbeat.streams == number

        await until(told)
        took = loop.time() - began
        await watching.close()
        news = [msgspec.msgpack.decode(message.data, type=PresenceNews) for message in heard]
        assert len([one for one in news if one.updates]) <= took / COALESCE_S + 2


async def test_a_server_that_fell_silent_and_is_dead_for_the_database_takes_its_agents_along(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    monkeypatch.setattr(peers, "SILENT_S", 0.5)
    async with there.server.agent() as agent:
        await here.hears_of(agent)
        dead = there.hub.membership.replica_id
        alive = here.hub.membership.alive
        there.bus.lose()
        # Silent, and alive for the database: only the bus is away.
        await asyncio.sleep(2.5)
        assert here.hub.presence(agent.agent_id) is not None
        monkeypatch.setattr(here.hub.membership, "alive", lambda one: one != dead and alive(one))
        with here.hub.events.listen() as listener:
            assert await listener.next() == AgentChanged(agent.agent_id)
        assert here.hub.presence(agent.agent_id) is None
        # It was stopped, and goes on: its agents are there again.
        monkeypatch.setattr(here.hub.membership, "alive", alive)
        there.bus.restore()
        await here.hears_of(agent)


async def test_one_that_speaks_lives_whatever_the_database_says(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    async with there.server.agent() as agent:
        await here.hears_of(agent)
        dead = there.hub.membership.replica_id
        asked: list[str] = []

        def alive(one: str) -> bool:
            asked.append(one)
            return one != dead

        monkeypatch.setattr(here.hub.membership, "alive", alive)
        await until(lambda: asked.count(dead) >= 5)
        assert here.hub.presence(agent.agent_id) is not None


def sync(revision: int, free_bytes: int) -> HardwareSync:
    disk = StorageInfo(purpose="models", free_bytes=free_bytes)
    inventory = Inventory(fingerprint=f"f{revision}", collected_at=1.0, storage=(disk,))
    return HardwareSync(revision=revision, inventory=inventory)


async def test_the_room_on_another_servers_machine_is_what_its_newest_inventory_says(two: Two) -> None:
    here, there = two
    async with there.server.agent() as agent:
        await here.hears_of(agent)
        capacities = Capacities(here.hub, here.server.parts.storage)
        record = await here.hub.find(agent.agent_id)
        for revision, free in ((1, 1000), (2, 2000)):
            before = here.hub.presence(agent.agent_id)
            await agent.ask("hardware.sync", sync(revision, free))

            def told(known: object = before and before.inventory_at) -> bool:
                found = here.hub.presence(agent.agent_id)
                return found is not None and found.inventory_at not in (None, known)

            await until(told)
            assert (await capacities.of([record]))[agent.agent_id].free_bytes == free


# -- the table itself -------------------------------------------------------------------------------------

HELLO = HelloPart("i", "box", "1", "s", (), (), 1.0, 1.0)


def update(session: int, stamp: int, **parts: msgspec.Struct) -> AgentUpdate:
    encoded = {0: msgspec.msgpack.encode(HELLO)} | {
        int(number[1:]): msgspec.msgpack.encode(part) for number, part in parts.items()
    }
    return AgentUpdate("a", session, stamp, 0.5, encoded)


def test_an_older_session_never_replaces_a_newer_one_in_whatever_order_messages_come() -> None:
    agents = RemoteAgents()
    assert agents.apply("one", update(7, 1))
    assert agents.apply("two", update(8, 1))
    assert not agents.apply("one", update(7, 2))
    assert not agents.end("a", 7)
    known = agents.get("a")
    assert known is not None
    assert (known.replica, known.session) == ("two", 8)
    assert agents.drop_all("one") == []
    assert agents.end("a", 8)
    assert not agents.apply("one", update(7, 3)), "it ended before the one that ended"
    assert not agents.apply("two", update(8, 2)), "late"
    assert agents.apply("one", update(9, 4))


def test_an_older_update_of_a_session_changes_nothing() -> None:
    agents = RemoteAgents()
    assert agents.apply("one", update(7, 5))
    assert not agents.apply("one", update(7, 4))
    assert not agents.apply("one", update(7, 5))


def test_changes_of_a_session_whose_beginning_was_lost_wait_for_the_list() -> None:
    agents = RemoteAgents()
    assert not agents.apply("one", AgentUpdate("a", 7, 1, 0.0, {1: b""}))
    assert agents.presence("a") is None
    assert agents.hello("a") is None


def test_an_agent_elsewhere_costs_no_objects_that_each_collection_looks_through() -> None:
    agents = RemoteAgents()
    parts = {0: msgspec.msgpack.encode(HELLO), 1: msgspec.msgpack.encode(BeatPart(beat(1), 1.0, None, None))}
    gc.collect()
    before = len(gc.get_objects())
    for number in range(5000):
        assert agents.apply("one", AgentUpdate(f"agent-{number}", 1, 1, 0.0, parts))
    gc.collect()
    assert len(gc.get_objects()) - before < 5000
    for agent_id in agents:
        found = agents.presence(agent_id)
        assert found is not None
        assert found.heartbeat == beat(1)
    assert agents.presence("agent-7") is agents.presence("agent-7"), "decoded once"
    assert sorted(agents.drop_all("one")) == sorted(f"agent-{number}" for number in range(5000))
    assert len(agents) == 0
