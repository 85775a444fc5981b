"""Streams at the wire: credit, order, pieces, finals, live series, and readers that do not read."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from obt_agent.errors import AgentError, Cancelled, DeadlineExceeded, LinkLost
from obt_agent.link.send import SendScheduler
from obt_agent.link.session import LinkSession
from obt_agent.protocol.assembly import StreamAssembler
from obt_agent.protocol.envelope import Request
from obt_agent.protocol.errors import StreamEnd, to_wire
from obt_agent.protocol.streams import SeriesFinal, StreamData, StreamFinal
from tests.link.doubles import at_once, item, meeting, shorter
from tests.link.server_double import Peer
from tests.waiting import until

Handler = Callable[[LinkSession, Request], Awaitable[None]]
CREDIT = {"stream_credit_bytes": 32 << 10, "link_credit_bytes": 128 << 10}
NO_CREDIT = {"stream_credit_bytes": 0, "link_credit_bytes": 1 << 20}


def streaming(batches: list[list[tuple[int, list[bytes]]]]) -> Handler:
    """A handler that sends these batches and then a final."""

    async def handler(session: LinkSession, request: Request) -> None:
        sink = session.open_stream(request.id)
        for batch in batches:
            await sink.send(batch)
        session.respond(
            request.id,
            StreamFinal(final=msgspec.Raw(b'{"done":true}'), t_us=9, stream=StreamEnd(next_seq=0)),
        )

    return handler


class Reader:
    """The server's side of one stream."""

    def __init__(self, peer: Peer, request_id: Any, *, grants: bool = True) -> None:
        self.peer = peer
        self.request_id = request_id
        self.grants = grants
        self.items: list[Any] = []
        self.frame_bytes: list[int] = []
        self.answer: dict[str, Any] | None = None
        self._assembler = StreamAssembler()

    async def read(self) -> Any:
        """Read until the final; the joined result."""
        while self.answer is None:
            await self.take(await self.peer.receive())
        if "error" in self.answer:
            return None
        rest, result = self._assembler.finish(msgspec.Raw(json.dumps(self.answer["result"]).encode()))
        self.items += [json.loads(bytes(raw)) for raw in rest]
        return json.loads(bytes(result))

    async def take(self, message: dict[str, Any]) -> None:
        if message.get("method") == "stream.data" and message["params"]["id"] == self.request_id:
            self.frame_bytes.append(message["bytes"])
            data = msgspec.convert(_with_raw_items(message["params"]), StreamData)
            self.items += [json.loads(bytes(raw)) for raw in self._assembler.feed(data)]
            if self.grants:
                await grant(self.peer, self.request_id, message["bytes"])
        elif message.get("id") == self.request_id and "method" not in message:
            self.answer = message


def _with_raw_items(params: dict[str, Any]) -> dict[str, Any]:
    items = params.get("items")
    if items is None:
        return params
    return {**params, "items": [msgspec.Raw(json.dumps(one).encode()) for one in items]}


async def grant(peer: Peer, request_id: Any, size: int) -> None:
    await peer.notify("stream.credit", {"id": request_id, "bytes": size})
    await peer.notify("link.credit", {"bytes": size})


async def test_items_arrive_in_order_and_the_final_says_how_many_frames_went_before() -> None:
    async with meeting() as met:
        batches = [[item(n * 10 + k) for k in range(10)] for n in range(200)]
        met.handler.methods["generate"] = streaming(batches)
        reader = Reader(met.peer, await met.peer.request("generate"))
        result = await reader.read()
        assert [one["t_us"] for one in reader.items] == list(range(2000))
        assert result["stream"] == {"next_seq": len(reader.frame_bytes), "dropped": 0}
        assert result["final"] == {"done": True}


class Filler(msgspec.Struct):
    padding: str


