"""One budget of bytes for all that waits in this process: frames to agents, and their answers."""

from __future__ import annotations

from typing import Final

from obt_agent.errors import Busy

RETRY_AFTER_MS: Final = 1000
"""For who is refused: answers that wait are taken, or dropped, within seconds."""


class WaitingBudget:
    """Counts what waits in memory, whoever made it wait.

    What is queued already is never thrown away to make room: a new request is refused, and an answer that
    grows beyond the budget fails.

    Args:
        most: bytes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0

    def change(self, size: int) -> None:
        """Count ``size`` bytes more; less when it is negative."""
        self.held += size

    def check(self) -> None:
        """Raise Busy where nothing more may be made to wait."""
        if self.held >= self._most:
            raise Busy(
                f"{self.held} bytes wait in this server for agents and for those who asked; try again.",
                retry_after_ms=RETRY_AFTER_MS,
            )
