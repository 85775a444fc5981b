"""Turns at what takes one at a time, shared fairly: of many that wait under one key, others wait for one."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Hashable


class FairTurns:
    """Lets one in at a time; keys take turns, and those of one key come in their order."""

    def __init__(self) -> None:
        # whether somebody has the turn
        self._taken = False
        # who waits, by key; the key whose turn is next stands first
        self._waiting: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()

    @contextlib.asynccontextmanager
    async def turn(self, key: Hashable) -> AsyncIterator[None]:
        """Wait for the key's turn and have it."""
        if self._taken:
            await self._wait(key)
        self._taken = True
        try:
            yield
        finally:
            self._give_on()

    async def _wait(self, key: Hashable) -> None:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            # The turn may have come in the same moment: then the next one has it.
            if mine.done() and not mine.cancelled():
                self._give_on()
            raise

    def _give_on(self) -> None:
        while self._waiting:
            key, waiting = self._waiting.popitem(last=False)
            one = waiting.popleft()
            if waiting:
                self._waiting[key] = waiting
            # Who was cancelled waits no more.
            if not one.done():
                one.set_result(None)
                return
        self._taken = False


class Lines:
    """Lines of those who wait for one thing each, by key: one of a key goes on at a time, and few wait.

    Args:
        most: of one key, with the one that goes on.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # by key: those in its line, and what lets one of them go on
        self._lines: dict[Hashable, tuple[int, asyncio.Lock]] = {}

    def full(self, key: Hashable) -> bool:
        """Whether nobody more may join the key's line."""
        return key in self._lines and self._lines[key][0] >= self._most

    @contextlib.asynccontextmanager
    async def line(self, key: Hashable) -> AsyncIterator[None]:
        """Wait in the key's line, and go on alone."""
        count, lock = self._lines.get(key, (0, asyncio.Lock()))
        self._lines[key] = count + 1, lock
        try:
            async with lock:
                yield
        finally:
            count, _ = self._lines.pop(key)
            if count > 1:
                self._lines[key] = count - 1, lock
