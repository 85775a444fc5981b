"""One thread, one call at a time, and a deadline."""

from __future__ import annotations

import threading

import pytest

from obt_agent.hardware.worker import DaemonWorker, Stalled


async def test_no_second_call_is_made_while_one_is_out() -> None:
    gate, back = threading.Event(), threading.Event()

    def hangs() -> None:
        gate.wait()
        back.set()

    worker = DaemonWorker("test")
    with pytest.raises(Stalled, match="did not come back"):
        await worker.call(hangs, deadline_s=0.05)
    called: list[int] = []
    with pytest.raises(Stalled, match="earlier call"):
        await worker.call(lambda: called.append(1), deadline_s=5)
    assert called == []
    gate.set()
    assert back.wait(20)
    worker.close()


async def test_what_a_call_returns_or_raises_comes_back() -> None:
    worker = DaemonWorker("test")
    assert not worker.busy
    assert await worker.call(lambda: 7, deadline_s=20) == 7
    with pytest.raises(ZeroDivisionError):
        await worker.call(lambda: 1 // 0, deadline_s=20)
    assert worker.cpu_ns > 0
    worker.close()
    with pytest.raises(Stalled):
        await worker.call(lambda: 7, deadline_s=5)
