"""A thread for calls that block: one after the other, in the order in which they were made."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from obt_agent.errors import AgentError

T = TypeVar("T")


class Stalled(AgentError):
    """A call did not come back within its deadline, an earlier one is still out, or the thread was closed."""


@dataclass(slots=True)
class _Call:
    function: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]
    # Whether the call may be left out when nobody waits for it any more.
    droppable: bool
    returned: bool = False


class DaemonThread:
    """One daemon thread that runs functions.

    A call of a driver or to a disk can hang for ever, and no thread can be stopped from outside. A process
    with a hung ordinary thread (``asyncio.to_thread``'s too) does not exit; with a hung daemon thread it
    does.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        # Calls that the thread has not taken yet; None ends it.
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        # Started with the first call: a provider that is never read costs no thread.
        self._thread: threading.Thread | None = None
        # Guards what both the event loop and the thread write: the two below, and ``_Call.returned``.
        self._lock = threading.Lock()
        # Calls made and not come back.
        self._out = 0
        # Whether a call went past its deadline and has not come back: while it is out no other is made, for
        # it would only queue behind what hangs.
        self._overdue = False
        self._closed = False
        # Processor time in nanoseconds that the calls took so far.
        self.cpu_ns = 0

    @property
    def busy(self) -> bool:
        """Whether a call is out; one that nobody waits for any more has stalled."""
        return self._out > 0

    async def call(self, function: Callable[[], T], *, deadline_s: float | None = None) -> T:
        """Run a function in the thread and return what it returns, or raise what it raises.

        Without a deadline a call that was made runs even if its caller is cancelled: what is to be stored is
        stored.

        Raises:
            Stalled: the call takes longer than ``deadline_s`` (and stays out), an earlier one that did is
                still out, or the thread is closed.
        """
        if self._closed or self._overdue:
            raise Stalled(f"the {self._name} thread has not come back from an earlier call")
        loop = asyncio.get_running_loop()
        call = _Call(function, loop, loop.create_future(), droppable=deadline_s is not None)
        with self._lock:
            self._out += 1
        self._calls.put(call)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        try:
            async with asyncio.timeout(deadline_s):
                result: T = await call.answer
                return result
        except TimeoutError:
            # The function itself raised it, or the answer came in the same turn of a loop that was late.
            if call.answer.done() and not call.answer.cancelled():
                late: T = call.answer.result()
                return late
            with self._lock:
                self._overdue = not call.returned
            raise Stalled(f"the {self._name} thread did not come back within {deadline_s:g} s") from None

    def close(self) -> None:
        """End the thread after the calls already made. Does not wait."""
        self._closed = True
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            result, error = None, None
            if not (call.droppable and call.answer.cancelled()):
                started = time.thread_time_ns()
                try:
                    result = call.function()
                except BaseException as raised:  # noqa: BLE001 - it is raised again where the call was made
                    error = raised
                self.cpu_ns += time.thread_time_ns() - started
            # Before the answer is delivered: whoever has it must not find the thread busy with it.
            with self._lock:
                call.returned, self._overdue = True, False
                self._out -= 1
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                call.loop.call_soon_threadsafe(_answer, call.answer, result, error)


def _answer(answer: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if answer.done():  # nobody waits any more
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
