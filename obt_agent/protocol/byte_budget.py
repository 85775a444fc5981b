"""How many bytes may wait in this process for a peer, whoever holds them. Pure."""

from __future__ import annotations

from typing import Final

from obt_agent.errors import Busy, TooLarge
from obt_agent.protocol import limits

RETRY_MS: Final = 1000
"""What is held is on its way to somebody: a second later some of it has gone."""


class ByteBudget:
    """Bytes that wait: requests under way, bodies for Ollama, whole answers. One for the process.

    Args:
        limit_bytes: the most that may be held at once.
    """

    def __init__(self, limit_bytes: int = limits.MAX_WAITING_BYTES) -> None:
        self._limit = limit_bytes
        self.held_bytes = 0

    def take(self, size: int) -> None:
        """Count ``size`` more bytes.

        Raises:
            TooLarge: they would not fit even alone.
            Busy: they do not fit now.
        """
        # Not Busy: it would be tried again for ever.
        if size > self._limit:
            raise TooLarge(f"{size} bytes are more than the {self._limit} that may wait here in all.")
        if self.held_bytes + size > self._limit:
            raise Busy(
                f"Other requests hold what may wait here ({self._limit} bytes in all).",
                retry_after_ms=RETRY_MS,
            )
        self.held_bytes += size

    def give_back(self, size: int) -> None:
        """Count ``size`` bytes less."""
        self.held_bytes -= size


class Reservation:
    """What one request holds of a budget; it grows, and is given back at once."""

    __slots__ = ("_budget", "_size")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._size = 0

    def grow(self, size: int) -> None:
        """Hold ``size`` more bytes. Raises as ``ByteBudget.take``."""
        self._budget.take(size)
        self._size += size

    def release(self) -> None:
        """Hold nothing any more."""
        self._budget.give_back(self._size)
        self._size = 0
