"""Bounds on how often something may happen. Pure; time is passed in, in monotonic seconds."""

from __future__ import annotations

from obt_agent.protocol import limits


class TokenBucket:
    """Lets ``per_second`` through on average, and ``burst`` at once.

    Args:
        per_second: tokens that come back.
        burst: what the bucket holds; it starts full.
        now: monotonic seconds.
    """

    __slots__ = ("_at", "_burst", "_per_second", "_tokens")

    def __init__(self, per_second: float, burst: float, now: float) -> None:
        self._per_second = per_second
        self._burst = burst
        # Tokens at the moment ``_at``; what came back since is added when one is taken.
        self._tokens = burst
        self._at = now

    def take(self, now: float) -> float:
        """Let one through (0.0), or return the seconds until the next one may come."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._per_second


class BadFrames:
    """Counts frames that are no messages within the last ``within_s`` seconds."""

    __slots__ = ("_times", "_within_s")

    def __init__(self, within_s: float = 60.0) -> None:
        self._within_s = within_s
        # Ten at most: a list, for an empty deque takes a kilobyte in each of a thousand sessions.
        self._times: list[float] = []

    def __len__(self) -> int:
        return len(self._times)

    def another(self, now: float) -> bool:
        """Count one more; return whether that makes ten."""
        self._times.append(now)
        while now - self._times[0] > self._within_s:
            del self._times[0]
        return len(self._times) >= limits.BAD_FRAMES_PER_MINUTE
