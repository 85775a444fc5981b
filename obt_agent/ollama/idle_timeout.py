"""A limit on each of many short waits, for the price of one timer.

A stream waits fifty times a second. A timer made and cancelled for each wait costs a tenth of a token's whole
way through the agent; here one is left running, and looks when it goes off whether anybody waited so long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class IdleTimeout:
    """The limit on a wait. One wait at a time.

    Args:
        limit_s: how long a wait may last, in seconds.
        over: called when one has lasted that long; the wait is then forgotten.
    """

    __slots__ = ("_limit_s", "_loop", "_over", "_timer", "_until")

    def __init__(self, limit_s: float, over: Callable[[], None]) -> None:
        self._limit_s = limit_s
        self._over = over
        self._loop = asyncio.get_running_loop()
        self._until: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begins(self) -> None:
        """A wait begins."""
        self._until = self._loop.time() + self._limit_s
        if self._timer is None or self._timer.when() > self._until:
            self._set(self._until)

    def ends(self) -> None:
        """It is over in time."""
        self._until = None

    def extend(self, seconds: float) -> None:
        """The present wait may last longer; nothing between two waits."""
        if self._until is not None:
            self._until += seconds

    def close(self) -> None:
        """There are no more waits."""
        self._until = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._until is None:
            return
        if self._loop.time() < self._until:
            self._set(self._until)
            return
        self._until = None
        self._over()
