"""Agents that dial one server while another has, or had, a session of theirs."""

import asyncio
from pathlib import Path

import pytest

from obt_agent.errors import ProtocolError
from obt_server.hub import AgentOffline
from obt_server.hub.sockets import SocketClosed
from obt_server.replica_storage import Owner
from obt_server.store import SqlStorage
from tests.replicas.fleet import Replica, fleet_of
from tests.server.agent_double import dial, never
from tests.waiting import until

Two = tuple[Replica, Replica]


@pytest.mark.usefixtures("told_alone")
async def test_a_redial_of_the_same_process_at_another_server_replaces_the_old_session(two: Two) -> None:
    here, there = two
    credentials = await here.server.enrol()
    async with (
        there.server.agent(credentials=credentials, instance="i") as old,
        here.server.agent(credentials=credentials, instance="i") as new,
    ):
        code, reason = await old.until_closed()
        assert (code, reason) == (1001, "replaced by a newer connection of this agent")
        await there.hears_of(new)
        assert not old.probes, "nobody probed it"
        found = await there.hub.find(new.agent_id)
        assert found.session == 2
    await there.misses(new.agent_id)


@pytest.mark.usefixtures("told_alone")
async def test_what_is_told_of_an_admission_says_which_server_has_the_agent(two: Two) -> None:
    here, there = two
    credentials = await here.server.enrol()
    assert (await here.hub.directory.current())[credentials[0]].session == 0
    async with there.server.agent(credentials=credentials) as agent:
        await here.hears_of(agent)
        record = here.hub.directory.records[agent.agent_id]
        assert (record.session, record.replica) == (1, there.hub.membership.replica_id)


async def test_an_agent_that_left_before_its_answer_is_nobodys(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    agent_id, secret = await here.server.enrol()

    async def gone(*_: object) -> None:
        raise SocketClosed(1006, "gone")

    monkeypatch.setattr(here.hub._local._sessions, "_answer_hello", gone)  # noqa: SLF001 - its last step
    async with dial(here.server.url, secret, agent_id) as double:
        with pytest.raises(asyncio.CancelledError):
            await double.hello()
    storage = here.server.parts.storage
    assert isinstance(storage, SqlStorage)

    async def given_up() -> bool:
        return await storage.owner(agent_id) == Owner(session=1, replica=None)

    await until(given_up)
    assert there.hub.presence(agent_id) is None


async def test_a_second_process_is_refused_while_the_first_lives_at_another_server(two: Two) -> None:
    here, there = two
    credentials = await here.server.enrol()
    agent_id, secret = credentials
    async with there.server.agent(credentials=credentials) as first:
        await here.hears_of(first)
        async with dial(here.server.url, secret, agent_id) as second:
            with pytest.raises((ProtocolError, asyncio.CancelledError)):
                await second.hello()
            assert (await second.until_closed())[0] == 4409
        assert first.closed is None
        assert (len(first.probes), first.requests) == (1, [])


async def test_a_second_process_comes_in_when_the_first_gives_no_sign_of_life_elsewhere(
    tmp_path: Path,
) -> None:
    async with fleet_of(tmp_path, 2, probe_s=0.2) as fleet:
        here, there = fleet.replicas
        credentials = await here.server.enrol()
        async with there.server.agent(credentials=credentials) as first:
            await here.hears_of(first)
            first.handlers["state.request"] = never
            async with here.server.agent(credentials=credentials) as second:
                assert second.hello_result is not None
                assert second.hello_result.session == 2
                assert (await first.until_closed())[0] == 1001


async def test_the_database_is_asked_where_no_presence_is_known(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    credentials = await here.server.enrol()
    agent_id, secret = credentials
    async with there.server.agent(credentials=credentials) as first:
        await here.hears_of(first)
        here.hub._remote.drop_all(there.hub.membership.replica_id)  # noqa: SLF001 -- as before its list came
        async with dial(here.server.url, secret, agent_id) as second:
            with pytest.raises((ProtocolError, asyncio.CancelledError)):
                await second.hello()
            assert (await second.until_closed())[0] == 4409


async def test_two_admissions_at_once_leave_one_session(two: Two) -> None:
    here, there = two
    credentials = await here.server.enrol()
    agent_id, secret = credentials
    async with (
        dial(here.server.url, secret, agent_id) as one,
        dial(there.server.url, secret, agent_id) as two_,
    ):
        await asyncio.gather(one.hello(), two_.hello(), return_exceptions=True)
        await until(lambda: [agent.closed is None for agent in (one, two_)].count(True) == 1)
        (left,) = [agent for agent in (one, two_) if agent.closed is None]
        for replica in (here, there):
            await replica.hears_of(left)
        owner = await here.server.parts.storage.owner(agent_id)
        assert owner is not None
        assert left.hello_result is not None
        assert owner.session == left.hello_result.session


async def test_without_the_bus_an_older_session_ends_by_the_database(two: Two) -> None:
    here, there = two
    credentials = await here.server.enrol()
    async with there.server.agent(credentials=credentials) as old:
        here.bus.lose()
        there.bus.lose()
        # Another process of it, which nobody can ask about: the agent must get in somewhere.
        async with here.server.agent(credentials=credentials) as new:
            assert (await old.until_closed())[0] == 1001
            assert new.closed is None


async def test_the_database_says_where_an_agent_is_and_that_it_left(two: Two) -> None:
    here, there = two
    storage = here.server.parts.storage
    async with there.server.agent() as agent:
        agent_id = agent.agent_id
        assert await storage.owner(agent_id) == Owner(session=1, replica=there.hub.membership.replica_id)

    async def left() -> bool:
        return await storage.owner(agent_id) == Owner(session=1, replica=None)

    await until(left)
    with pytest.raises(AgentOffline):
        await here.hub.call(agent_id, "running_models")
