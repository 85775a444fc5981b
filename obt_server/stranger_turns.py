"""Turns of senders that have shown no credential: one of them is read in each pass of the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol


class TakesTurns(Protocol):
    """A connection whose data waits."""

    def take_turn(self) -> None:
        """Read what waits."""


class StrangerTurns:
    """Has what strangers sent read one after the other.

    A thousand requests without a credential may come at once. Read in one pass of the loop, they would keep
    everybody who has shown one waiting for as long as all of them take.
    """

    def __init__(self) -> None:
        self._waiting: deque[TakesTurns] = deque()

    def add(self, one: TakesTurns) -> None:
        """Have it take its turn, after those that wait."""
        self._waiting.append(one)
        # The first one starts the row; it goes on by itself until nobody waits.
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        one = self._waiting.popleft()
        # Before its turn, which may raise: the others must have theirs.
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)
        one.take_turn()
