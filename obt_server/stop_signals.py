"""Under a plain uvicorn: what agents are told before their sockets are closed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType

import uvicorn

SignalHandler = Callable[[int, FrameType | None], object]


@contextlib.contextmanager
def drained_before_stop(drain: Callable[[], Awaitable[None]]) -> Iterator[None]:
    """Run ``drain`` when a signal asks uvicorn to stop, and let it stop afterwards; at a second one at once.

    uvicorn closes every WebSocket (1012) before it ends the application's lifespan, so that a lifespan has
    nobody left to say anything to. Where another server runs, or in another thread than the main one, this
    does nothing; ``obt_server.serve`` drains by itself.
    """
    loop = asyncio.get_running_loop()
    handlers = _handlers_of_uvicorn()
    # the one that drains, once a signal came
    draining: list[asyncio.Task[None]] = []

    async def drain_then_stop(number: int) -> None:
        try:
            await drain()
        # Whatever the drain met, a server that was told to stop must stop.
        finally:
            handlers[number](number, None)

    def begin(number: int) -> None:
        if draining:
            handlers[number](number, None)
        else:
            draining.append(loop.create_task(drain_then_stop(number), name="drain before stop"))

    def received(number: int, _frame: FrameType | None) -> None:
        # A handler runs between any two instructions: the work is the loop's, between two callbacks.
        loop.call_soon_threadsafe(begin, number)

    for number in handlers:
        signal.signal(number, received)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            # Somebody else may have set another one meanwhile, which is not this one's to take away.
            if signal.getsignal(number) is received:
                signal.signal(number, handler)


def _handlers_of_uvicorn() -> dict[int, SignalHandler]:
    # Only there can handlers be set.
    if threading.current_thread() is not threading.main_thread():
        return {}
    found: dict[int, SignalHandler] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        # Nobody else's: a program that handles its signals itself knows why.
        if callable(handler) and isinstance(getattr(handler, "__self__", None), uvicorn.Server):
            found[number] = handler
    return found
