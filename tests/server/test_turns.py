"""Turns that are shared fairly, lines, and places for so many."""

import asyncio
from collections.abc import Awaitable, Callable

from obt_server.auth.turns import FairTurns, Lines, Places
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


async def test_a_line_lets_one_of_a_key_go_on_in_their_order() -> None:
    lines, goes_on, order = Lines(), asyncio.Event(), list[str]()

    def standing(key: str, name: str) -> Callable[[], Awaitable[None]]:
        async def stand() -> None:
            async with lines.line(key):
                order.append(name)
                await goes_on.wait()

        return stand

    tasks = await begun(1, standing("a", "first")) + await begun(1, standing("a", "second"))
    tasks += await begun(1, standing("b", "other"))
    assert order == ["first", "other"]
    goes_on.set()
    await asyncio.gather(*tasks)
    assert order == ["first", "other", "second"]
    await standing("a", "late")()


async def test_where_one_too_many_waits_the_lowest_lot_goes() -> None:
    lots = iter([5, 1, 3, 2, 9, 4, 0, 8, 7])
    places, go_on = Places(2, 4, draw=lambda: next(lots)), asyncio.Event()

    def waiting(key: str) -> Callable[[], Awaitable[None]]:
        async def wait() -> None:
            async with places.place(key):
                await go_on.wait()

        return wait

    async def gone() -> list[int]:
        for _ in range(3):  # of the loop, until who must go is gone
            await asyncio.sleep(0)
        return [number for number, one in enumerate(tasks) if one.done()]

    tasks = await begun(3, waiting("a"))
    assert await gone() == [1], "not the newest, nor the one that waits longest"
    tasks += await begun(1, waiting("a"))
    assert await gone() == [1, 3], "the newest has no more right than others"
    tasks += await begun(2, waiting("b"))
    assert await gone() == [1, 3]
    tasks += await begun(1, waiting("c"))
    assert await gone() == [1, 2, 3], "it came alone, and the lowest of those keys that most wait under goes"
    go_on.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in ends if one is not None] == [TimeoutError] * 3
    await waiting("a")()
    await waiting("c")()


async def test_who_must_go_in_the_moment_of_its_turn_loses_it_for_nobody() -> None:
    lots, turns, had = iter([1, 2, 3]), FairTurns(), list[int]()
    places = Places(1, 9, draw=lambda: next(lots))

    async def take(number: int) -> None:
        async with places.place("a"), turns.turn("a"):
            had.append(number)

    async with turns.turn("a"):
        first = asyncio.create_task(take(1))
        await asyncio.sleep(0)
        second = asyncio.create_task(take(2))  # now the first must go, and it is given the turn before it can
        await asyncio.sleep(0)
    ends = await asyncio.gather(first, second, return_exceptions=True)
    assert (type(ends[0]), ends[1], had) == (TimeoutError, None, [2])
    await take(3)
