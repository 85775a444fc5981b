"""Bounds on what a peer may cost: bad frames and frames outside credit. Pure; time is given."""

from __future__ import annotations

from collections import deque

from obt_agent.protocol import limits


class BadFrames:
    """Counts frames that are no messages within the last minute."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def another(self, now: float) -> bool:
        """Count one more; True when that makes ten in a minute."""
        self._times.append(now)
        while self._times and now - self._times[0] > 60.0:  # noqa: PLR2004 -- the minute of the rule
            self._times.popleft()
        return len(self._times) >= limits.BAD_FRAMES_PER_MINUTE


class TokenBucket:
    """``rate`` a second sustained, ``burst`` at once."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at = now

    def take(self, now: float) -> bool:
        """Whether one more is within bounds."""
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True
