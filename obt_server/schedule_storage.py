"""What lasts of schedules: when campaigns begin, and what became of each time. Times are Unix seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Protocol

import msgspec

RunState = Literal["started", "late", "skipped"]

AHEAD_S: Final = 3600.0
"""How far ahead of a clock the end of what is done may lie: clocks of servers differ, and are set."""


def believed(done_until: float, at: float) -> float:
    """Return up to when times are done; ``at`` where a clock that was wrong has said much more.

    What is due again then is begun under the key that it had, and so is no second campaign.
    """
    return done_until if done_until <= at + AHEAD_S else at


class SchedulePause(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing begins, and who said so."""

    reason: str
    by: str
    at: float


class ScheduleRun(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one time at which a campaign was due.

    ``late``: it began after that, for the server was away. ``reason`` says why it was late or skipped.
    """

    due_at: float
    started_at: float | None = None
    state: RunState
    reason: str | None = None
    campaign_id: str | None = None


class StoredSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule. ``campaign`` is what it begins: the body of such a request.

    ``done_until``: nothing up to this time is due: what became of it is stored, or it was saved later.
    """

    name: str
    cron: str
    time_zone: str
    campaign: dict[str, object]
    jitter_s: float = 0.0
    late_s: float = 3600.0
    paused: SchedulePause | None = None
    done_until: float
    created_by: str
    updated_at: float


class ScheduleStorage(Protocol):
    """What schedules need of storage. Durable when a call returns."""

    async def schedules(self) -> Sequence[StoredSchedule]:
        """All schedules, by name."""

    async def schedule(self, name: str) -> StoredSchedule:
        """One schedule. Raises NotStored."""

    async def save_schedule(self, schedule: StoredSchedule) -> StoredSchedule:
        """Store a schedule, in place of one of the same name, and return it as it is stored.

        Of that one stay its pause, who made it, and ``done_until`` where it is later and believed at
        ``updated_at``, as they are then.
        """

    async def pause_schedule(self, name: str, paused: SchedulePause | None) -> StoredSchedule:
        """Store why a schedule begins nothing, or (None) that it does again. Raises NotStored."""

    async def delete_schedule(self, name: str) -> None:
        """Forget a schedule and its runs; campaigns stay. Raises NotStored."""

    async def note_runs(self, name: str, runs: Sequence[ScheduleRun], done_until: float, at: float) -> None:
        """Store what became of some times, and that all up to ``done_until`` are done, at once.

        A time that is stored already stays as it is. Where more is stored as done than is believed at ``at``,
        that counts no longer, and times after ``at`` that were skipped are forgotten. Nothing happens where
        the schedule was deleted.
        """

    async def schedule_runs(self, name: str, limit: int) -> Sequence[ScheduleRun]:
        """What became of the last times, the newest first."""
