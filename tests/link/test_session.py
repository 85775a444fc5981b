"""One admitted session at the wire: requests both ways, bad frames, limits, the end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs
from websockets import ConnectionClosed

from obt_agent.errors import AgentError, DeadlineExceeded, LinkLost, ModelNotFound, OllamaError, TooLarge
from obt_agent.errors import InvalidParams as WrongParams
from obt_agent.link.wire import USER_AGENT
from obt_agent.protocol import limits
from obt_agent.protocol.admission import Empty
from obt_agent.protocol.byte_budget import ByteBudget
from obt_agent.protocol.errors import to_wire
from obt_agent.protocol.state import SyncResult
from tests.hostile.frames import BAD_FRAMES
from tests.link.doubles import SLOW, at_once, linked, meeting, never, shorter
from tests.link.server_double import Peer, ServerDouble
from tests.waiting import until


async def test_the_first_frame_is_hello_and_its_answer_admits() -> None:
    async with meeting(hello={"session": 7, "server": {"name": "obt", "version": "3"}, "time": 5.0}) as met:
        hello = met.peer.frames[0]
        assert hello["method"] == "agent.hello"
        assert hello["params"]["agent"]["id"] == "0190"
        assert met.session.number == 7
        status = met.rig.link.status
        assert status.state == "admitted"
        assert status.server == "obt 3"
        assert status.clock_skew_s is not None
        assert status.clock_skew_s < -1e9


async def test_the_upgrade_carries_credential_and_subprotocol_and_no_extension() -> None:
    async with meeting() as met:
        headers = met.server.requests[0].headers
        assert headers["Authorization"] == "Bearer canary-secret"
        assert headers["Sec-WebSocket-Protocol"] == "obt.v1"
        assert headers["User-Agent"] == USER_AGENT
        assert "Sec-WebSocket-Extensions" not in headers
        assert met.server.requests[0].path == "/api/v1/agents/connect"


async def test_a_request_right_behind_the_answer_to_hello_is_served() -> None:
    async def script(peer: Peer) -> None:
        hello = await peer.expect("agent.hello")
        request = {"jsonrpc": "2.0", "id": 1, "method": "list_models"}
        answer = {"jsonrpc": "2.0", "id": hello["id"], "result": {"protocol": 1, "session": 1}}
        peer.socket.protocol.send_text(json.dumps(answer).encode())
        peer.socket.protocol.send_text(json.dumps(request).encode())
        peer.socket.send_data()
        assert (await peer.expect(id=1))["result"] == {}
        served.set()
        await peer.until_closed()

    served = asyncio.Event()
    async with ServerDouble(script) as server, linked(server.url) as rig:
        rig.handler.methods["list_models"] = at_once
        await served.wait()


async def test_a_request_before_the_answer_to_hello_closes_the_link() -> None:
    async def script(peer: Peer) -> None:
        await peer.expect("agent.hello")
        await peer.request("list_models")
        codes.put_nowait(await peer.until_closed())

    codes: asyncio.Queue[int] = asyncio.Queue()
    async with ServerDouble(script) as server, linked(server.url):
        assert await codes.get() == 4400


async def test_our_request_gets_its_own_answer() -> None:
    async with meeting() as met:
        asking = asyncio.gather(
            met.session.request("models.sync", Empty(), SyncResult, timeout_s=5),
            met.session.request("jobs.sync", Empty(), SyncResult, timeout_s=5, bulk=True),
        )
        first = await met.peer.expect("models.sync")
        second = await met.peer.expect("jobs.sync")
        await met.peer.answer(second, {"revision": 2})
        await met.peer.answer(first, {"revision": 1})
        assert [answer.revision for answer in await asking] == [1, 2]


async def test_an_error_of_the_server_is_raised_as_the_error_that_it_names() -> None:
    async with meeting() as met:
        asking = asyncio.create_task(met.session.request("models.sync", Empty(), msgspec.Raw, timeout_s=5))
        request = await met.peer.expect("models.sync")
        wire = to_wire(ModelNotFound("no such", model="m"))
        await met.peer.send(
            {"jsonrpc": "2.0", "id": request["id"], "error": msgspec.to_builtins(wire)},
        )
        with pytest.raises(ModelNotFound) as caught:
            await asking
        assert caught.value.detail == {"model": "m"}


async def test_a_wrong_result_is_refused_with_the_path_of_its_field() -> None:
    async with meeting() as met:
        asking = asyncio.create_task(met.session.request("models.sync", Empty(), SyncResult, timeout_s=5))
        await met.peer.answer(await met.peer.expect("models.sync"), {"revision": "x"})
        with pytest.raises(WrongParams, match=r"result\.revision"):
            await asking


async def test_a_request_without_an_answer_ends_at_its_deadline_and_a_late_answer_is_ignored() -> None:
    async with meeting() as met:
        with pytest.raises(DeadlineExceeded) as caught:
            await met.session.request("models.sync", Empty(), msgspec.Raw, timeout_s=0.05)
        assert caught.value.detail["waited_for"] == "models.sync"
        await met.peer.answer(await met.peer.expect("models.sync"), {})
        met.handler.methods["ping"] = at_once
        request_id = await met.peer.request("ping")
        await met.peer.expect(id=request_id)


async def test_requests_in_flight_fail_when_the_link_is_lost() -> None:
    async with meeting() as met:
        asking = asyncio.create_task(met.session.request("models.sync", Empty(), msgspec.Raw, timeout_s=5))
        await met.peer.expect("models.sync")
        met.peer.socket.transport.abort()
        with pytest.raises(LinkLost):
            await asking
        assert not met.session.alive
        with pytest.raises(LinkLost):
            met.session.notify("heartbeat", Empty())
        with pytest.raises(LinkLost):
            await met.session.request("models.sync", Empty(), Empty, timeout_s=1)
        with pytest.raises(LinkLost):
            met.session.open_stream(1)
        met.session.respond(1, Empty())
        met.session.respond_error(1, to_wire(LinkLost("x")))


async def test_at_most_sixty_four_of_our_requests_are_in_flight() -> None:
    async with meeting() as met:
        asking = [
            asyncio.create_task(met.session.request("models.sync", Empty(), msgspec.Raw, timeout_s=10))
            for _ in range(70)
        ]
        seen = [await met.peer.expect("models.sync") for _ in range(64)]
        met.session.notify("heartbeat", Empty())
        assert (await met.peer.receive())["method"] == "heartbeat"
        for request in seen:
            await met.peer.answer(request, {})
        for _ in range(6):
            await met.peer.answer(await met.peer.expect("models.sync"), {})
        await asyncio.gather(*asking)


async def test_a_frame_larger_than_the_server_takes_is_not_sent() -> None:
    class Large(msgspec.Struct):
        text: str

    async with meeting(hello={"limits": {"max_frame_bytes": 65536}}) as met:
        with pytest.raises(TooLarge):
            await met.session.request("job.part", Large("x" * 70000), msgspec.Raw, timeout_s=5, bulk=True)


async def test_each_request_is_answered_once() -> None:
    async with meeting() as met:
        request_id = await met.peer.request("one")
        session, request = await met.handler.requests.get()
        session.respond(request.id, Empty())
        session.respond(request.id, Empty())
        session.respond_error(request.id, to_wire(OllamaError("late")))
        met.handler.methods["two"] = at_once
        await met.peer.request("two", id="end")
        await met.peer.expect(id="end")
        assert sum(frame.get("id") == request_id for frame in met.peer.frames) == 1


async def test_ids_one_and_string_one_are_two_requests() -> None:
    async with meeting() as met:
        for request_id in (1, "1"):
            await met.peer.request("one", id=request_id)
        sessions = [await met.handler.requests.get() for _ in range(2)]
        for session, request in sessions:
            session.respond(request.id, Empty())
        assert (await met.peer.expect(id=1))["result"] == {}
        assert (await met.peer.expect(id="1"))["result"] == {}


async def test_a_duplicate_of_an_id_in_flight_is_refused_and_the_first_goes_on() -> None:
    async with meeting() as met:
        await met.peer.request("one", id=5)
        session, request = await met.handler.requests.get()
        await met.peer.request("one", id=5)
        assert (await met.peer.expect(id=5))["error"]["code"] == -32600
        session.respond(request.id, Empty())
        assert (await met.peer.expect(id=5))["result"] == {}
        await met.peer.request("one", id=5)
        await met.handler.requests.get()


async def test_the_sixty_fifth_request_is_busy_and_cancel_is_not() -> None:
    async with meeting() as met:
        met.handler.methods.update({"slow": never, "cancel": at_once})
        for _ in range(64):
            await met.peer.request("slow")
        refused = await met.peer.request("slow")
        error = (await met.peer.expect(id=refused))["error"]
        assert error["code"] == -32003
        assert error["data"]["retry_after_ms"] > 0
        cancelled = await met.peer.request("cancel", {"id": 1})
        assert (await met.peer.expect(id=cancelled))["result"] == {}


async def test_a_repeated_id_in_flight_is_refused_and_the_first_goes_on() -> None:
    async with meeting() as met:
        await met.peer.request("slow", id=1)
        session, first = await met.handler.requests.get()
        await met.peer.request("slow", id=1)
        assert (await met.peer.expect(id=1))["error"]["code"] == -32600
        session.respond(first.id, Empty())
        assert (await met.peer.expect(id=1))["result"] == {}
        assert met.handler.requests.empty()


async def test_an_answer_that_nobody_waits_for_is_ignored() -> None:
    async with meeting() as met:
        await met.peer.send({"jsonrpc": "2.0", "id": 12345, "result": {}})
        await met.peer.send({"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "?"}})
        met.handler.methods["ping"] = at_once
        await met.peer.expect(id=await met.peer.request("ping"))


@pytest.mark.parametrize("frame", BAD_FRAMES.values(), ids=BAD_FRAMES)
async def test_a_bad_frame_is_answered_and_the_session_goes_on(frame: str) -> None:
    async with meeting() as met:
        await met.peer.send(frame)
        answer = await met.peer.receive()
        assert "error" in answer
        met.handler.methods["ping"] = at_once
        await met.peer.expect(id=await met.peer.request("ping"))


async def test_ten_bad_frames_in_a_minute_close_with_4400() -> None:
    async with meeting() as met:
        for _ in range(10):
            await met.peer.send("no json")
        assert await met.peer.until_closed() == 4400


async def test_bad_frames_further_apart_do_not_close() -> None:
    async with meeting(timings=shorter(bad_frames_s=0.0)) as met:
        for _ in range(15):
            await met.peer.send("no json")
            await met.peer.receive()
        assert met.session.alive


async def test_a_binary_frame_closes_with_1003() -> None:
    async with meeting() as met:
        await met.peer.send(b"\x00")
        assert await met.peer.until_closed() == 1003


async def test_a_frame_over_the_limit_closes_with_1009() -> None:
    async with meeting(backoff=SLOW) as met:
        await met.peer.send("x" * (limits.MAX_FRAME_BYTES + 1))
        assert await met.peer.until_closed() == 1009
        assert "too large" in await met.rig.until_down()


async def test_text_that_is_not_utf_8_closes_with_1007() -> None:
    async with meeting() as met:
        met.peer.socket.protocol.send_text(b'{"\xff"}')
        met.peer.socket.send_data()
        assert await met.peer.until_closed() == 1007


async def test_wrong_parameters_of_a_link_notification_are_ignored() -> None:
    async with meeting() as met:
        await met.peer.notify("link.credit", {"bytes": -5})
        await met.peer.notify("stream.credit", {"id": 99, "bytes": 5})
        await met.peer.notify("something.new", {"a": 1})
        met.handler.methods["ping"] = at_once
        await met.peer.expect(id=await met.peer.request("ping"))
        assert [notification.method for notification in met.handler.notifications] == ["something.new"]


async def test_control_output_that_nobody_reads_closes_the_link_at_a_mebibyte() -> None:
    """A server that asks and asks, and never reads the answers."""
    async with meeting(timings=shorter(silence_s=60.0), backoff=SLOW) as met:
        met.peer.socket.transport.pause_reading()

        class Answer(msgspec.Struct):
            text: str

        async def large(session: Any, request: Any) -> None:
            session.respond(request.id, Answer("x" * 200_000))

        async def ask() -> None:
            with contextlib.suppress(ConnectionClosed):
                for number in itertools.count(1):
                    await met.peer.request("large", id=number)

        met.handler.methods["large"] = large
        # A task: once the agent reads no more, what is sent to it waits for as long as the connection lasts.
        asking = asyncio.create_task(ask(), name="asking")
        with capture_logs() as logs:
            await until(lambda: bool(met.handler.ended))
            assert "Too much output" in await met.rig.until_down()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert [entry["event"] for entry in logs].count("link.closing") == 1


async def test_streams_whose_windows_do_not_fit_the_budget_of_the_process_are_busy() -> None:
    async def stream(session: Any, request: Any) -> None:
        try:
            session.open_stream(request.id)
        except AgentError as error:
            session.respond_error(request.id, to_wire(error))

    budget = ByteBudget(150_000)
    async with meeting(hello={"stream_credit_bytes": 65_536}, budget=budget) as met:
        met.handler.methods["stream"] = stream
        for number in (1, 2):
            await met.peer.request("stream", id=number)
        await met.peer.request("stream", id=3)
        refused = await met.peer.expect(id=3)
        assert refused["error"]["data"]["kind"] == "busy"
        assert refused["error"]["data"]["retry_after_ms"]
        assert budget.held_bytes > 2 * 65_536
        for number in (1, 2):
            met.session.respond(number, Empty())
        await until(lambda: budget.held_bytes == 0)


async def test_a_state_request_is_answered_and_passed_on() -> None:
    async with meeting() as met:
        request_id = await met.peer.request("state.request", {"kinds": ["models", "jobs"]})
        assert (await met.peer.expect(id=request_id))["result"] == {}
        assert met.rig.asked == [("models", "jobs")]
        request_id = await met.peer.request("state.request", {"kinds": ["weather"]})
        assert (await met.peer.expect(id=request_id))["error"]["code"] == -32602


async def test_a_rotated_credential_is_kept_before_it_is_answered_and_used_at_the_next_dial() -> None:
    async with meeting() as met:
        request_id = await met.peer.request("credentials.rotate", {"rotation_id": "r1"})
        result = (await met.peer.expect(id=request_id))["result"]
        candidate = met.rig.credentials.candidate
        assert candidate is not None
        assert result == {"rotation_id": "r1", "sha256": candidate.sha256}
        await met.peer.socket.close(1001)
        await met.rig.session()
        assert met.server.requests[1].headers["Authorization"] == "Bearer candidate-r1"


async def test_rotations_run_one_after_the_other() -> None:
    async with meeting() as met:
        for number in range(3):
            await met.peer.request("credentials.rotate", {"rotation_id": f"r{number}"}, id=number)
        results = [(await met.peer.expect(id=number))["result"] for number in range(3)]
        candidate = met.rig.credentials.candidate
        assert candidate is not None
        assert results[-1]["sha256"] == candidate.sha256


async def test_a_rotation_that_cannot_be_stored_is_an_error_without_its_text() -> None:
    async with meeting() as met:
        met.rig.credentials.fail = OSError("/var/lib/secret: No space left")
        request_id = await met.peer.request("credentials.rotate", {"rotation_id": "r1"})
        error = (await met.peer.expect(id=request_id))["error"]
        assert error["code"] == -32603
        assert "/var/lib" not in json.dumps(error)


async def test_a_droppable_notification_is_left_out_while_output_waits() -> None:
    async with meeting(timings=shorter(silence_s=60.0)) as met:
        assert met.session.notify("job.progress", Empty(), droppable=True)
        met.peer.socket.transport.pause_reading()

        class Large(msgspec.Struct):
            text: str = "x" * 100_000

        written = 0
        while met.session.notify("job.progress", Empty(), droppable=True):
            assert met.session.notify("heartbeat", Large())
            written += 1
        assert written < 11
        met.peer.socket.transport.resume_reading()
        while not met.session.notify("job.progress", Empty(), droppable=True):
            await met.peer.receive()
