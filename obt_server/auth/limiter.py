"""Slows down who guesses: a delay that grows with each failure of the same key. Pure; time is given."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, Literal

FREE_FAILURES: Final = 5
"""Of one key, before it waits: people mistype."""
MAX_DELAY_S: Final = 900.0
"""About 100 guesses a day."""
FORGOTTEN_AFTER_S: Final = 3600.0
"""Since the last failure of a key; longer than any delay."""
Outcome = Literal["failed", "succeeded"]
MAX_KEYS: Final = 10_000
"""Remembered: the oldest go. Nobody else waits for what they tried."""


@dataclass
class _Failures:
    count: int
    last: float


class FailureLimiter:
    """Counts failures by key, each by itself: nobody can make another wait.

    Args:
        free: failures of a key before it waits; each further one doubles the delay, from 1 s.
    """

    def __init__(self, free: int = FREE_FAILURES) -> None:
        self._free = free
        # the key that failed last stands last
        self._failures: OrderedDict[bytes, _Failures] = OrderedDict()
        self.tell: Callable[[bytes, Outcome], None] | None = None
        """Called with the digest of each key that failed or succeeded here: others may count it."""

    def wait_s(self, key: Hashable, now: float) -> float:
        """Return the seconds until the key may try again; 0 when it may now."""
        found = self._failures.get(_digest(key))
        return 0.0 if found is None else max(0.0, found.last + self._delay_s(found.count) - now)

    def _delay_s(self, count: int) -> float:
        over = count - self._free
        return 0.0 if over < 0 else min(MAX_DELAY_S, 2.0 ** min(over, 10))

    def slowed(self, key: Hashable) -> bytes | None:
        """Return the digest of a key whose tries are delayed by now; None of one that is free to try."""
        found = self._failures.get(digest := _digest(key))
        return digest if found is not None and found.count >= self._free else None

    def failed(self, key: Hashable, now: float) -> float:
        """Count one more failure; return the delay that it costs."""
        digest = _digest(key)
        if self.tell is not None:
            self.tell(digest, "failed")
        return self.count(digest, now)

    def count(self, key: bytes, now: float) -> float:
        """Count one more failure of a key by its digest, wherever it happened; return the delay."""
        found = self._failures.get(key)
        count = 0 if found is None or now - found.last > FORGOTTEN_AFTER_S else found.count
        self._failures[key] = _Failures(count + 1, now)
        # Last in the order: whoever failed least recently is forgotten first.
        self._failures.move_to_end(key)
        # An attacker with many addresses pushes out others' failures, which frees those and costs nobody a
        # wait.
        while len(self._failures) > MAX_KEYS:
            self._failures.popitem(last=False)
        return self._delay_s(count + 1)

    def succeeded(self, key: Hashable) -> None:
        """Forget the key's failures."""
        digest = _digest(key)
        if self.tell is not None:
            self.tell(digest, "succeeded")
        self.forget(digest)

    def forget(self, key: bytes) -> None:
        """Forget the failures of a key by its digest."""
        self._failures.pop(key, None)


def _digest(key: Hashable) -> bytes:
    """Return what stands for a key: people type their password where the name belongs."""
    return hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