async def test_control_that_has_arrived_leaves_the_window_to_streams() -> None:
    async with meeting(hello=CREDIT) as met:
        for _ in range(60):
            met.session.notify("job.progress", Filler("x" * 1000))
        for _ in range(60):
            await met.peer.expect("job.progress")
        met.handler.methods["generate"] = streaming([[item(number)] for number in range(3)])
        await met.peer.request("generate", id="s")
        reader = Reader(met.peer, "s")
        await reader.read()
        assert len(reader.items) == 3


async def test_an_idle_link_sends_each_chunk_at_once() -> None:
    async with meeting() as met:
        go = asyncio.Semaphore(0)

        async def handler(session: LinkSession, request: Request) -> None:
            sink = session.open_stream(request.id)
            for number in range(5):
                await go.acquire()
                await sink.send([item(number)])

        met.handler.methods["generate"] = handler
        await met.peer.request("generate")
        for number in range(5):
            go.release()
            data = await met.peer.expect("stream.data")
            assert [one["t_us"] for one in data["params"]["items"]] == [number]


@pytest.mark.parametrize("streams", [1, 2])
async def test_a_lone_streams_chunk_is_written_when_it_is_sent_and_those_of_several_together(
    streams: int,
) -> None:
    async with meeting(hello=CREDIT) as met:
        requests = [await met.peer.request("generate") for _ in range(streams)]
        served = [await met.handler.requests.get() for _ in range(streams)]
        sinks = [session.open_stream(request.id) for session, request in served]
        before, written = met.session.frames_sent, []
        for number, sink in enumerate(sinks):
            await sink.send([item(number)])
            written.append(met.session.frames_sent - before)
        assert written == ([1] if streams == 1 else [0, 0])
        for request_id in requests:
            data = await met.peer.expect("stream.data")
            assert data["params"]["id"] == request_id


async def test_a_link_that_is_the_bottleneck_sends_what_has_gathered_together() -> None:
    async with meeting(
        hello={"stream_credit_bytes": 1 << 22, "link_credit_bytes": 1 << 22}, timings=shorter(silence_s=60.0)
    ) as met:
        met.handler.methods["generate"] = streaming([[item(n)] for n in range(8_000)])
        met.peer.socket.transport.pause_reading()
        request_id = await met.peer.request("generate")
        await until(
            lambda: (
                met.session.flow.streams[request_id].final is not None
                if request_id in met.session.flow.streams
                else False
            )
        )
        met.peer.socket.transport.resume_reading()
        reader = Reader(met.peer, request_id)
        await reader.read()
        assert len(reader.items) == 8_000
        assert len(reader.frame_bytes) < 1000


async def test_without_credit_nothing_goes_and_a_grant_lets_one_frame_overdraw() -> None:
    async with meeting(hello=NO_CREDIT) as met:
        met.handler.methods["generate"] = streaming([[item(n, "x" * 500)] for n in range(20)])
        met.handler.methods["ping"] = at_once
        request_id = await met.peer.request("generate", id="s")
        await met.peer.expect(id=await met.peer.request("ping"))
        assert not any(frame.get("method") == "stream.data" for frame in met.peer.frames)
        await met.peer.notify("stream.credit", {"id": request_id, "bytes": 1})
        data = await met.peer.expect("stream.data")
        assert data["bytes"] > 1
        await met.peer.expect(id=await met.peer.request("ping"))
        assert sum(frame.get("method") == "stream.data" for frame in met.peer.frames) == 1


async def test_link_credit_bounds_all_streams_together() -> None:
    hello = {"stream_credit_bytes": 1 << 20, "link_credit_bytes": 2000}
    async with meeting(hello=hello) as met:
        met.handler.methods["generate"] = streaming([[item(n, "x" * 400)] for n in range(50)])
        met.handler.methods["ping"] = at_once
        for request_id in ("a", "b"):
            await met.peer.request("generate", id=request_id)
        await met.peer.expect(id=await met.peer.request("ping"))
        await asyncio.sleep(0)
        await met.peer.expect(id=await met.peer.request("ping"))
        sent = [frame["bytes"] for frame in met.peer.frames if frame.get("method") == "stream.data"]
        assert sum(sent[:-1]) < 2000


