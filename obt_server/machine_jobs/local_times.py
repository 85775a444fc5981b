"""Quiet hours in a time zone, and the last moment of a start, as operators write them. Pure."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from typing import Final

from obt_agent.errors import ConfigError, InvalidParams
from obt_agent.quiet_hours import QuietHours

MAX_AHEAD_S: Final = 100 * 366 * 86400.0
"""How far ahead a last moment may lie: what is further is milliseconds, or a mistake."""


def check_end(moment: float | None, now: float, field: str) -> None:
    """Raise InvalidParams for a last moment (Unix seconds) that has passed, or that is none."""
    # Not the other way round: what is no number is neither later nor earlier.
    if moment is None or now < moment <= now + MAX_AHEAD_S:
        return
    why = "it has passed" if moment <= now else "no time of the next 100 years; Unix seconds are meant"
    raise InvalidParams(f"{field}: {why}.", field=field)


def check_times(quiet_hours: str | None, time_zone: str | None) -> None:
    """Raise InvalidParams for a range of times, or a time zone, that there is not."""
    try:
        QuietHours([] if quiet_hours is None else [quiet_hours], "quiet_hours")
    except ConfigError as error:
        raise InvalidParams(error.message, field="quiet_hours") from error
    zone(time_zone)


def quiet_s(quiet_hours: str, time_zone: str | None, now: dt.datetime) -> float:
    """Return the seconds until the quiet hours end; 0.0 outside them."""
    return QuietHours([quiet_hours], "quiet_hours").wait_s(now.astimezone(zone(time_zone)))


def zone(name: str | None) -> dt.tzinfo | None:
    """The zone of that name; None, which is the server's own, without one."""
    if name is None:
        return None
    try:
        return zoneinfo.ZoneInfo(name)
    # A name may also be a path, a directory, or too long for one.
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidParams(f"time_zone: there is no {name[:64]!r}.", field="time_zone") from error
