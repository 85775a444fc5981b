"""One thread, one call at a time, and a deadline."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from obt_agent.daemon_thread import DaemonThread, Stalled


async def test_an_answer_that_comes_in_the_same_turn_as_its_deadline_counts() -> None:
    thread, done = DaemonThread("test"), threading.Event()

    def work() -> int:
        done.set()
        return 7

    call = asyncio.create_task(thread.call(work, deadline_s=0.05))
    await asyncio.sleep(0)
    # The loop stands past the deadline, and the thread has answered meanwhile.
    assert done.wait(20)
    time.sleep(0.5)
    assert await call == 7
    thread.close()


async def test_no_second_call_is_made_while_one_is_out() -> None:
    gate, back = threading.Event(), threading.Event()

    def hangs() -> None:
        gate.wait()
        back.set()

    thread = DaemonThread("test")
    with pytest.raises(Stalled, match="did not come back"):
        await thread.call(hangs, deadline_s=0.05)
    called: list[int] = []
    with pytest.raises(Stalled, match="earlier call"):
        await thread.call(lambda: called.append(1), deadline_s=5)
    assert called == []
    gate.set()
    assert back.wait(20)
    thread.close()


async def test_what_a_call_returns_or_raises_comes_back() -> None:
    thread = DaemonThread("test")
    assert not thread.busy
    assert await thread.call(lambda: 7, deadline_s=20) == 7
    with pytest.raises(ZeroDivisionError):
        await thread.call(lambda: 1 // 0, deadline_s=20)
    assert thread.cpu_ns > 0
    thread.close()
    with pytest.raises(Stalled):
        await thread.call(lambda: 7, deadline_s=5)


async def test_a_call_without_a_deadline_runs_although_its_caller_was_cancelled() -> None:
    thread, gate, ran = DaemonThread("test"), threading.Event(), threading.Event()
    first = asyncio.create_task(thread.call(gate.wait))
    second = asyncio.create_task(thread.call(ran.set))
    await asyncio.sleep(0)
    second.cancel()
    gate.set()
    assert await first
    assert ran.wait(20)
    thread.close()


async def test_a_call_with_a_deadline_that_nobody_waits_for_is_left_out() -> None:
    thread, gate, called = DaemonThread("test"), threading.Event(), list[int]()
    first = asyncio.create_task(thread.call(gate.wait, deadline_s=60))
    second = asyncio.create_task(thread.call(lambda: called.append(1), deadline_s=60))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    gate.set()
    await first
    assert await thread.call(lambda: 7, deadline_s=60) == 7
    assert called == []
    thread.close()


async def test_a_thread_is_not_busy_any_more_when_its_answer_has_come() -> None:
    thread = DaemonThread("test")
    for _ in range(200):
        await thread.call(lambda: None, deadline_s=60)
        assert not thread.busy
    thread.close()


async def test_calls_are_made_again_after_the_overdue_one_came_back() -> None:
    thread, gate = DaemonThread("test"), threading.Event()
    overdue = asyncio.create_task(thread.call(gate.wait, deadline_s=0.01))
    behind = asyncio.create_task(thread.call(lambda: 8))
    with pytest.raises(Stalled):
        await overdue
    gate.set()
    assert await behind == 8
    assert await thread.call(lambda: 7, deadline_s=60) == 7
    thread.close()
