"""A limit on each of many short waits, for the price of one timer.

A stream waits fifty times a second. A timer made and cancelled for each wait costs a tenth of a token's
whole way through the agent; here one is left running, and when it goes off it checks whether anybody waited
so long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class IdleTimeout:
    """The limit on a wait. One wait at a time.

    Args:
        limit_s: how long a wait may last, in seconds.
        on_expiry: called when one has lasted that long; the wait is then forgotten.
    """

    __slots__ = ("_deadline", "_limit_s", "_loop", "_on_expiry", "_timer")

    def __init__(self, limit_s: float, on_expiry: Callable[[], None]) -> None:
        self._limit_s = limit_s
        self._on_expiry = on_expiry
        self._loop = asyncio.get_running_loop()
        # Of the present wait, on the loop's clock; None between two.
        self._deadline: float | None = None
        # Goes off at the deadline or before, never after; it outlives the wait that it was set for.
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin a wait."""
        self._deadline = self._loop.time() + self._limit_s
        # After a wait that was extended the timer may be set later than this wait's deadline.
        if self._timer is None or self._timer.when() > self._deadline:
            self._set(self._deadline)

    def stop(self) -> None:
        """End the wait, in time."""
        self._deadline = None

    def extend(self, seconds: float) -> None:
        """Let the present wait last longer; do nothing between two waits."""
        if self._deadline is not None:
            self._deadline += seconds

    def close(self) -> None:
        """Let go of the timer: there are no more waits."""
        self._deadline = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._check)

    def _check(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        if self._loop.time() < self._deadline:
            self._set(self._deadline)
            return
        self._deadline = None
        self._on_expiry()
