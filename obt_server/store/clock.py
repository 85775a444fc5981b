"""Whether this machine's clock is the database's: what the two say is compared with each beat."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

log = structlog.get_logger(__name__)

TOLERATED_S: Final = 5.0
"""By which they may differ: tokens, sign-ins and schedules go by whichever server process looks."""
REPEATED_S: Final = 3600.0
"""Between two lines of the log about a difference that stays."""


class ClockWatch:
    """Says in the log when the two differ, and when they do not any more.

    Args:
        clock: this machine's, in seconds since 1970.
        monotonic: one that nobody sets, in seconds.
    """

    def __init__(
        self, clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.now = clock
        self._monotonic = monotonic
        # when it was said last; None while they agree
        self._said_at: float | None = None

    def compare(self, database: float, asked_at: float) -> None:
        """Compare a time of the database, for which it was asked at that time of this clock."""
        answered_at, now = self.now(), self._monotonic()
        # It is of some moment in between: what lies there is no difference, however long the answer took.
        ahead_s = asked_at - database if database < asked_at else min(0.0, answered_at - database)
        if abs(ahead_s) <= TOLERATED_S:
            if self._said_at is not None:
                log.info("clock.agrees")
            self._said_at = None
        elif self._said_at is None or now - self._said_at >= REPEATED_S:
            self._said_at = now
            log.warning("clock.differs", ahead_of_database_s=round(ahead_s, 1))
