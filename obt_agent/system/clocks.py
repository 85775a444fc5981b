"""Time since the machine started, with the time that it slept.

Without that time it is ``time.monotonic`` on every system.
"""

from __future__ import annotations

import sys
import time


def uptime_s() -> float:
    """Return seconds by a clock that nobody sets, sleep included where the system counts it.

    Its start means nothing; two processes of one boot read the same clock.
    """
    clock = _with_sleep()
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def slept_s() -> float:
    """Return how long the machine has slept since it started; 0 where the system does not tell."""
    return uptime_s() - time.monotonic() if _with_sleep() is not None else 0.0


def _with_sleep() -> int | None:
    # macOS counts sleep in the clock that Linux stops meanwhile; Python's own monotonic clock stops on both.
    if sys.platform == "darwin":
        return time.CLOCK_MONOTONIC
    found: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return found
