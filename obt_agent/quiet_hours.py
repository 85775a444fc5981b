"""Quiet hours: local times of day in which nothing begins by itself. Pure."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from typing import Final

from obt_agent.errors import ConfigError

_MINUTES_A_DAY: Final = 24 * 60
_RANGE: Final = re.compile(r"(\d{1,2}):([0-5]\d)\s*[-–]\s*(\d{1,2}):([0-5]\d)")


class QuietHours:
    """Ranges such as ``"22:00-07:00"``; one whose end is not after its start goes over midnight.

    Args:
        ranges: the ranges.
        where: what a message calls them.

    Raises:
        ConfigError: a range cannot be read.
    """

    def __init__(self, ranges: Iterable[str], where: str = "policy.quiet_hours") -> None:
        self._ranges = [_parsed(text, where) for text in ranges]

    def wait_s(self, now: dt.datetime) -> float:
        """Seconds until something may begin; 0.0 when it may now. Quiet all day gives a day or more."""
        waited = dt.timedelta(0)
        for _ in range(len(self._ranges) + 1):
            then = now + waited
            rest = max((_rest(start, end, then) for start, end in self._ranges), default=dt.timedelta(0))
            if not rest or waited >= dt.timedelta(days=1):
                break
            waited += rest
        return waited.total_seconds()


def _parsed(text: str, where: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{where}: {text!r} is no range of times; write '22:00-07:00'.")
    h1, m1, h2, m2 = (int(part) for part in match.groups())
    start, end = h1 * 60 + m1, h2 * 60 + m2
    if start >= _MINUTES_A_DAY or end > _MINUTES_A_DAY:
        raise ConfigError(f"{where}: {text!r} names a time that no clock shows.")
    return start, end


def _rest(start: int, end: int, now: dt.datetime) -> dt.timedelta:
    """What is left of a range at this moment; zero outside it."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    length = (end - start) % _MINUTES_A_DAY or _MINUTES_A_DAY
    for days in (-1, 0):
        begins = midnight + dt.timedelta(days=days, minutes=start)
        ends = begins + dt.timedelta(minutes=length)
        if begins <= now < ends:
            return ends - now
    return dt.timedelta(0)
