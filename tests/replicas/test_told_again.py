"""What one server tells the others of its agents and events arrives, though something goes wrong once."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from obt_agent.ollama.payloads import InstalledModel, OllamaState
from obt_agent.protocol.envelope import Request
from obt_agent.protocol.jobs import JobProgress
from obt_agent.protocol.state import ModelsSync, Page
from obt_agent.protocol.streams import SeriesItem
from obt_server.hub.events import JobChanged
from obt_server.hub.presence import Presence
from obt_server.replicas import event_bridge, messages, own_agents, peers, presence_exchange
from obt_server.replicas.messages import AgentUpdate, HelloPart, PresenceNews
from obt_server.replicas.presence_exchange import PresenceExchange
from obt_server.replicas.remote_agents import RemoteAgents
from obt_server.rest import shared_runs
from tests.replicas.fleet import Replica, fleet_of
from tests.replicas.servers import replicas
from tests.replicas.test_presence import beat
from tests.server.agent_double import AgentDouble, Answer, never
from tests.waiting import until

Two = tuple[Replica, Replica]
HELLO = HelloPart("i", "box", "1", "s", (), (), 1.0, 1.0)


def told(replica: Replica, agent: AgentDouble, streams: int) -> Callable[[], bool]:
    """Whether a server knows an agent's heartbeat with so many streams."""

    def known() -> bool:
        presence = replica.hub.presence(agent.agent_id)
        return (
            presence is not None and presence.heartbeat is not None and presence.heartbeat.streams == streams
        )

    return known


async def test_a_change_after_a_pause_is_told_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_of(tmp_path, 1) as fleet:
        here = fleet.replicas[0]
        # Only what changes makes a message.
        monkeypatch.setattr(presence_exchange, "ALIVE_S", 3600.0)
        async with fleet.another() as there, there.server.agent() as agent:
            await here.hears_of(agent)
            for number in (1, 2, 3):
                await agent.notify("heartbeat", beat(number))
                await until(told(here, agent, number))


@pytest.mark.parametrize(
    ("away_s", "silent_s"), [(0.03, peers.SILENT_S), (0.5, 0.1)], ids=["briefly", "long"]
)
async def test_a_server_that_was_away_as_its_list_was_asked_for_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away_s: float, silent_s: float
) -> None:
    monkeypatch.setattr(peers, "SILENT_S", silent_s)
    async with fleet_of(tmp_path, 1) as fleet:
        there = fleet.replicas[0]
        ask, asked = PresenceExchange._ask_for_list, asyncio.Event()  # noqa: SLF001

        def nobody_listens_once(exchange: PresenceExchange, peer: peers.Peer, news: PresenceNews) -> None:
            if peer.replica_id == there.hub.membership.replica_id and not asked.is_set():
                asked.set()
                there.bus.lose()
                # The request goes where nobody listens; of what the other tells nothing is lost.
                asyncio.get_running_loop().call_later(away_s, there.bus.restore)
            ask(exchange, peer, news)

        async with there.server.agent() as agent:
            monkeypatch.setattr(PresenceExchange, "_ask_for_list", nobody_listens_once)
            async with fleet.another() as here:
                assert asked.is_set()
                await agent.notify("heartbeat", beat(2))
                await until(told(here, agent, 2))


