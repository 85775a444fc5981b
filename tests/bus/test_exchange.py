"""Exchanges between server processes: whole or an error, bounded memory, ended at both sides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from obt_agent.errors import AgentError, Busy, DeadlineExceeded, LinkLost, ModelNotFound, ProtocolError
from obt_server.bus import BusMessage, ExchangeSettings, NoResponders, RemoteStream, ReplySink
from obt_server.bus.frames import Kind
from obt_server.hub.errors import AgentOffline
from tests.bus.sides import Elsewhere, Side, Sides, sides
from tests.waiting import until

LONG_S = 60.0
"""Longer than anything here takes."""


@pytest.fixture
async def both() -> AsyncIterator[Sides]:
    async with sides() as some:
        yield some


async def echo(body: bytes, reply: ReplySink) -> bytes:
    return body[::-1]


class Working:
    """A handler that works until somebody ends it."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, body: bytes, reply: ReplySink) -> bytes:
        self.began.set()
        try:
            await reply.send(b"first")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise AssertionError


async def pair(both: Sides) -> tuple[Side, Side]:
    return await both.join(), await both.join()


async def test_a_small_call_is_one_message_each_way(both: Sides) -> None:
    caller, server = await pair(both)
    await server.exchanges.serve(both.subject, echo)
    assert await caller.exchanges.call(both.subject, b"abc", timeout_s=LONG_S) == b"cba"
    assert (caller.bus.kinds(), server.bus.kinds()) == ([Kind.OPEN], [Kind.FINAL])


@pytest.mark.parametrize("size", [0, 65_535, 65_536, 65_537, 3_000_001])
async def test_requests_and_finals_of_any_size_arrive_whole(both: Sides, size: int) -> None:
    caller, server = await pair(both)
    await server.exchanges.serve(both.subject, echo)
    body = bytes(number % 251 for number in range(size))
    assert await caller.exchanges.call(both.subject, body, timeout_s=LONG_S) == body[::-1]
    assert max(len(frame.rest) for frame in caller.bus.sent + server.bus.sent) < 66_000


async def test_a_stream_brings_items_in_order_then_its_final(both: Sides) -> None:
    caller, server = await pair(both)
    large = bytes(range(256)) * 6000

    async def work(body: bytes, reply: ReplySink) -> bytes:
        await reply.send(*(b"%d" % number for number in range(5)))
        await reply.send(large)
        await reply.send(b"", b"x" * 65_530, large, b"end")
        return b"done"

    await server.exchanges.serve(both.subject, work)
    async with caller.exchanges.stream(both.subject, b"", silence_s=LONG_S) as stream:
        batches = [batch async for batch in stream]
        assert stream.result_text == b"done"
    wanted = [b"0", b"1", b"2", b"3", b"4", large, b"", b"x" * 65_530, large, b"end"]
    assert [item for batch in batches for item in batch] == wanted
    assert batches[0] == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize(
    "error",
    [
        ModelNotFound("none of that name", model="a:1b"),
        Busy("full", retry_after_ms=1500),
        AgentOffline("away"),
        Elsewhere("there", retryable=True),
    ],
)
async def test_an_error_arrives_as_what_it_was(both: Sides, error: AgentError) -> None:
    caller, server = await pair(both)

    async def fail(body: bytes, reply: ReplySink) -> bytes:
        raise error

    await server.exchanges.serve(both.subject, fail)
    with pytest.raises(type(error)) as raised:
        await caller.exchanges.call(both.subject, b"", timeout_s=LONG_S)
    shown = raised.value
    assert (shown.message, shown.retryable, shown.retry_after_ms, shown.detail) == (
        *(error.message, error.retryable, error.retry_after_ms, error.detail),
    )


async def test_an_unforeseen_error_arrives_without_its_text(both: Sides) -> None:
    caller, server = await pair(both)

    async def fail(body: bytes, reply: ReplySink) -> bytes:
        raise ValueError("the secret")

    await server.exchanges.serve(both.subject, fail)
    with pytest.raises(AgentError, match="unforeseen") as raised:
        await caller.exchanges.call(both.subject, b"", timeout_s=LONG_S)
    assert "secret" not in str(raised.value)