async def test_a_stalled_stream_blocks_its_handler_and_holds_no_more_than_its_window_and_a_batch() -> None:
    async with meeting(hello={"stream_credit_bytes": 4096, "link_credit_bytes": 1 << 20}) as met:
        sent = 0

        async def handler(session: LinkSession, request: Request) -> None:
            nonlocal sent
            sink = session.open_stream(request.id)
            for number in range(1000):
                await sink.send([item(number, "x" * 100)])
                sent += 1

        met.handler.methods.update({"generate": handler, "ping": at_once})
        request_id = await met.peer.request("generate")
        await met.peer.expect("stream.data")
        for _ in range(20):
            await met.peer.expect(id=await met.peer.request("ping"))
        stuck_at = sent
        await met.peer.expect(id=await met.peer.request("ping"))
        assert sent == stuck_at < 1000
        assert met.session.flow.streams[request_id].waiting_bytes <= 4096 + 200


async def test_a_stalled_stream_does_not_hold_up_another() -> None:
    async with meeting() as met:
        batches = [[item(n, "x" * 1000) for n in range(10)] for _ in range(30)]
        met.handler.methods["generate"] = streaming(batches)
        await met.peer.request("generate", id="unread")
        other = Reader(met.peer, await met.peer.request("generate", id="read"))
        await other.read()
        assert len(other.items) == 300
        assert met.session.streams == 1


async def test_the_first_item_after_a_pause_says_how_long_it_was() -> None:
    async with meeting(hello={"stream_credit_bytes": 1000, "link_credit_bytes": 1 << 20}) as met:
        waits: list[int] = []

        async def handler(session: LinkSession, request: Request) -> None:
            sink = session.open_stream(request.id)
            for number in range(6):
                waited_us = await sink.send([item(number, "x" * 400)])
                waits.append(waited_us)
            session.respond(request.id, SeriesFinal(stream=sink.end))

        met.handler.methods["generate"] = handler
        reader = Reader(met.peer, await met.peer.request("generate"))
        await reader.read()
        paused = sum(one.get("paused_us", 0) for one in reader.items)
        assert paused <= sum(waits)
        assert any(waits)
        assert bool(paused) == any(waits[:-1])


async def test_a_server_that_grants_nothing_ends_the_stream_as_stalled() -> None:
    caught: list[AgentError] = []

    async def handler(session: LinkSession, request: Request) -> None:
        sink = session.open_stream(request.id)
        try:
            for number in range(1000):
                await sink.send([item(number, "x" * 1000)])
        except AgentError as error:
            caught.append(error)

    hello = {"stream_credit_bytes": 4096, "link_credit_bytes": 1 << 20}
    async with meeting(hello=hello, timings=shorter(stalled_s=0.2)) as met:
        met.handler.methods["generate"] = handler
        reader = Reader(met.peer, await met.peer.request("generate"), grants=False)
        await reader.read()
        assert reader.answer is not None
        error = reader.answer["error"]
        assert error["code"] == -32006
        assert "stalled" in error["message"]
        assert error["data"]["stream"]["next_seq"] == len(reader.frame_bytes)
        await until(lambda: bool(caught))
        assert isinstance(caught[0], DeadlineExceeded)
        assert met.session.streams == 0


async def test_without_link_credit_every_stream_ends_as_stalled() -> None:
    hello = {"stream_credit_bytes": 4096, "link_credit_bytes": 0}
    async with meeting(hello=hello, timings=shorter(stalled_s=0.2)) as met:
        met.handler.methods["generate"] = streaming([[item(1)]])
        request_id = await met.peer.request("generate")
        assert (await met.peer.expect(id=request_id))["error"]["code"] == -32006


