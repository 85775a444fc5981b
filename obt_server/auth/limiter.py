"""Slows down who guesses: failures by address and altogether, within a window. Pure; time is given."""

from __future__ import annotations

from collections import OrderedDict, deque


class FailureLimiter:
    """Counts failures by key.

    Args:
        most: failures of one key within ``window_s`` before it has to wait.
        most_together: failures of all keys before everybody has to.
        window_s: seconds that a failure counts.
        most_keys: keys remembered; the oldest are forgotten.
    """

    def __init__(
        self, most: int = 5, most_together: int = 50, window_s: float = 60.0, most_keys: int = 10_000
    ) -> None:
        self._most = most
        self._most_together = most_together
        self._window_s = window_s
        self._most_keys = most_keys
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._together: deque[float] = deque(maxlen=most_together)

    def wait_s(self, key: str, now: float) -> float:
        """Seconds until the key may try again; 0 when it may now."""
        return max(
            self._left(self._failures.get(key, deque()), self._most, now),
            self._left(self._together, self._most_together, now),
        )

    def _left(self, times: deque[float], most: int, now: float) -> float:
        while times and now - times[0] >= self._window_s:
            times.popleft()
        return 0.0 if len(times) < most else self._window_s - (now - times[0])

    def failed(self, key: str, now: float) -> None:
        """One more failure."""
        self._failures.setdefault(key, deque(maxlen=self._most)).append(now)
        self._failures.move_to_end(key)
        self._together.append(now)
        while len(self._failures) > self._most_keys:
            self._failures.popitem(last=False)

    def succeeded(self, key: str) -> None:
        """Forget the key's failures."""
        self._failures.pop(key, None)