async def test_where_nobody_serves_the_answer_comes_at_once(both: Sides) -> None:
    caller, server = await pair(both)
    with pytest.raises(NoResponders):
        await caller.exchanges.call(both.subject, b"", timeout_s=LONG_S)
    async with caller.exchanges.stream(both.subject, b"", silence_s=LONG_S) as stream:
        with pytest.raises(NoResponders):
            await anext(aiter(stream))
    served = await server.exchanges.serve(both.subject, echo)
    await served.close()
    with pytest.raises(NoResponders):
        await caller.exchanges.call(both.subject, b"", timeout_s=LONG_S)


async def test_a_request_that_meets_the_end_of_its_server_is_refused_and_nothing_is_done(both: Sides) -> None:
    caller, server = await pair(both)
    done: list[bytes] = []

    async def work(body: bytes, reply: ReplySink) -> bytes:
        del reply
        done.append(body)
        return body

    for number in range(20):
        served = await server.exchanges.serve(both.subject, work)
        asked = asyncio.create_task(caller.exchanges.call(both.subject, b"%d" % number, timeout_s=LONG_S))
        # It is on its way.
        await asyncio.sleep(0)
        await served.close()
        with pytest.raises(NoResponders):
            await asked
    assert done == []


async def test_who_leaves_a_stream_cancels_its_handler(both: Sides) -> None:
    caller, server = await pair(both)
    work = Working()
    await server.exchanges.serve(both.subject, work)
    async with caller.exchanges.stream(both.subject, b"", silence_s=LONG_S) as stream:
        assert await anext(aiter(stream)) == [b"first"]
    await asyncio.wait_for(work.cancelled.wait(), LONG_S)
    await until(lambda: server.exchanges.open_calls == 0)
    # Told, and not left to notice the silence.
    assert caller.bus.kinds()[-1] is Kind.CANCEL


async def test_a_call_that_is_given_up_cancels_its_handler(both: Sides) -> None:
    caller, server = await pair(both)
    work = Working()

    async def silent(body: bytes, reply: ReplySink) -> bytes:
        work.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            work.cancelled.set()
        raise AssertionError

    await server.exchanges.serve(both.subject, silent)
    call = asyncio.create_task(caller.exchanges.call(both.subject, b"", timeout_s=LONG_S))
    await asyncio.wait_for(work.began.wait(), LONG_S)
    call.cancel()
    await asyncio.wait_for(work.cancelled.wait(), LONG_S)
    work.cancelled.clear()
    with pytest.raises(DeadlineExceeded):
        await caller.exchanges.call(both.subject, b"", timeout_s=0.01)
    await until(lambda: server.exchanges.open_calls == 0)


async def test_a_call_refuses_items(both: Sides) -> None:
    caller, server = await pair(both)
    work = Working()
    await server.exchanges.serve(both.subject, work)
    with pytest.raises(ProtocolError, match="streamed"):
        await caller.exchanges.call(both.subject, b"", timeout_s=LONG_S)
    await asyncio.wait_for(work.cancelled.wait(), LONG_S)


async def test_a_reader_that_stops_makes_nobody_hold_more_than_a_window(both: Sides) -> None:
    caller, server = await pair(both)
    sent: list[int] = []

    async def work(body: bytes, reply: ReplySink) -> bytes:
        for number in range(3000):
            await reply.send(b"%1000d" % number)
            sent.append(number)
        return b"done"

    await server.exchanges.serve(both.subject, work)
    async with caller.exchanges.stream(both.subject, b"", silence_s=LONG_S) as stream:
        first = await anext(aiter(stream))
        await until(lambda: caller.budget.held > 100_000)
        before = -1
        while before != len(sent):
            before = len(sent)
            await asyncio.sleep(0.05)
        assert len(sent) < 140
        assert caller.budget.held <= (128 << 10) + 2000
        rest = [item async for batch in stream for item in batch]
    assert [int(item) for item in first + rest] == list(range(3000))


