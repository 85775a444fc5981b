"""When a schedule is due: cron expressions in a time zone, and how machines spread after it. Pure.

cronsim reads the expressions as Debian's cron does, also across daylight-saving changes: a job at a fixed
time that the clock skips runs right after the gap, and one at a time that comes twice runs once; a job of
every hour or minute follows elapsed time.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from cronsim import CronSim, CronSimError

from obt_agent.errors import InvalidParams
from obt_server.machine_jobs.local_times import zone

SHOWN: Final = 5
"""Next times of a schedule that are shown."""
MOST_MISSED: Final = 100
"""Times that are told one by one after the server was away."""
_FIELDS: Final = 5


class DueTimes:
    """The times of a cron expression of five fields in a time zone, as Unix seconds.

    Args:
        cron: the expression.
        time_zone: a name of the IANA's list, such as ``Europe/Berlin``.

    Raises:
        InvalidParams: there is no such expression or zone.
    """

    def __init__(self, cron: str, time_zone: str) -> None:
        # A sixth field would be seconds: a campaign takes minutes at least.
        if len(cron.split()) != _FIELDS:
            raise InvalidParams(
                f"cron: {cron[:64]!r} is not of five fields: minute, hour, day, month, weekday.", field="cron"
            )
        self._cron = cron
        self._zone = zone(time_zone)
        try:
            CronSim(cron, dt.datetime.now(self._zone))
        except CronSimError as error:
            raise InvalidParams(f"cron: {cron[:64]!r} cannot be read: {error}.", field="cron") from error

    def after(self, moment: float) -> Iterator[float]:
        """The times after a moment; it ends where the next is more than fifty years away."""
        times = CronSim(self._cron, dt.datetime.fromtimestamp(moment, self._zone))
        # Twice-told hours and moved times may meet: each moment is due once.
        last = moment
        for time in times:
            due = time.timestamp()
            if due > last:
                last = due
                yield due

    def next(self, moment: float, count: int = SHOWN) -> list[float]:
        """The first times after a moment."""
        return list(itertools.islice(self.after(moment), count))

    def between(self, after: float, until: float) -> list[float]:
        """The times after one moment up to another; the last of them where there are over ``MOST_MISSED``."""
        first = self.next(after, MOST_MISSED + 1)
        if len(first) > MOST_MISSED and first[-1] < until:
            # A server that was away for a year has half a million minutes behind it: what came long before is
            # passed over without being looked at.
            after = max(after, until - (first[-1] - first[0]))
        return list(itertools.takewhile(lambda time: time <= until, self.after(after)))[-MOST_MISSED:]


class Decision(NamedTuple):
    """What becomes of the times that came: at most one of them begins; why the others do not."""

    start: float | None
    late: bool
    skipped: list[tuple[float, str]]


def decide(due: Sequence[float], now: float, late_s: float, *, on_time_s: float) -> Decision:
    """Return what becomes of times that are due, oldest first.

    The newest begins if it is no more than ``late_s`` ago, and is late after ``on_time_s``. The others are
    skipped: a campaign that begins for each of them would measure the same several times in a row.
    """
    if not due:
        return Decision(None, late=False, skipped=[])
    newest, ago = due[-1], now - due[-1]
    skipped = [
        (time, "the server or its database was away, and a later time was due afterwards")
        if now - time <= late_s
        else (time, f"the server or its database was away for longer than late_s ({late_s:g} s)")
        for time in due[:-1]
    ]
    if ago > max(late_s, on_time_s):
        away = (newest, f"the server or its database was away for longer than late_s ({late_s:g} s)")
        return Decision(None, late=False, skipped=[*skipped, away])
    return Decision(newest, late=ago > on_time_s, skipped=skipped)


def delay_s(name: str, agent_id: str, jitter_s: float) -> float:
    """Return how long after a schedule's time a machine begins, from 0 to ``jitter_s``.

    It is the same each night: nights of one machine stay a day apart, and machines spread evenly.
    """
    if jitter_s <= 0:
        return 0.0
    hashed = hashlib.sha256(f"{name}\0{agent_id}".encode()).digest()
    return jitter_s * int.from_bytes(hashed[:8], "big") / (1 << 64)
