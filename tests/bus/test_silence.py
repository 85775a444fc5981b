"""Exchanges whose other side falls silent, or whose messages are lost, on a clock that jumps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial, wraps
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from obt_agent.errors import AgentError, LinkLost
from obt_agent.system import clocks
from obt_server.bus import BusUnavailable, ExchangeSettings, LocalBus, NoResponders, ReplySink
from obt_server.bus.frames import Kind
from tests.bus import virtual_time
from tests.bus.sides import Fate, Side, Sides, sides
from tests.bus.test_exchange import Working, echo

LONG_S = 3600.0
GIVEN_UP_S = 5.0
"""In which silence must have been noticed."""


def in_virtual_time(test: Callable[[Sides], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @wraps(test)
    def run() -> None:
        async def inside() -> None:
            # NATS has a clock of its own.
            async with sides(real=False) as some:
                await test(some)

        virtual_time.run(inside())

    # Else pytest looks for fixtures of the names of the test's arguments.
    del run.__wrapped__
    return run


def now() -> float:
    return asyncio.get_running_loop().time()


async def streaming(both: Sides) -> tuple[Side, Side, Working]:
    caller, server = await both.join(), await both.join()
    work = Working()
    await server.exchanges.serve(both.subject, work)
    return caller, server, work


@in_virtual_time
async def test_quiet_exchanges_go_on_for_hours(both: Sides) -> None:
    caller, _, work = await streaming(both)
    async with caller.exchanges.stream(both.subject, b"", silence_s=LONG_S * 3) as stream:
        items = aiter(stream)
        assert await anext(items) == [b"first"]
        following = asyncio.ensure_future(anext(items))
        await asyncio.sleep(LONG_S)
        assert not following.done()
        assert not work.cancelled.is_set()
        following.cancel()


@in_virtual_time
async def test_a_serving_process_that_falls_silent_is_given_up(both: Sides) -> None:
    caller, server, _ = await streaming(both)
    async with caller.exchanges.stream(both.subject, b"", silence_s=LONG_S) as stream:
        items = aiter(stream)
        await anext(items)
        began = now()
        server.bus.fate = lambda frame: 0
        with pytest.raises(LinkLost, match="said nothing"):
            await anext(items)
        assert now() - began <= GIVEN_UP_S


@in_virtual_time
async def test_one_that_stands_again_and_again_gives_up_who_is_silent(both: Sides) -> None:
    caller, server, work = await streaming(both)
    standing_s = 2.1 * ExchangeSettings().alive_s / 2
    async with caller.exchanges.stream(both.subject, b"", silence_s=LONG_S) as stream:
        await anext(aiter(stream))
        # Both know nothing of each other from now on, and each beat of theirs is late.
        server.bus.fate = caller.bus.fate = lambda frame: 0
        began = now()
        while not work.cancelled.is_set() and now() - began < LONG_S:
            virtual_time.stop_the_world(standing_s)
            await asyncio.sleep(0.001)
        assert now() - began <= 3 * GIVEN_UP_S
        with pytest.raises(LinkLost, match="said nothing"):
            await anext(aiter(stream))


@in_virtual_time
async def test_one_that_never_says_a_word_is_given_up(both: Sides) -> None:
    caller, server, work = await streaming(both)
    server.bus.fate = lambda frame: 0
    began = now()
    with pytest.raises(LinkLost, match="said nothing"):
        await caller.exchanges.call(both.subject, b"", timeout_s=LONG_S)
    assert now() - began <= GIVEN_UP_S
    await asyncio.sleep(GIVEN_UP_S)
    assert work.cancelled.is_set()


@in_virtual_time
async def test_the_work_for_a_caller_that_falls_silent_is_cancelled(both: Sides) -> None:
    caller, _, work = await streaming(both)
    async with caller.exchanges.stream(both.subject, b"", silence_s=LONG_S) as stream:
        await anext(aiter(stream))
        caller.bus.fate = lambda frame: 0
        await asyncio.sleep(GIVEN_UP_S)
        assert work.cancelled.is_set()


@in_virtual_time
async def test_a_request_that_never_becomes_whole_is_forgotten(both: Sides) -> None:
    caller, server, work = await streaming(both)
    caller.bus.fate = lambda frame: frame.kind is Kind.OPEN
    with pytest.raises(LinkLost):
        await caller.exchanges.call(both.subject, bytes(300_000), timeout_s=LONG_S)
    await asyncio.sleep(GIVEN_UP_S)
    assert (server.exchanges.open_calls, server.budget.held) == (0, 0)
    assert not work.began.is_set()


@pytest.mark.parametrize("kind", [Kind.FINAL, Kind.ITEMS, Kind.ERROR])
def test_an_answer_whose_end_is_lost_is_an_error_in_time(kind: Kind) -> None:
    @in_virtual_time
    async def one(both: Sides) -> None:
        caller, server = await both.join(), await both.join()
        server.bus.fate = lambda frame: frame.kind is not kind

        async def work(body: bytes, reply: ReplySink) -> bytes:
            await reply.send(b"item")
            if kind is Kind.ITEMS:
                await asyncio.sleep(LONG_S)
            if kind is Kind.ERROR:
                raise LinkLost("what happened")
            return b"done"

        await server.exchanges.serve(both.subject, work)
        began = now()
        async with caller.exchanges.stream(both.subject, b"", silence_s=LONG_S) as stream:
            with pytest.raises(LinkLost):
                async for _ in stream:
                    pass
        assert now() - began <= GIVEN_UP_S

    one()


@in_virtual_time
async def test_credit_that_is_lost_comes_with_the_next_sign_of_life(both: Sides) -> None:
    caller, server = await both.join(), await both.join()
    caller.bus.fate = lambda frame: frame.kind is not Kind.CREDIT
    server.bus.fate = lambda frame: frame.kind is not Kind.GRANT

    async def work(body: bytes, reply: ReplySink) -> bytes:
        assert body == bytes(300_000)
        for number in range(500):
            await reply.send(b"%1000d" % number)
        return b"done"

    await server.exchanges.serve(both.subject, work)
    async with caller.exchanges.stream(both.subject, bytes(300_000), silence_s=LONG_S) as stream:
        assert [int(item) async for batch in stream for item in batch] == list(range(500))


@in_virtual_time
async def test_a_lost_bus_ends_everything_at_once(both: Sides) -> None:
    caller, server, work = await streaming(both)
    began = now()
    quiet = asyncio.ensure_future(caller.exchanges.call(f"{both.subject}.quiet", b"", timeout_s=LONG_S))
    await server.exchanges.serve(f"{both.subject}.quiet", lambda body, reply: asyncio.sleep(LONG_S, b""))
    async with caller.exchanges.stream(both.subject, b"", silence_s=LONG_S) as stream:
        items = aiter(stream)
        await anext(items)
        connection = caller.bus.inner
        assert isinstance(connection, LocalBus)
        connection.lose()
        with pytest.raises(LinkLost, match="connection"):
            await anext(items)
        with pytest.raises(BusUnavailable):
            await quiet
        with pytest.raises(BusUnavailable):
            await caller.exchanges.call(both.subject, b"", timeout_s=LONG_S)
        assert now() == began
        connection.restore()
    assert isinstance(server.bus.inner, LocalBus)
    server.bus.inner.lose()
    await asyncio.sleep(0)
    server.bus.inner.restore()
    work.cancelled.clear()
    async with caller.exchanges.stream(both.subject, b"", silence_s=LONG_S) as stream:
        assert await anext(aiter(stream)) == [b"first"]


@in_virtual_time
async def test_a_process_that_was_stopped_for_long_ends_its_work_and_begins_nothing_old(both: Sides) -> None:
    await _ends_its_work_and_begins_nothing_old(both, lambda: virtual_time.stop_the_world(60))


@in_virtual_time
async def test_a_process_whose_machine_slept_does_the_same(both: Sides) -> None:
    """The loop's clock stood still meanwhile, and the others' did not."""
    before_s = clocks.slept_s()
    with pytest.MonkeyPatch.context() as patched:
        asleep = partial(patched.setattr, clocks, "slept_s", lambda: before_s + 60)
        await _ends_its_work_and_begins_nothing_old(both, asleep)


async def _ends_its_work_and_begins_nothing_old(both: Sides, stop: Callable[[], None]) -> None:
    caller, server, work = await streaming(both)
    calls = 0

    async def counted(body: bytes, reply: ReplySink) -> bytes:
        nonlocal calls
        calls += 1
        return b"done"

    await server.exchanges.serve(f"{both.subject}.count", counted)
    async with caller.exchanges.stream(both.subject, b"", silence_s=LONG_S) as stream:
        items = aiter(stream)
        await anext(items)
        # Sent, and not taken before both processes stop: here they are one.
        old = asyncio.ensure_future(caller.exchanges.call(f"{both.subject}.count", b"", timeout_s=LONG_S))
        await asyncio.sleep(0)
        stop()
        with pytest.raises(LinkLost, match="stopped"):
            await anext(items)
        await asyncio.wait_for(work.cancelled.wait(), 1)
        with pytest.raises(AgentError):
            await old
    assert calls == 0
    assert await caller.exchanges.call(f"{both.subject}.count", b"", timeout_s=LONG_S) == b"done"


@in_virtual_time
async def test_a_short_stop_ends_nothing(both: Sides) -> None:
    caller, _, work = await streaming(both)
    async with caller.exchanges.stream(both.subject, b"", silence_s=LONG_S) as stream:
        await anext(aiter(stream))
        # Just before the next signs of life: those are more than 4 s apart then.
        await asyncio.sleep(1.9)
        virtual_time.stop_the_world(3.4)
        await asyncio.sleep(GIVEN_UP_S)
        assert not work.cancelled.is_set()


@in_virtual_time
async def test_a_serving_process_that_ends_without_a_word_is_noticed_by_the_bus(both: Sides) -> None:
    caller, server, _ = await streaming(both)
    async with caller.exchanges.stream(both.subject, b"", silence_s=LONG_S) as stream:
        items = aiter(stream)
        await anext(items)
        began = now()
        assert isinstance(server.bus.inner, LocalBus)
        server.bus.inner.lose()
        with pytest.raises(LinkLost, match="has ended"):
            await anext(items)
        assert now() - began <= 2


@in_virtual_time
async def test_one_that_ends_before_its_first_word_is_no_one_that_was_never_there(both: Sides) -> None:
    caller, server = await both.join(), await both.join()
    begun = asyncio.Event()

    async def work(body: bytes, reply: ReplySink) -> bytes:
        begun.set()
        await asyncio.Event().wait()
        return b""

    await server.exchanges.serve(both.subject, work)
    server.bus.fate = lambda frame: 0
    asked = asyncio.ensure_future(caller.exchanges.call(both.subject, b"", timeout_s=LONG_S))
    await begun.wait()
    assert isinstance(server.bus.inner, LocalBus)
    server.bus.inner.lose()
    # What was begun may have been done: nobody must take it for something that can be asked for again.
    began = now()
    with pytest.raises(LinkLost, match="has ended"):
        await asked
    assert now() - began <= 3


@in_virtual_time
async def test_an_answer_that_is_slower_than_the_word_of_the_bus_still_counts(both: Sides) -> None:
    caller = await both.join()
    server = await both.join(ExchangeSettings(prefix=both.prefix, alive_s=LONG_S, silence_s=LONG_S))
    publish = server.bus.inner.publish

    async def slow(subject: str, data: bytes, reply: str | None = None) -> None:
        await asyncio.sleep(1.5)
        await publish(subject, data, reply)

    served = await server.exchanges.serve(both.subject, echo)
    asked = asyncio.ensure_future(caller.exchanges.call(both.subject, b"", timeout_s=LONG_S))
    await asyncio.sleep(0)
    server.bus.inner.publish = slow  # type: ignore[method-assign] # as a busy process would send it
    await served.close()
    with pytest.raises(NoResponders):
        await asked
    # It is this sign that the bus had an answer to.
    assert [frame.kind for frame in caller.bus.sent].count(Kind.CALLER_ALIVE) == 1


SMALL = 16
WINDOW = 64


async def exchange_with(
    fates: tuple[Fate, Fate], body: bytes, items: list[bytes], final: bytes
) -> AgentError | None:
    """One exchange on a bus with faults: whole or an error, and nothing left. Return the error."""
    async with sides(real=False) as both:
        settings = ExchangeSettings(prefix=both.prefix, window_bytes=WINDOW, piece_bytes=SMALL)
        caller, server = await both.join(settings), await both.join(settings)
        caller.bus.fate, server.bus.fate = fates
        bodies: list[bytes] = []

        async def work(received: bytes, reply: ReplySink) -> bytes:
            bodies.append(received)
            for item in items:
                await reply.send(item)
            return final

        await server.exchanges.serve(both.subject, work)
        taken: list[bytes] = []
        error: AgentError | None = None
        result = b""
        try:
            async with caller.exchanges.stream(both.subject, body, silence_s=LONG_S) as stream:
                async for batch in stream:
                    taken += batch
                    assert caller.budget.held <= WINDOW + SMALL + 16 + max(map(len, [*items, final]))
                result = stream.result_text
        except AgentError as failure:
            error = failure
        assert bodies in ([], [body])
        assert taken == items[: len(taken)]
        if error is None:
            assert (taken, result, bodies) == (items, final, [body])
        else:
            assert isinstance(error, LinkLost)
        await asyncio.sleep(GIVEN_UP_S)
    return error


texts = st.binary(max_size=80)
fate = st.lists(st.sampled_from([1, 1, 1, 1, 1, 1, 0, 2]), max_size=40)


def along(fates: list[int]) -> Fate:
    """What becomes of each message in turn; those that follow arrive."""
    rest = iter(fates)
    return lambda frame: next(rest, 1)


@example(bytes(17), [], b"", [1, 0], [])  # the last piece of a request is lost: only a sign of life shows it
@given(st.binary(max_size=200), st.lists(texts, max_size=8), texts, fate, fate)
def test_whatever_is_lost_or_doubled_an_exchange_is_whole_or_an_error(
    body: bytes, items: list[bytes], final: bytes, there: list[int], back: list[int]
) -> None:
    virtual_time.run(exchange_with((along(there), along(back)), body, items, final))


@given(st.binary(max_size=2000), st.lists(st.binary(max_size=400), max_size=20), st.binary(max_size=2000))
def test_where_nothing_is_lost_all_of_it_arrives(body: bytes, items: list[bytes], final: bytes) -> None:
    every: tuple[Fate, Fate] = (lambda frame: 1, lambda frame: 1)
    assert virtual_time.run(exchange_with(every, body, items, final)) is None
