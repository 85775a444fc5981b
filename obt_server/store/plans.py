"""Saved plans with their versions, as functions of an open session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from obt_agent.errors import StorageFull
from obt_server.storage import NotStored, SavedPlan
from obt_server.store.database import from_row
from obt_server.store.tables import PlanVersionRow

MAX_NAMES: Final = 500
MAX_VERSIONS: Final = 100
"""Of a name; the oldest go first. A campaign holds the plans that it measured itself."""
MAX_DELETED: Final = 1_000
"""Versions of deleted names; the oldest go first."""


def _records(db: Session, query: Select[PlanVersionRow]) -> list[SavedPlan]:
    return [from_row(SavedPlan, row) for row in db.scalars(query)]


def newest(db: Session) -> list[SavedPlan]:
    """See ``ServerStorage.plans``."""
    row = PlanVersionRow
    last = select(row.name, func.max(row.version).label("version")).where(~row.deleted).group_by(row.name)
    found = last.subquery()
    query = select(row).join(found, (row.name == found.c.name) & (row.version == found.c.version))
    return _records(db, query.order_by(row.name))


def versions(db: Session, name: str) -> list[SavedPlan]:
    """See ``ServerStorage.plan_versions``."""
    query = select(PlanVersionRow).where(PlanVersionRow.name == name, ~PlanVersionRow.deleted)
    return _records(db, query.order_by(PlanVersionRow.version.desc()))


def of_hash(db: Session, plan_hash: str) -> list[SavedPlan]:
    """See ``ServerStorage.plans_of_hash``."""
    query = select(PlanVersionRow).where(PlanVersionRow.hash == plan_hash)
    return _records(db, query.order_by(PlanVersionRow.name, PlanVersionRow.version.desc()))


def save(db: Session, plan: SavedPlan) -> SavedPlan:
    """See ``ServerStorage.save_plan``."""
    known = versions(db, plan.name)
    if known and known[0].hash == plan.hash:
        return known[0]
    if not known:
        names = select(func.count(func.distinct(PlanVersionRow.name))).where(~PlanVersionRow.deleted)
        if (db.scalar(names) or 0) >= MAX_NAMES:
            raise StorageFull(
                f"There are {MAX_NAMES} saved plans, the most that are kept; delete some first."
            )
    # Counted on from deleted ones: a version's number never means two plans.
    last = db.scalar(select(func.max(PlanVersionRow.version)).where(PlanVersionRow.name == plan.name)) or 0
    row = PlanVersionRow(
        name=plan.name,
        version=last + 1,
        hash=plan.hash,
        plan=plan.plan,
        comment=plan.comment,
        saved_at=plan.saved_at,
        saved_by=plan.saved_by,
        deleted=False,
    )
    db.add(row)
    _forget(db, known[MAX_VERSIONS - 1 :])
    return from_row(SavedPlan, row)


def _forget(db: Session, some: Sequence[SavedPlan]) -> None:
    for one in some:
        mine = PlanVersionRow.name == one.name, PlanVersionRow.version == one.version
        db.execute(delete(PlanVersionRow).where(*mine))


def remove(db: Session, name: str) -> None:
    """See ``ServerStorage.delete_plan``."""
    query = select(PlanVersionRow).where(PlanVersionRow.name == name, ~PlanVersionRow.deleted)
    rows = list(db.scalars(query))
    if not rows:
        raise NotStored(f"There is no saved plan {name[:64]!r}.")
    for row in rows:
        row.deleted = True
    db.flush()
    gone = select(PlanVersionRow).where(PlanVersionRow.deleted).order_by(PlanVersionRow.saved_at.desc())
    _forget(db, _records(db, gone.offset(MAX_DELETED)))