async def test_a_slow_reader_that_grants_now_and_then_is_not_stalled() -> None:
    hello = {"stream_credit_bytes": 500, "link_credit_bytes": 1 << 20}
    async with meeting(hello=hello, timings=shorter(stalled_s=3.0)) as met:
        met.handler.methods["generate"] = streaming([[item(n, "x" * 450)] for n in range(12)])
        request_id = await met.peer.request("generate")
        reader = Reader(met.peer, request_id, grants=False)
        while reader.answer is None:
            message = await met.peer.receive()
            await reader.take(message)
            if message.get("method") == "stream.data":
                await asyncio.sleep(0.4)  # the reader's own slowness is what is tried
                await grant(met.peer, request_id, message["bytes"])
        assert "result" in reader.answer


async def test_a_late_event_loop_is_no_proof_that_a_stream_gets_no_credit() -> None:
    hello = {"stream_credit_bytes": 500, "link_credit_bytes": 1 << 20}
    async with meeting(hello=hello, timings=shorter(stalled_s=60.0, tick_s=60.0)) as met:
        met.handler.methods["generate"] = streaming([[item(n, "x" * 450)] for n in range(3)])
        reader = Reader(met.peer, await met.peer.request("generate"), grants=False)
        await reader.take(await met.peer.receive())
        now = asyncio.get_running_loop().time()
        # As of a process that stands still for an hour between two of them, a grant unread.
        await until(lambda: all(not one.balance.positive for one in met.session.flow.streams.values()))
        for at_s, late in ((now, False), (now, False), (now + 3600, True)):
            met.session.tick(at_s, late)
        assert met.session.streams == 1
        met.session.tick(now + 3600, False)
        await reader.read()
        assert reader.answer is not None
        assert reader.answer["error"]["code"] == -32006


async def test_an_error_drops_what_was_not_sent_and_comes_at_once() -> None:
    async def handler(session: LinkSession, request: Request) -> None:
        sink = session.open_stream(request.id)
        await sink.send([item(1)])
        await asyncio.sleep(0)
        session.respond_error(request.id, to_wire(Cancelled("withdrawn"), sink.end))
        with pytest.raises(LinkLost):
            await sink.send([item(2)])

    async with meeting(hello=NO_CREDIT) as met:
        met.handler.methods["generate"] = handler
        request_id = await met.peer.request("generate")
        error = (await met.peer.expect(id=request_id))["error"]
        assert error["code"] == -32004
        assert error["data"]["stream"]["next_seq"] == 0
        assert met.session.streams == 0


async def test_a_final_follows_its_own_data_and_passes_that_of_others() -> None:
    async with meeting(hello=NO_CREDIT) as met:
        met.handler.methods["generate"] = streaming([[item(1)]])
        await met.peer.request("generate", id="held")
        await met.peer.request("generate", id="let")
        await met.peer.notify("stream.credit", {"id": "let", "bytes": 10_000})
        reader = Reader(met.peer, "let", grants=False)
        await reader.read()
        assert len(reader.items) == 1
        assert not any(
            frame.get("method") == "stream.data" and frame["params"]["id"] == "held"
            for frame in met.peer.frames
        )
        await met.peer.notify("stream.credit", {"id": "held", "bytes": 10_000})
        held = Reader(met.peer, "held", grants=False)
        assert (await held.read())["stream"]["next_seq"] == 1


async def test_control_overtakes_data_that_waits_for_credit() -> None:
    async with meeting(hello=NO_CREDIT) as met:
        met.handler.methods.update({"generate": streaming([[item(1)]]), "ping": at_once})
        await met.peer.request("generate")
        await met.peer.expect(id=await met.peer.request("ping"))