async def test_news_too_large_for_a_message_are_fetched_until_that_succeeds(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    exchange = here.hub._presence  # noqa: SLF001
    read, failed = exchange._read_once, list[list[str]]()  # noqa: SLF001

    async def fails_twice(peer: Any, wanted: list[str] | None, listed: set[str]) -> bool:
        if wanted is not None and len(failed) < 2:
            failed.append(wanted)
            return False
        return await read(peer, wanted, listed)

    monkeypatch.setattr(exchange, "_read_once", fails_twice)
    async with there.server.agent() as agent:
        await here.hears_of(agent)
        for index in range(5):
            names = [f"m{n}-{'n' * 100}:latest" for n in range(400 * index, 400 * index + 400)]
            sync = ModelsSync(
                revision=1,
                page=Page(index=index, last=index == 4),
                ollama=OllamaState(reachable=True),
                list_digest="d",
                models=tuple(InstalledModel(name=name, digest="0" * 64, size_bytes=1) for name in names),
            )
            await agent.ask("models.sync", sync)

        def all_known() -> bool:
            found = here.hub.presence(agent.agent_id)
            return found is not None and found.models is not None and len(found.models) == 2000

        await until(all_known)
    assert failed == [[agent.agent_id]] * 2


async def test_a_part_that_cannot_be_told_hides_neither_its_agent_nor_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_of, make = own_agents._PARTS[1]  # noqa: SLF001

    def fails_for_some(presence: Presence) -> Any:
        beaten = presence.heartbeat is not None and presence.heartbeat.streams == 13
        return 2**70 if beaten else make(presence)

    monkeypatch.setitem(own_agents._PARTS, 1, (made_of, fails_for_some))  # noqa: SLF001
    async with fleet_of(tmp_path) as fleet:
        here, there = fleet.replicas
        async with there.server.agent("bad") as bad, there.server.agent("good") as good:
            await bad.notify("heartbeat", beat(13))
            await good.notify("heartbeat", beat(2))
            await here.hears_of(bad)
            await until(told(here, good, 2))
            await bad.sync_models(InstalledModel(name="tiny:latest", digest="d", size_bytes=1))
            await until(lambda: (found := here.hub.presence(bad.agent_id)) is not None and found.models)
            async with fleet.another() as late:
                await late.hears_of(bad)
                await until(told(late, good, 2))
        await here.misses(bad.agent_id)
        await here.misses(good.agent_id)


async def test_a_message_whose_taking_fails_in_the_middle_is_asked_for_again(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    apply, failed = RemoteAgents.apply, list[str]()

    def fails_once(remote: RemoteAgents, replica: str, update: AgentUpdate) -> bool:
        if not failed:
            failed.append(update.agent_id)
            raise RuntimeError("something that nobody foresaw")
        return apply(remote, replica, update)

    async with there.server.agent() as agent:
        await here.hears_of(agent)
        monkeypatch.setattr(RemoteAgents, "apply", fails_once)
        await agent.notify("heartbeat", beat(3))
        await until(told(here, agent, 3))
    assert failed == [agent.agent_id]


def test_what_another_release_tells_and_this_one_cannot_read_is_not_known_and_fails_nobody() -> None:
    remote, strange = RemoteAgents(), msgspec.msgpack.encode({"new": "shape"})
    hello = msgspec.msgpack.encode(HELLO)
    assert not remote.apply("r", AgentUpdate("a", 1, 1, 0.0, {messages.HELLO: strange}))
    assert remote.apply("r", AgentUpdate("b", 1, 2, 0.0, {messages.HELLO: hello, 1: strange, 2: strange}))
    assert remote.presence("a") is None
    found = remote.presence("b")
    assert found is not None
    assert (found.version, found.heartbeat, found.models) == ("1", None, None)


# -- events --------------------------------------------------------------------------------------------------


async def test_events_of_one_agent_that_are_long_keep_none_of_others_from_arriving(two: Two) -> None:
    here, there = two
    async with there.server.agent("long") as long, there.server.agent("short") as short:
        await here.hears_of(short)
        with here.hub.events.listen() as listener:
            phases = ["x" * 60_000, "short"]
            for number in range(20):
                for agent, phase in zip((long, short), phases, strict=True):
                    progress = {"job_id": f"j{number}", "state": "running", "progress": {"phase": phase}}
                    await agent.notify("job.progress", progress)
            heard: set[tuple[str, str]] = set()
            async with asyncio.timeout(60):
                while len(heard) < 40:
                    event = await listener.next()
                    if isinstance(event, JobChanged):
                        heard.add((event.agent_id, event.job_id))


def test_an_event_that_fits_no_message_or_cannot_be_encoded_takes_none_along() -> None:
    def job(number: int, size: int, done: int = 1) -> messages.JobMessage:
        progress = JobProgress(phase="x" * size, completed_bytes=done)
        return messages.JobMessage("a", f"j{number}", "running", progress)

    events = [job(0, 10), job(1, 5000), job(2, 10, done=2**70), *(job(n, 600) for n in range(3, 9))]
    pages = list(event_bridge._pages(events, 2000))  # noqa: SLF001
    assert max(map(len, pages)) <= 2000
    read = [
        event for page in pages for event in msgspec.msgpack.decode(page, type=list[messages.EventMessage])
    ]
    assert read == [event for event in events if event.job_id not in ("j1", "j2")]
    assert 1 < len(pages) < len(read)


async def test_a_fault_while_events_are_told_ends_no_later_ones(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    pages, failed = event_bridge._pages, list[int]()  # noqa: SLF001

    def fails_once(*asked: Any) -> Any:
        if not failed:
            failed.append(1)
            raise RuntimeError("something that nobody foresaw")
        return pages(*asked)

    monkeypatch.setattr(event_bridge, "_pages", fails_once)
    async with there.server.agent() as agent:
        await here.hears_of(agent)
        with here.hub.events.listen() as listener:
            while True:
                progress = {"job_id": f"j{len(failed)}", "state": "running", "progress": {"phase": "p"}}
                await agent.notify("job.progress", progress)
                if failed:
                    break
                await asyncio.sleep(0.01)
            await agent.notify("job.progress", progress | {"job_id": "later"})
            async with asyncio.timeout(60):
                while not isinstance(event := await listener.next(), JobChanged) or event.job_id != "later":
                    pass


# -- an orderly end ------------------------------------------------------------------------------------------


async def test_who_watches_an_agent_of_another_server_is_told_when_this_one_stops(tmp_path: Path) -> None:
    async def watch(agent: AgentDouble, request: Request) -> Answer:
        sample = SeriesItem(t_us=1, n=0, sample=msgspec.Raw(b'{"a":1}'))
        await agent.stream_items(request, msgspec.Raw(msgspec.json.encode(sample)))
        return await never()

    async def generate(agent: AgentDouble, request: Request) -> Answer:
        await agent.stream(request, b'{"response":"x"}')
        return await never()

    async with fleet_of(tmp_path, 1) as fleet:
        there = fleet.replicas[0]
        async with fleet.another() as here, there.server.agent() as agent:
            agent.handlers |= {"hardware_watch": watch, "generate": generate}
            await here.hears_of(agent)
            lines: dict[str, list[str]] = {"watch": [], "generate": []}

            async def read(name: str, method: str, path: str, body: object = None) -> None:
                client = here.server.http
                async with client.stream(
                    method, f"/api/v1/agents/{agent.agent_id}{path}", json=body
                ) as answer:
                    async for line in answer.aiter_lines():
                        lines[name].append(line)

            reading = [
                asyncio.create_task(read("watch", "GET", "/hardware/watch")),
                asyncio.create_task(
                    read("generate", "POST", "/commands/generate", {"model": "tiny", "prompt": "x"})
                ),
            ]
            await until(lambda: all(lines.values()))
            here.server.uvicorn.should_exit = True
            await asyncio.gather(*reading)
            for name, found in lines.items():
                text = "\n".join(found)
                assert "event: error" in text, (name, text)
                assert "link_lost" in text, (name, text)


async def test_an_answer_of_another_release_does_not_end_the_asking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve, strange = shared_runs.SharedRuns._serve, [2]  # noqa: SLF001

    async def other_release(shared: Any, body: bytes, reply: Any) -> bytes:
        if strange[0]:
            strange[0] -= 1
            return msgspec.msgpack.encode({"new": "shape"})
        return await serve(shared, body, reply)

    monkeypatch.setattr(shared_runs.SharedRuns, "_serve", other_release)
    async with replicas(tmp_path) as (_, follower):
        shared = follower.parts.context.shared_runs
        assert shared is not None
        await until(lambda: not strange[0] and shared._epoch >= 0)  # noqa: SLF001
