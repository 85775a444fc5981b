"""Server processes that share the database, as functions of an open session. See ``ReplicaStorage``."""

from __future__ import annotations

import uuid
from typing import Final

import msgspec
from sqlalchemy import Double, bindparam, cast, delete, extract, false, func, insert, select, update
from sqlalchemy.orm import Session

from obt_server.replica_storage import KEPT_S, Beat, ReplicaSeen, ReplicaState
from obt_server.store import leases
from obt_server.store.replica_tables import ClusterRow, ReplicaRow
from obt_server.store.tables import AgentRow

_ONLY_ROW = 1


def beat(db: Session, replica_id: str, *, lead: bool, state: ReplicaState) -> Beat:
    """See ``ReplicaStorage.beat``."""
    leases.short_idle(db)
    now = _now(db)
    left = _note(db, replica_id, now, state)
    # A beat that was on its way when its replica left, and comes after, takes nothing.
    leases.renew(db, replica_id, now, lead=lead and not left)
    there = db.execute(select(ReplicaRow.id, ReplicaRow.seen_at, ReplicaRow.beats, ReplicaRow.left)).all()
    # Read before: a clock that jumped makes rows old whose last beat this replica has not seen yet.
    _forget(db, now)
    leader, epoch = leases.current(db, now)
    return Beat(
        # Others may have come after this transaction's time.
        replicas={row.id: max(0.0, now - row.seen_at) for row in there if not row.left},
        beats={row.id: row.beats for row in there if not row.left},
        left=frozenset(row.id for row in there if row.left),
        leader=leader,
        epoch=epoch,
        cluster=_cluster(db),
        now=now,
    )


def _now(db: Session) -> float:
    """Return the database's time; on PostgreSQL that of the transaction's beginning."""
    if db.connection().dialect.name == "postgresql":
        seconds = cast(extract("epoch", func.now()), Double)
    else:
        seconds = cast((func.julianday("now") - 2_440_587.5) * 86_400.0, Double)
    return float(db.execute(select(seconds)).scalar_one())


def _note(db: Session, replica_id: str, now: float, state: ReplicaState) -> bool:
    """Write that it runs; return whether it had left."""
    said = msgspec.json.encode(state)
    counted = (
        update(ReplicaRow)
        .where(ReplicaRow.id == replica_id)
        .values(seen_at=now, beats=ReplicaRow.beats + 1, state=said)
        .returning(ReplicaRow.left)
    )
    left = db.execute(counted).scalar_one_or_none()
    if left is None:
        first = {"id": replica_id, "seen_at": now, "beats": 1, "left": False, "state": said}
        db.execute(insert(ReplicaRow).values(**first))
    return bool(left)


def _forget(db: Session, now: float) -> None:
    """Remove rows that are old."""
    old = select(ReplicaRow.id).where(ReplicaRow.seen_at < now - KEPT_S)
    # What is locked beats at this moment, or is removed by another one.
    db.execute(delete(ReplicaRow).where(ReplicaRow.id.in_(old.with_for_update(skip_locked=True))))


def _cluster(db: Session) -> str:
    found = db.scalar(select(ClusterRow.id).where(ClusterRow.number == _ONLY_ROW))
    if found is None:
        # Of two that insert it the second fails, and runs again.
        found = uuid.uuid4().hex
        db.execute(insert(ClusterRow).values(number=_ONLY_ROW, id=found))
    return found


def leave(db: Session, replica_id: str) -> None:
    """See ``ReplicaStorage.leave``. The row stays, so that others know that it was no silence."""
    leases.short_idle(db)
    leases.renew(db, replica_id, _now(db), lead=False)
    db.execute(update(ReplicaRow).where(ReplicaRow.id == replica_id).values(left=True))


def replicas(db: Session) -> list[ReplicaSeen]:
    """See ``ReplicaStorage.replicas``."""
    now = _now(db)
    leader, epoch = leases.current(db, now)
    rows = db.execute(
        select(ReplicaRow.id, ReplicaRow.seen_at, ReplicaRow.state)
        .where(ReplicaRow.left.is_(false()))
        .order_by(ReplicaRow.id)
    )
    return [
        ReplicaSeen(
            id=row.id,
            age_s=max(0.0, now - row.seen_at),
            epoch=epoch if row.id == leader else None,
            state=msgspec.json.decode(row.state, type=ReplicaState),
        )
        for row in rows
    ]


def nothing(db: Session) -> None:
    """See ``ReplicaStorage.confirm``: a lease is looked at before it, where one is needed."""
    del db


OWNER: Final = select(AgentRow.session, AgentRow.replica).where(AgentRow.id == bindparam("agent_id"))
"""See ``ReplicaStorage.owner``."""
