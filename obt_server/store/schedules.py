"""Schedules and what became of their times, as functions of an open session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from obt_server.schedule_storage import SchedulePause, ScheduleRun, StoredSchedule, believed
from obt_server.storage import NotStored
from obt_server.store.tables import ScheduleRow, ScheduleRunRow

MAX_RUNS: Final = 1_000
"""Of one schedule that are kept: nightly ones of almost three years."""


def every(db: Session) -> list[StoredSchedule]:
    """See ``ScheduleStorage.schedules``."""
    contents = db.scalars(select(ScheduleRow.content).order_by(ScheduleRow.name))
    return [msgspec.json.decode(content, type=StoredSchedule) for content in contents]


def get(db: Session, name: str) -> StoredSchedule:
    """See ``ScheduleStorage.schedule``."""
    return msgspec.json.decode(_require(db, name).content, type=StoredSchedule)


def _require(db: Session, name: str) -> ScheduleRow:
    row = db.get(ScheduleRow, name)
    if row is None:
        raise NotStored(f"There is no schedule {name[:64]!r}.")
    return row


def save(db: Session, schedule: StoredSchedule) -> StoredSchedule:
    """See ``ScheduleStorage.save_schedule``."""
    row = db.get(ScheduleRow, schedule.name)
    if row is None:
        db.add(ScheduleRow(name=schedule.name, content=msgspec.json.encode(schedule)))
        return schedule
    # Here, and not before: somebody may pause it, or a time be done, while the request is looked at.
    known = msgspec.json.decode(row.content, type=StoredSchedule)
    schedule = msgspec.structs.replace(
        schedule,
        paused=known.paused,
        created_by=known.created_by,
        done_until=max(schedule.done_until, believed(known.done_until, schedule.updated_at)),
    )
    row.content = msgspec.json.encode(schedule)
    return schedule


def pause(db: Session, name: str, paused: SchedulePause | None) -> StoredSchedule:
    """See ``ScheduleStorage.pause_schedule``."""
    row = _require(db, name)
    schedule = msgspec.json.decode(row.content, type=StoredSchedule)
    schedule = msgspec.structs.replace(schedule, paused=paused)
    row.content = msgspec.json.encode(schedule)
    return schedule


def remove(db: Session, name: str) -> None:
    """See ``ScheduleStorage.delete_schedule``."""
    db.delete(_require(db, name))


def note_runs(db: Session, name: str, runs: Sequence[ScheduleRun], done_until: float, at: float) -> None:
    """See ``ScheduleStorage.note_runs``."""
    row = db.get(ScheduleRow, name)
    if row is None:
        return
    schedule = msgspec.json.decode(row.content, type=StoredSchedule)
    known = believed(schedule.done_until, at)
    if known != schedule.done_until:
        _forget_skipped(db, name, at)
    for run in runs:
        # One that was told before a restart stays as it was told.
        if db.get(ScheduleRunRow, (name, run.due_at)) is None:
            db.add(ScheduleRunRow(schedule=name, due_at=run.due_at, detail=msgspec.json.encode(run)))
    # Somebody may have saved it anew meanwhile: only this changes, and never backwards from what is believed.
    done = max(known, done_until)
    row.content = msgspec.json.encode(msgspec.structs.replace(schedule, done_until=done))
    db.flush()
    _forget_oldest(db, name)


def _forget_skipped(db: Session, name: str, after: float) -> None:
    """Forget what was told of times that have not come; what became of them is told when they do."""
    mine = select(ScheduleRunRow).where(ScheduleRunRow.schedule == name, ScheduleRunRow.due_at > after)
    for row in db.scalars(mine):
        if msgspec.json.decode(row.detail, type=ScheduleRun).state == "skipped":
            db.delete(row)
    db.flush()


def _forget_oldest(db: Session, name: str) -> None:
    mine = select(ScheduleRunRow.due_at).where(ScheduleRunRow.schedule == name)
    last = db.scalar(mine.order_by(ScheduleRunRow.due_at.desc()).offset(MAX_RUNS).limit(1))
    if last is not None:
        db.execute(
            delete(ScheduleRunRow).where(ScheduleRunRow.schedule == name, ScheduleRunRow.due_at <= last)
        )


def runs(db: Session, name: str, limit: int) -> list[ScheduleRun]:
    """See ``ScheduleStorage.schedule_runs``."""
    query = select(ScheduleRunRow.detail).where(ScheduleRunRow.schedule == name)
    details = db.scalars(query.order_by(ScheduleRunRow.due_at.desc()).limit(limit))
    return [msgspec.json.decode(detail, type=ScheduleRun) for detail in details]
