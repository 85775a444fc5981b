"""Requests a minute, as a bucket of tokens. Pure but for the clock that is passed in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

BURST_S: Final = 10.0
"""The bucket holds what this many seconds earn, and never less than one request."""


class RateLimiter:
    """Lets ``per_minute`` requests through on average, in bursts of what 10 s earn.

    Args:
        per_minute: requests a minute; None lets everything through.
        clock: monotonic seconds.
    """

    def __init__(self, per_minute: int | None, clock: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self._per_second = None if per_minute is None else per_minute / 60
        self._most = 0.0 if self._per_second is None else max(1.0, self._per_second * BURST_S)
        self._clock = clock
        self._tokens = self._most
        self._at = clock()

    def take(self) -> float:
        """Let one request through (0.0), or give the seconds until the next one may come."""
        if self._per_second is None:
            return 0.0
        now = self._clock()
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._per_second
