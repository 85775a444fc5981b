"""Turns at what takes one at a time, shared fairly: of many that wait under one key, others wait for one."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Hashable
from typing import Final

_RANDOM: Final = random.SystemRandom()


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
    """Lines of those who wait for one thing each, by key: one of a key goes on at a time, in their order."""

    def __init__(self) -> None:
        # by key: those in its line, and what lets one of them go on
        self._lines: dict[Hashable, tuple[int, asyncio.Lock]] = {}

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


class Places:
    """Places to wait in, so many of a key and so many in all; each who comes draws a lot.

    Where one too many waits, the one with the lowest lot goes: of that key, or of those keys that most wait
    under. Whoever comes at the right moment or waits longest has no better chance than any other, and those
    with high lots stay however many come.

    Args:
        of_key: how many may wait under one key.
        in_all: how many may wait.
        draw: a lot.
    """

    def __init__(self, of_key: int, in_all: int, draw: Callable[[], float] = _RANDOM.random) -> None:
        self._of_key = of_key
        self._in_all = in_all
        self._draw = draw
        # who waits, by key, each with its lot; what it waits in ends at once when it must go
        self._waiting: dict[Hashable, dict[asyncio.Timeout, float]] = {}

    @contextlib.asynccontextmanager
    async def place(self, key: Hashable) -> AsyncIterator[None]:
        """Have a place while waiting inside.

        Raises:
            TimeoutError: it must go, as others drew better lots.
        """
        async with asyncio.timeout(None) as mine:
            self._waiting.setdefault(key, {})[mine] = self._draw()
            try:
                self._make_room(key, mine)
                yield
            finally:
                self._leave(key, mine)

    def _make_room(self, key: Hashable, mine: asyncio.Timeout) -> None:
        if len(self._waiting[key]) > self._of_key:
            keys: list[Hashable] = [key]
        elif sum(map(len, self._waiting.values())) > self._in_all:
            most = max(map(len, self._waiting.values()))
            keys = [one for one, waiting in self._waiting.items() if len(waiting) == most]
        else:
            return
        _, lowest, place = min(
            ((lot, one, place) for one in keys for place, lot in self._waiting[one].items()),
            key=lambda found: found[0],
        )
        if place is mine:
            raise TimeoutError("It drew the lowest lot.")
        self._leave(lowest, place)
        place.reschedule(asyncio.get_running_loop().time())

    def _leave(self, key: Hashable, place: asyncio.Timeout) -> None:
        waiting = self._waiting.get(key, {})
        waiting.pop(place, None)
        if not waiting:
            self._waiting.pop(key, None)
