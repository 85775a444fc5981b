"""One daemon thread, one call at a time, and a deadline after which nobody waits for it any more.

A driver call can hang for ever, and no thread can be stopped from outside. So each vendor's library has a
thread of its own; while a call is out, no second one is made; and the thread is a daemon, because a process
with a hung ordinary thread (asyncio.to_thread's too) does not exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from obt_agent.errors import HardwareError

T = TypeVar("T")


class Stalled(HardwareError):
    """A call did not come back within its deadline, or an earlier one is still out."""


@dataclass(slots=True)
class _Call:
    function: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]


class DaemonWorker:
    """Runs functions in its own daemon thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._out = threading.Event()
        self._turn = asyncio.Lock()
        self._closed = False
        self.cpu_ns = 0
        """Processor time that the calls took so far."""

    @property
    def busy(self) -> bool:
        """Whether a call is out; one that nobody waits for any more has stalled."""
        return self._out.is_set()

    async def call(self, function: Callable[[], T], *, deadline_s: float) -> T:
        """Run it in the thread, after the calls that are waited for.

        Raises:
            Stalled: an abandoned call is still out, or this one takes longer than ``deadline_s``
                (and stays out), or the worker is closed.
            Exception: what the function raised.
        """
        try:
            async with asyncio.timeout(deadline_s), self._turn:
                return await self._send(function)
        except TimeoutError:
            raise Stalled(f"the {self._name} thread did not come back within {deadline_s:g} s") from None

    def close(self) -> None:
        """Let the thread end after the call that is out, if any. Does not wait."""
        self._closed = True
        self._calls.put(None)

    def _send(self, function: Callable[[], T]) -> asyncio.Future[T]:
        if self._closed or self.busy:
            raise Stalled(f"the {self._name} thread has not come back from an earlier call")
        self._out.set()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._start()
        self._calls.put(_Call(function, loop, answer))
        return answer

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"hardware-{self._name}", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            started = time.thread_time_ns()
            outcome, error = None, None
            try:
                outcome = call.function()
            except Exception as raised:  # noqa: BLE001 -- it is raised again where the call was made
                error = raised
            self.cpu_ns += time.thread_time_ns() - started
            self._out.clear()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                call.loop.call_soon_threadsafe(_answer, call.answer, outcome, error)


def _answer(answer: asyncio.Future[Any], outcome: object, error: Exception | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(outcome)
    else:
        answer.set_exception(error)