@pytest.mark.parametrize("size", [24 * 1024 + 1, 100_000, 1 << 20])
async def test_a_large_result_travels_in_pieces_under_credit(size: int) -> None:
    text = ('ä"\\\n€𝄞' * (size // 6))[:size]

    async def handler(session: LinkSession, request: Request) -> None:
        session.respond(request.id, msgspec.Raw(msgspec.json.encode({"text": text})))

    async with meeting() as met:
        met.handler.methods["show_model"] = handler
        reader = Reader(met.peer, await met.peer.request("show_model"))
        assert (await reader.read())["text"] == text
        assert reader.answer is not None
        encoded = msgspec.json.encode({"text": text})
        final = reader.answer["result"]
        assert final["bytes"] == len(encoded)
        assert final["sha256"] == hashlib.sha256(encoded).hexdigest()
        assert final["stream"]["next_seq"] == len(reader.frame_bytes)
        assert max(reader.frame_bytes) <= 32 * 1024


async def test_a_large_item_travels_in_pieces_between_its_neighbours() -> None:
    async with meeting() as met:
        met.handler.methods["generate"] = streaming([[item(1), item(2, "ü" * 40_000), item(3)]])
        reader = Reader(met.peer, await met.peer.request("generate"))
        await reader.read()
        assert [one["t_us"] for one in reader.items] == [1, 2, 3]
        assert json.loads(json.dumps(reader.items[1]))["chunk"]["response"] == "ü" * 40_000
        assert max(reader.frame_bytes) <= 32 * 1024


async def test_a_large_result_after_items_keeps_its_place() -> None:
    async def handler(session: LinkSession, request: Request) -> None:
        sink = session.open_stream(request.id)
        await sink.send([item(1)])
        final = msgspec.Raw(msgspec.json.encode({"context": "y" * 50_000}))
        session.respond(request.id, StreamFinal(final=final, t_us=2, stream=sink.end))

    async with meeting() as met:
        met.handler.methods["generate"] = handler
        reader = Reader(met.peer, await met.peer.request("generate"))
        assert (await reader.read())["final"]["context"] == "y" * 50_000
        assert len(reader.items) == 1


async def test_the_id_of_a_result_that_still_travels_is_in_flight() -> None:
    async def handler(session: LinkSession, request: Request) -> None:
        session.respond(request.id, msgspec.Raw(msgspec.json.encode("x" * 50_000)))

    async with meeting(hello=NO_CREDIT) as met:
        met.handler.methods["show_model"] = handler
        await met.peer.request("show_model", id=1)
        await met.peer.request("show_model", id=1)
        assert (await met.peer.expect(id=1))["error"]["code"] == -32600
        reader = Reader(met.peer, 1)
        await met.peer.notify("stream.credit", {"id": 1, "bytes": 1})
        assert await reader.read() == "x" * 50_000


async def test_a_live_series_without_credit_keeps_only_the_newest_sample() -> None:
    offered = asyncio.Event()
    stop = asyncio.Event()

    async def handler(session: LinkSession, request: Request) -> None:
        sink = session.open_stream(request.id, series=True)
        for number in range(100):
            await sink.send_latest(b'{"v":%d}' % number, t_us=number, n=number + 1, missed=0)
        offered.set()
        await stop.wait()
        session.respond(request.id, SeriesFinal(interval_ms=100, stream=sink.end))

    async with meeting(hello=NO_CREDIT) as met:
        met.handler.methods["hardware_watch"] = handler
        request_id = await met.peer.request("hardware_watch")
        await offered.wait()
        reader = Reader(met.peer, request_id)
        await met.peer.notify("stream.credit", {"id": request_id, "bytes": 1000})
        data = await met.peer.expect("stream.data")
        stop.set()
        await reader.take(data)
        result = await reader.read()
        assert reader.items == [{"t_us": 99, "n": 100, "missed": 99, "sample": {"v": 99}}]
        assert result["stream"] == {"next_seq": 1, "dropped": 99}
        assert result["interval_ms"] == 100


async def test_a_series_can_wait_until_its_sample_went_out() -> None:
    async def handler(session: LinkSession, request: Request) -> None:
        sink = session.open_stream(request.id, series=True)
        for number in range(50):
            await sink.wait_writable()
            await sink.send_latest(b"{}", t_us=number, n=number, missed=0)
        session.respond(request.id, SeriesFinal(stream=sink.end))

    async with meeting() as met:
        met.handler.methods["benchmark_metrics"] = handler
        reader = Reader(met.peer, await met.peer.request("benchmark_metrics"))
        result = await reader.read()
        assert [one["n"] for one in reader.items] == list(range(50))
        assert result["stream"]["dropped"] == 0


async def test_a_stream_that_the_server_does_not_list_twice_in_a_row_is_ended() -> None:
    async with meeting(hello=NO_CREDIT) as met:
        met.handler.methods.update({"generate": streaming([[item(1)]]), "ping": at_once})
        await met.peer.request("generate", id="a")
        await met.peer.request("generate", id="b")
        await until(lambda: met.session.streams == 2)
        await met.peer.notify("streams.alive", {"ids": ["a"]})
        await met.peer.notify("streams.alive", {"ids": ["a", "b"]})
        await met.peer.notify("streams.alive", {"ids": ["a"]})
        await met.peer.expect(id=await met.peer.request("ping"))
        assert met.session.streams == 2
        await met.peer.notify("streams.alive", {"ids": ["a"]})
        assert (await met.peer.expect(id="b"))["error"]["code"] == -32004
        assert set(met.session.flow.streams) == {"a"}


async def test_streams_end_with_the_session() -> None:
    caught: list[AgentError] = []

    async def handler(session: LinkSession, request: Request) -> None:
        sink = session.open_stream(request.id)
        try:
            await sink.send([item(n, "x" * 1000) for n in range(100)])
        except AgentError as error:
            caught.append(error)

    async with meeting(hello=NO_CREDIT) as met:
        met.handler.methods["generate"] = handler
        await met.peer.request("generate")
        await until(lambda: met.session.streams > 0)
        met.peer.socket.transport.abort()
        await until(lambda: bool(caught))
        assert isinstance(caught[0], LinkLost)
        assert met.session.streams == 0
        assert met.handler.ended == [met.session]


async def test_streams_share_the_link_by_bytes_with_bulk_requests() -> None:
    class Part(msgspec.Struct):
        data: str = "y" * 8000

    hello = {"stream_credit_bytes": 1 << 22, "link_credit_bytes": 1}
    async with meeting(hello=hello) as met:
        for name, size in (("small", 50), ("large", 4000)):
            batches = [[item(n, "x" * size)] for n in range(400_000 // (size + 60))]
            met.handler.methods[name] = streaming(batches)
            await met.peer.request(name, id=name)
        parts = [
            asyncio.create_task(met.session.request("job.part", Part(), msgspec.Raw, timeout_s=15, bulk=True))
            for _ in range(40)
        ]
        await until(
            lambda: sum(stream.waiting_bytes for stream in met.session.flow.streams.values()) >= 700_000
        )
        await met.peer.notify("link.credit", {"bytes": 600_000})
        got = {"small": 0, "large": 0, "bulk": 0}
        while sum(got.values()) < 580_000:
            message = await met.peer.receive()
            if message.get("method") == "stream.data":
                got[message["params"]["id"]] += message["bytes"]
            elif message.get("method") == "job.part":
                got["bulk"] += message["bytes"]
        assert max(got.values()) - min(got.values()) <= 4 * 32768
        for part in parts:
            part.cancel()


async def test_a_bulk_request_that_is_given_up_before_its_turn_is_not_sent() -> None:
    class Part(msgspec.Struct):
        data: str

    async with meeting(hello={"link_credit_bytes": 0}) as met:
        with pytest.raises(DeadlineExceeded):
            await met.session.request("job.part", Part("one"), msgspec.Raw, timeout_s=0.05, bulk=True)
        asking = asyncio.create_task(
            met.session.request("job.part", Part("two"), msgspec.Raw, timeout_s=5, bulk=True)
        )
        await asyncio.sleep(0)
        await met.peer.notify("link.credit", {"bytes": 10_000})
        part = await met.peer.expect("job.part")
        assert part["params"]["data"] == "two"
        await met.peer.answer(part, {})
        await asking


def test_a_server_that_names_endless_credit_makes_the_agent_hold_no_more_than_4_mib() -> None:
    stream = SendScheduler(1 << 60, 0).open(1)
    stream.append([b"x" * 1024] * 4096)
    assert not stream.has_room
