"""Quiet hours in a time zone, as operators write them for model sets and campaigns. Pure."""

from __future__ import annotations

import datetime as dt
import zoneinfo

from obt_agent.errors import ConfigError, InvalidParams
from obt_agent.quiet_hours import QuietHours


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
