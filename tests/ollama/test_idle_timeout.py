"""One timer for many waits must be as strict with each of them as a timer of its own."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from obt_agent.ollama.idle_timeout import IdleTimeout


class Timers:
    """Counts the timers that the event loop is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = 0
        loop = asyncio.get_running_loop()
        made: Callable[..., asyncio.TimerHandle] = loop.call_at

        def call_at(*arguments: Any, **named: Any) -> asyncio.TimerHandle:
            self.made += 1
            return made(*arguments, **named)

        monkeypatch.setattr(loop, "call_at", call_at)


async def test_a_wait_that_is_too_long_is_reported_once() -> None:
    waits: list[float] = []
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    began = loop.time()

    def note() -> None:
        waits.append(loop.time() - began)
        over.set()

    timeout = IdleTimeout(0.02, note)
    timeout.start()
    async with asyncio.timeout(20):
        await over.wait()
    assert len(waits) == 1
    assert waits[0] >= 0.02


async def test_a_thousand_waits_that_end_in_time_share_a_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = Timers(monkeypatch)
    timeout = IdleTimeout(60, lambda: pytest.fail("no wait was too long"))
    for _ in range(1000):
        timeout.start()
        timeout.stop()
    timeout.close()
    assert timers.made == 1


async def test_a_wait_is_measured_from_its_own_beginning_and_not_from_that_of_the_timer() -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    timeout = IdleTimeout(0.05, over.set)
    timeout.start()
    timeout.stop()
    resumed = asyncio.Event()
    loop.call_later(0.03, resumed.set)
    await resumed.wait()
    began = loop.time()
    timeout.start()
    async with asyncio.timeout(20):
        await over.wait()
    assert loop.time() - began >= 0.05


async def test_a_wait_after_one_that_was_extended_is_no_longer_than_any_other() -> None:
    over = asyncio.Event()
    timeout = IdleTimeout(0.02, over.set)
    timeout.start()
    timeout.extend(1000)
    looked = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, looked.set)
    await looked.wait()
    assert not over.is_set()
    timeout.stop()
    timeout.extend(1000)  # between two waits there is nothing to extend
    timeout.start()
    async with asyncio.timeout(20):
        await over.wait()


async def test_nothing_is_left_of_one_that_was_closed() -> None:
    class Owner:
        def over(self) -> None:
            pytest.fail("nobody waits any more")

    owner = Owner()
    timeout = IdleTimeout(1000, owner.over)
    timeout.start()
    timeout.close()
    known = weakref.ref(owner)
    del owner, timeout
    await asyncio.sleep(0)
    gc.collect()
    assert known() is None
