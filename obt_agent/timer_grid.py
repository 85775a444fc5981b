"""Periodic work on one grid of times: what is due every second, 2 s or 5 s wakes the process together."""

from __future__ import annotations

import random
import time
from typing import Final

_PHASE_S: Final = random.random()  # noqa: S311 - many agents on one machine should not all wake at once
_LEAST: Final = 0.1


def until_tick(interval_s: float) -> float:
    """Return the seconds until the next multiple of the interval; one that is all but there is left out."""
    left_s = interval_s - (time.monotonic() + _PHASE_S) % interval_s
    # A timer may go off a little early, or late: the same tick must not come twice.
    return left_s if left_s > interval_s * _LEAST else left_s + interval_s