async def test_what_waits_here_is_counted_and_refused_beyond_its_bound(both: Sides) -> None:
    caller, server = await both.join(most=1 << 20), await both.join()

    async def work(body: bytes, reply: ReplySink) -> bytes:
        return bytes(8 << 20)

    await server.exchanges.serve(both.subject, work)
    with pytest.raises(Busy):
        await caller.exchanges.call(both.subject, b"", timeout_s=LONG_S)
    assert caller.budget.held == 0
    caller.budget.change(1 << 20)
    with pytest.raises(Busy):
        await caller.exchanges.call(both.subject, b"", timeout_s=LONG_S)
    with pytest.raises(Busy):
        async with caller.exchanges.stream(both.subject, b"", silence_s=LONG_S):
            raise AssertionError
    caller.budget.change(-(1 << 20))


async def test_a_large_request_is_counted_where_it_arrives(both: Sides) -> None:
    caller, server = await both.join(), await both.join(most=1 << 20)
    await server.exchanges.serve(both.subject, echo)
    with pytest.raises(Busy):
        await caller.exchanges.call(both.subject, bytes(8 << 20), timeout_s=LONG_S)
    await until(lambda: server.budget.held == 0)
    # It was told so before it had sent the rest.
    assert sum(len(frame.rest) for frame in caller.bus.sent) < 4 << 20


async def test_requests_beyond_the_bound_are_refused(both: Sides) -> None:
    caller = await both.join()
    server = await both.join(ExchangeSettings(prefix=both.prefix, max_served=1, max_body_bytes=1000))
    work = Working()
    await server.exchanges.serve(both.subject, work)
    with pytest.raises(ProtocolError, match="larger"):
        await caller.exchanges.call(both.subject, bytes(1001), timeout_s=LONG_S)
    async with caller.exchanges.stream(both.subject, b"", silence_s=LONG_S) as stream:
        await anext(aiter(stream))
        with pytest.raises(Busy):
            await caller.exchanges.call(both.subject, b"", timeout_s=LONG_S)


async def test_every_message_twice_is_as_once(both: Sides) -> None:
    caller, server = await pair(both)
    caller.bus.fate = server.bus.fate = lambda frame: 2
    bodies: list[bytes] = []

    async def work(body: bytes, reply: ReplySink) -> bytes:
        bodies.append(body)
        for number in range(500):
            await reply.send(b"%1000d" % number)
        return bytes(200_000)

    await server.exchanges.serve(both.subject, work)
    async with caller.exchanges.stream(both.subject, bytes(300_000), silence_s=LONG_S) as stream:
        items = [int(item) async for batch in stream for item in batch]
        assert stream.result_text == bytes(200_000)
    assert items == list(range(500))
    assert bodies == [bytes(300_000)]


async def take_all(stream: RemoteStream, into: list[bytes]) -> None:
    async for batch in stream:
        into += batch


async def test_a_hole_ends_the_stream_at_both_sides(both: Sides) -> None:
    caller, server = await pair(both)
    server.bus.fate = lambda frame: frame.seq != 1 or frame.kind is not Kind.ITEMS
    ended = asyncio.Event()

    async def work(body: bytes, reply: ReplySink) -> bytes:
        try:
            for number in range(100_000):
                await reply.send(b"%1000d" % number)
        finally:
            ended.set()
        raise AssertionError

    await server.exchanges.serve(both.subject, work)
    async with caller.exchanges.stream(both.subject, b"", silence_s=LONG_S) as stream:
        taken: list[bytes] = []
        with pytest.raises(LinkLost, match="lost"):
            await take_all(stream, taken)
        assert taken == [b"%1000d" % 0]
    await asyncio.wait_for(ended.wait(), LONG_S)


async def test_a_hole_in_the_request_is_an_error(both: Sides) -> None:
    caller, server = await pair(both)
    caller.bus.fate = lambda frame: frame.seq != 2
    await server.exchanges.serve(both.subject, echo)
    with pytest.raises(LinkLost, match="lost"):
        await caller.exchanges.call(both.subject, bytes(300_000), timeout_s=LONG_S)
    await until(lambda: server.budget.held == 0)


