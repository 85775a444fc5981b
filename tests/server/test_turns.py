"""Turns that are shared fairly, and lines that have an end."""

import asyncio
from collections.abc import Awaitable, Callable

from obt_server.auth.turns import FairTurns, Lines
from tests.waiting import until


async def begun(count: int, waits: Callable[[], Awaitable[object]]) -> list[asyncio.Task[object]]:
    """Tasks that have come as far as they come by themselves."""
    tasks = [asyncio.ensure_future(waits()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_keys_take_turns_however_many_wait_under_one() -> None:
    turns, order = FairTurns(), list[str]()

    def taking(key: str) -> Callable[[], Awaitable[None]]:
        async def take() -> None:
            async with turns.turn(key):
                order.append(key)

        return take

    async with turns.turn("a"):
        tasks = await begun(4, taking("a")) + await begun(2, taking("b")) + await begun(1, taking("c"))
    await asyncio.gather(*tasks)
    assert order == ["a", "b", "c", "a", "b", "a", "a"]


async def test_one_has_the_turn_at_a_time_and_who_is_cancelled_loses_it_for_nobody() -> None:
    turns, inside, most = FairTurns(), 0, 0

    async def take() -> None:
        nonlocal inside, most
        async with turns.turn("a"):
            inside += 1
            most = max(most, inside)
            try:
                await asyncio.sleep(0)
            finally:
                inside -= 1

    async with turns.turn("a"):
        tasks = await begun(9, take)
        tasks[3].cancel()  # waits
    tasks[0].cancel()  # has been given the turn in this moment
    await until(lambda: all(one.done() for one in tasks))
    assert ([one.cancelled() for one in tasks].count(True), most) == (2, 1)
    await take()


async def test_a_line_lets_one_of_a_key_go_on_and_ends_at_its_length() -> None:
    lines, goes_on, order = Lines(2), asyncio.Event(), list[str]()

    async def stand() -> None:
        async with lines.line("a"):
            order.append("a")
            await goes_on.wait()

    tasks = await begun(2, stand)
    assert (order, lines.full("a"), lines.full("b")) == (["a"], True, False)
    async with lines.line("b"):
        assert not lines.full("b")
    goes_on.set()
    await asyncio.gather(*tasks)
    assert (order, lines.full("a")) == (["a", "a"], False)
