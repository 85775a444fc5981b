"""Turns of agents that send without end: one of them works in each pass of the event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final

from obt_agent.protocol.rates import TokenBucket

TURN_S: Final = 0.001
"""For one agent's frames, before the others' turn: one that sends without end must not keep the loop."""
BUSY_SHARE: Final = 0.05
"""Of the loop's time: an agent whose frames take more has its turns one by one with others of its kind."""
BUSY_BURST: Final = 50
"""Turns that an agent may take beyond its share after a quiet time."""


class Turns:
    """Lets those who wait go on one after the other, each in a pass of the event loop of its own.

    What many hostile agents cost everybody else is then the work of one turn in each pass, however many they
    are.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Return when it is the caller's turn."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        # The first one starts the row; it goes on by itself until nobody waits.
        if len(self._waiting) == 1:
            loop.call_soon(self._next)
        await turn

    def _next(self) -> None:
        turn = self._waiting[0]
        # Who was cancelled meanwhile leaves the place to the next pass.
        if not turn.done():
            turn.set_result(None)
        self._waiting.popleft()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)


class Turn:
    """The time that one agent's frames take. Used as a context, it counts what runs inside.

    Args:
        turns: of the agents that take more than their share.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        # Not the loop's time: uvloop reads the clock once a pass, and all frames that lie here are of one.
        self._share = TokenBucket(BUSY_SHARE / TURN_S, BUSY_BURST, time.perf_counter())
        self._began = 0.0
        self._spent_s = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._spent_s += time.perf_counter() - self._began

    @property
    def over(self) -> bool:
        """Whether others should have their turn now."""
        return self._spent_s > TURN_S

    async def next(self) -> None:
        """Let others have theirs."""
        self._spent_s = 0.0
        if self._share.take(time.perf_counter()) > 0:
            await self._turns.wait()
        else:
            await asyncio.sleep(0)
