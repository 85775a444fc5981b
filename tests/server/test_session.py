"""One session's life: signs of life, bad frames, floods, requests both ways."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from obt_agent.errors import Busy, ProtocolError, UnknownCommand
from obt_agent.protocol import codec
from obt_agent.protocol.admission import Empty
from obt_agent.protocol.envelope import Request
from obt_agent.protocol.limits import Close
from obt_server.hub import AgentStream
from tests.hostile.frames import BAD_FRAMES
from tests.server.agent_double import AgentDouble, Answer, never
from tests.server.conftest import Running, running

EMPTY = msgspec.Raw(b"{}")


def notes(agent: AgentDouble, method: str) -> int:
    return sum(note.method == method for note in agent.notes)


async def test_an_idle_server_says_that_it_lives(tmp_path: Path) -> None:
    async with running(tmp_path, alive_interval_s=0.02) as server, server.agent() as agent:
        await agent.until(lambda: notes(agent, "link.alive") >= 3)


async def test_a_silent_agent_loses_its_session_and_its_requests_fail_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, silence_s=2.0) as server, server.agent() as agent:
        agent.handlers["running_models"] = never
        answer = await server.http.post(f"/api/v1/agents/{agent.agent_id}/commands/running_models")
        assert answer.status_code == 502
        assert answer.json()["error"]["kind"] == "link_lost"
        assert (await agent.until_closed())[0] == 1006, "dropped without a handshake"
        shown = (await server.http.get(f"/api/v1/agents/{agent.agent_id}")).json()
        assert shown["presence"] == "offline"


async def test_an_agent_that_says_something_now_and_then_keeps_its_session(tmp_path: Path) -> None:
    async with running(tmp_path, silence_s=3.0, alive_interval_s=0.1) as server, server.agent() as agent:
        loop = asyncio.get_running_loop()
        began, heard = loop.time(), 0
        while loop.time() < began + 3.5:
            await agent.until(lambda count=heard: notes(agent, "link.alive") > count)  # type: ignore[misc]  # a default is no parameter
            heard = notes(agent, "link.alive")
            await agent.notify("link.alive", Empty())
        assert agent.closed is None


async def test_streams_that_are_read_are_listed(tmp_path: Path) -> None:
    async with running(tmp_path, streams_alive_interval_s=0.05) as server, server.agent() as agent:
        agent.handlers["generate"] = never
        hub = server.parts.hub
        async with hub.stream(agent.agent_id, "generate", {"model": "m"}):
            await agent.until(lambda: bool(agent.requests) and lists_it(agent, agent.requests[-1]))
        await agent.until(lambda: not msgspec.json.decode(alive(agent)[-1])["ids"])


def alive(agent: AgentDouble) -> list[msgspec.Raw]:
    return [note.params for note in agent.notes if note.method == "streams.alive"]


def lists_it(agent: AgentDouble, request: Request) -> bool:
    return any(request.id in msgspec.json.decode(params)["ids"] for params in alive(agent))


async def test_bad_json_is_answered_with_id_null_and_the_session_goes_on(server: Running) -> None:
    async with server.agent() as agent:
        await agent.send(b"{not json")
        await agent.until(lambda: notes(agent, "error") == 1)
        await agent.sync_models()


@pytest.mark.parametrize("frame", BAD_FRAMES.values(), ids=BAD_FRAMES)
async def test_ten_bad_frames_in_a_minute_close_with_4400(server: Running, frame: str) -> None:
    async with server.agent() as agent:
        for _ in range(10):
            await agent.send(frame.encode())
        assert (await agent.until_closed())[0] == Close.PROTOCOL_ERROR


async def test_a_binary_frame_closes_with_1003(server: Running) -> None:
    async with server.agent() as agent:
        await agent.socket.send(b"\x00")
        assert (await agent.until_closed())[0] == Close.UNSUPPORTED_DATA


async def test_a_frame_over_the_limit_closes_with_1009(server: Running) -> None:
    async with server.agent() as agent:
        await agent.send(b'{"jsonrpc":"2.0","method":"x","params":{"p":"' + b"a" * (1 << 20) + b'"}}')
        assert (await agent.until_closed())[0] == Close.TOO_BIG


async def test_a_frame_over_a_smaller_limit_of_the_hub_closes_with_1009(tmp_path: Path) -> None:
    async with running(tmp_path, max_frame_bytes=1 << 16) as server, server.agent() as agent:
        await agent.send(b'{"jsonrpc":"2.0","method":"x","params":{"p":"' + b"a" * (1 << 16) + b'"}}')
        assert (await agent.until_closed())[0] == Close.TOO_BIG


async def test_an_unknown_method_is_answered_and_an_unknown_notification_ignored(server: Running) -> None:
    async with server.agent() as agent:
        await agent.notify("of.the.future", Empty())
        with pytest.raises(UnknownCommand, match=r"of\.the\.future"):
            await agent.ask("of.the.future", Empty())
        with pytest.raises(UnknownCommand, match="credentials"):
            await agent.ask("credentials.rotate", Empty())


async def test_wrong_parameters_are_answered_with_the_fields_path(server: Running) -> None:
    async with server.agent() as agent:
        with pytest.raises(ProtocolError, match=r"params.*revision"):
            await agent.ask("models.sync", msgspec.Raw(b'{"ollama":{"reachable":true}}'))


async def test_ten_notifications_with_wrong_parameters_close_with_4400(server: Running) -> None:
    async with server.agent() as agent:
        for _ in range(10):
            await agent.notify("heartbeat", Empty())
        assert (await agent.until_closed())[0] == Close.PROTOCOL_ERROR


async def test_an_answer_to_nothing_is_ignored(server: Running) -> None:
    async with server.agent() as agent:
        await agent.send(codec.encode_result(4711, {}))
        await agent.send(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"?"}}')
        await agent.sync_models()


async def test_a_flood_of_control_frames_closes_with_4429(tmp_path: Path) -> None:
    async with running(tmp_path, control_frames_per_s=1.0) as server, server.agent() as agent:
        for _ in range(12):
            await agent.notify("link.alive", Empty())
        assert (await agent.until_closed())[0] == Close.TOO_MUCH


async def test_a_stream_far_beyond_its_credit_is_ended_and_ten_such_messages_close_with_4400(
    server: Running,
) -> None:
    async with server.agent() as agent:
        agent.handlers["generate"] = never
        async with server.parts.hub.stream(agent.agent_id, "generate", {"model": "m"}) as stream:
            await agent.until(lambda: bool(agent.requests))
            request = agent.requests[-1]
            for _ in range(3):
                await agent.stream(request, FILLER)
            await agent.until(lambda: agent.requests[-1].method == "cancel")
            with pytest.raises(ProtocolError, match="beyond the credit"):
                await read_all(stream)
            for _ in range(10):
                await agent.stream(request, b'{"response":"a"}')
            assert (await agent.until_closed())[0] == Close.PROTOCOL_ERROR


FILLER = b'{"response":"' + b"a" * 700_000 + b'"}'


async def read_all(stream: AgentStream) -> None:
    async for _ in stream.text_batches():
        pass


async def test_data_far_beyond_the_links_credit_closes_with_4429(server: Running) -> None:
    async with server.agent() as agent:
        hold_storage(server)
        sync = msgspec.Raw(
            b'{"revision":1,"ollama":{"reachable":true},"list_digest":"' + b"a" * 700_000 + b'","models":[]}'
        )
        for number in range(4):
            await agent.send(codec.encode_request(number, "models.sync", sync))
        assert (await agent.until_closed())[0] == Close.TOO_MUCH


async def test_a_duplicate_of_an_id_in_flight_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path) as server, server.agent() as agent:
        release = hold_storage(server)
        sync = msgspec.Raw(
            b'{"revision":1,"ollama":{"reachable":true},"list_digest":"","models":[],"running":[]}'
        )
        first = asyncio.create_task(agent.ask("models.sync", sync, 7))
        await asyncio.to_thread(release.reached.wait, 20)
        await agent.send(codec.encode_request(7, "models.sync", sync))
        await agent.until(lambda: notes(agent, "error") == 1)
        release.go.set()
        # the refusal bears the same id, so that the double's first waiter got it
        with pytest.raises(ProtocolError, match="in flight already"):
            await first
        await agent.sync_models(revision=2)


async def test_more_requests_than_may_be_in_flight_are_answered_busy(tmp_path: Path) -> None:
    async with running(tmp_path, max_in_flight=1) as server, server.agent() as agent:
        release = hold_storage(server)
        sync = msgspec.Raw(b'{"revision":1,"ollama":{"reachable":true},"list_digest":"","models":[]}')
        first = asyncio.create_task(agent.ask("models.sync", sync))
        await asyncio.to_thread(release.reached.wait, 20)
        with pytest.raises(Busy) as caught:
            await agent.ask("models.sync", sync)
        assert caught.value.retry_after_ms
        release.go.set()
        await first


async def test_what_fails_unforeseen_here_is_answered_without_its_text(server: Running) -> None:
    async with server.agent() as agent:

        async def fail(*_: object, **__: object) -> None:
            raise ValueError("a secret of the server")

        server.parts.storage.save_models = fail  # type: ignore[method-assign]  # storage that breaks
        with pytest.raises(Exception, match="unforeseen way") as caught:
            await agent.sync_models()
        assert "secret" not in str(caught.value)


async def test_more_commands_than_may_be_in_flight_are_refused_busy_and_cancel_is_not(tmp_path: Path) -> None:
    async with running(tmp_path, max_in_flight=1) as server, server.agent() as agent:
        agent.handlers["generate"] = never
        hub = server.parts.hub
        async with hub.stream(agent.agent_id, "generate", {"model": "m"}):
            answer = await server.http.post(f"/api/v1/agents/{agent.agent_id}/commands/running_models")
            assert answer.status_code == 429
            assert answer.headers["Retry-After"] == "1"
        await agent.until(lambda: agent.requests[-1].method == "cancel")


async def test_a_command_that_is_not_answered_in_time_is_cancelled(tmp_path: Path) -> None:
    async with running(tmp_path, call_timeout_s=0.1) as server, server.agent() as agent:
        agent.handlers["running_models"] = never
        answer = await server.http.post(f"/api/v1/agents/{agent.agent_id}/commands/running_models")
        assert answer.status_code == 504
        await agent.until(lambda: agent.requests[-1].method == "cancel")
        cancelled = msgspec.json.decode(agent.requests[-1].params)
        assert cancelled == {"id": agent.requests[-2].id}


async def test_a_cancelled_request_is_forgotten_after_a_while_without_its_final(tmp_path: Path) -> None:
    short: dict[str, Any] = {"call_timeout_s": 0.5, "abandon_s": 0.05, "max_in_flight": 1}
    async with running(tmp_path, **short) as server, server.agent() as agent:
        path = f"/api/v1/agents/{agent.agent_id}/commands/running_models"
        agent.handlers["running_models"] = never
        assert (await server.http.post(path)).status_code == 504
        agent.handlers["running_models"] = nothing_runs
        async with asyncio.timeout(20):
            while (answer := await server.http.post(path)).status_code != 200:
                assert answer.status_code in (429, 504)
        assert answer.json() == {"models": []}


async def nothing_runs(_: AgentDouble, __: Request) -> Answer:
    return {"models": []}


async def test_an_agent_that_leaves_while_a_stream_runs_ends_the_stream(server: Running) -> None:
    async with server.agent() as agent:
        agent.handlers["generate"] = never
        path = f"/api/v1/agents/{agent.agent_id}/commands/generate"
        asked = asyncio.create_task(server.http.post(path, json={"model": "m"}))
        await agent.until(lambda: bool(agent.requests))
        await agent.socket.close()
        answer = await asked
    assert answer.status_code == 502
    assert answer.json()["error"]["kind"] == "link_lost"


async def test_the_agents_goodbye_is_kept_until_it_leaves(server: Running) -> None:
    async with server.agent() as agent:
        await agent.notify("agent.goodbye", msgspec.Raw(b'{"reason":"shutdown"}'))
        await agent.sync_models()
        presence = server.parts.hub.presence(agent.agent_id)
        assert presence is not None
        assert presence.goodbye == "shutdown"


class Held:
    """Storage that waits for us."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go = asyncio.Event()


def hold_storage(server: Running) -> Held:
    held = Held()
    original = server.parts.storage.save_models

    async def waiting(*arguments: object) -> None:
        held.reached.set()
        async with asyncio.timeout(20):
            await held.go.wait()
        await original(*arguments)  # type: ignore[arg-type]  # as they came

    server.parts.storage.save_models = waiting  # type: ignore[assignment, method-assign]  # storage that waits
    return held