async def test_of_two_that_serve_a_subject_one_answers(both: Sides) -> None:
    caller, one = await pair(both)
    other = await both.join()

    async def count(name: bytes, pause_at: range, body: bytes, reply: ReplySink) -> bytes:
        for number in range(200):
            # Neither is always the first one with a number.
            for _ in range(5 if number in pause_at else 0):
                await asyncio.sleep(0)
            await reply.send(name * 1000)
        return name

    await one.exchanges.serve(both.subject, partial(count, b"1", range(0, 100, 3)))
    await other.exchanges.serve(both.subject, partial(count, b"2", range(1, 100, 2)))
    async with caller.exchanges.stream(both.subject, b"", silence_s=LONG_S) as stream:
        items = [item async for batch in stream for item in batch]
        assert items == [stream.result_text * 1000] * 200


async def test_the_end_of_a_serving_process_ends_its_exchanges_at_once(both: Sides) -> None:
    caller, server = await pair(both)
    work = Working()
    await server.exchanges.serve(both.subject, work)
    async with caller.exchanges.stream(both.subject, b"", silence_s=LONG_S) as stream:
        items = aiter(stream)
        await anext(items)
        await server.exchanges.close()
        assert work.cancelled.is_set()
        with pytest.raises(LinkLost, match="ends"):
            await anext(items)


async def test_the_end_of_a_subject_ends_what_runs_there_and_nothing_else(both: Sides) -> None:
    caller, server = await pair(both)
    gone, kept = Working(), Working()
    served = await server.exchanges.serve(f"{both.subject}.1", gone)
    await server.exchanges.serve(f"{both.subject}.2", kept)
    async with (
        caller.exchanges.stream(f"{both.subject}.1", b"", silence_s=LONG_S) as one,
        caller.exchanges.stream(f"{both.subject}.2", b"", silence_s=LONG_S) as two,
    ):
        ends, goes_on = aiter(one), aiter(two)
        await anext(ends)
        await anext(goes_on)
        await served.close()
        with pytest.raises(LinkLost, match="not here any more"):
            await anext(ends)
        assert not kept.cancelled.is_set()


async def test_the_end_of_a_calling_process_ends_its_exchanges_at_once(both: Sides) -> None:
    caller, server = await pair(both)
    work = Working()
    await server.exchanges.serve(both.subject, work)
    async with caller.exchanges.stream(both.subject, b"", silence_s=LONG_S) as stream:
        items = aiter(stream)
        await anext(items)
        await caller.exchanges.close()
        with pytest.raises(LinkLost, match="ends"):
            await anext(items)
        with pytest.raises(AgentError):
            await caller.exchanges.call(both.subject, b"", timeout_s=LONG_S)
    await asyncio.wait_for(work.cancelled.wait(), LONG_S)


async def test_messages_that_are_none_are_passed_over(both: Sides) -> None:
    caller, server = await pair(both)
    await server.exchanges.serve(both.subject, echo)
    await caller.exchanges.call(both.subject, b"", timeout_s=LONG_S)
    elsewhere: list[BusMessage] = []
    await caller.bus.subscribe(f"{both.prefix}.events", elsewhere.append)
    inbox = f"{both.prefix}.inbox.{'0' * 32}"
    headed = bytes([Kind.OPEN]) + bytes(36)
    for data in (b"", b"x", bytes(100), b"\xff" * 100, headed, headed + bytes(16)):
        for reply in (None, f"{both.prefix}.events", f"{inbox}.{'1' * 32}"):
            await caller.bus.inner.publish(both.subject, data, reply)
    for kind in Kind:
        for rest in (b"", b"x", b"\xff" * 40):
            data = bytes([kind]) + bytes(36) + rest
            own = caller.bus.replies[0].rpartition(".")[0]
            for word in ("-", "0" * 32, "calls"):
                await server.bus.inner.publish(f"{own}.{word}", data, f"{both.prefix}.nobody")
    assert await caller.exchanges.call(both.subject, b"abc", timeout_s=LONG_S) == b"cba"
    assert elsewhere == []


async def test_nothing_is_asked_without_a_bus(both: Sides) -> None:
    caller, server = await pair(both)
    await server.exchanges.serve(both.subject, echo)
    await caller.bus.close()
    with pytest.raises(AgentError) as raised:
        await caller.exchanges.call(both.subject, b"", timeout_s=LONG_S)
    assert raised.value.kind == "bus_unavailable"
    with pytest.raises(AgentError):
        async with caller.exchanges.stream(both.subject, b"", silence_s=LONG_S):
            raise AssertionError
