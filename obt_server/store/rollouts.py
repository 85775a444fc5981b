"""Rollouts and model sets, as functions of an open session."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, case, delete, func, select
from sqlalchemy.orm import Session

from obt_server.rollout_storage import (
    TARGET_STATES,
    ChangeCause,
    CreateSpec,
    ModelSet,
    Rollout,
    RolloutFilter,
    RolloutTarget,
    RolloutTotals,
    TooManyRollouts,
)
from obt_server.storage import MOST_REPORTED, NotStored
from obt_server.store.column_types import whole_sum
from obt_server.store.database import AT_ONCE, from_row
from obt_server.store.model_changes import note_causes
from obt_server.store.tables import ModelSetRow, RolloutRow, RolloutTargetRow

MAX_ROLLOUTS: Final = 1_000
"""That are kept; a thousand machines in each are some hundred megabytes."""


def record(row: RolloutRow) -> Rollout:
    """A row as the rest of the server sees it."""
    spec = None if row.spec is None else msgspec.json.decode(row.spec, type=CreateSpec)
    return from_row(Rollout, row, create=spec)


def create(db: Session, rollout: Rollout, targets: Sequence[RolloutTarget]) -> Rollout:
    """See ``RolloutStorage.create_rollout``."""
    if rollout.key is not None:
        # In the transaction that stores: of two requests that come together the second finds the first.
        known = db.scalar(select(RolloutRow).where(RolloutRow.key == rollout.key))
        if known is not None:
            return record(known)
    _make_room(db)
    fields = {field.name: getattr(rollout, field.name) for field in dataclasses.fields(Rollout)}
    create_spec = fields.pop("create")
    spec = None if create_spec is None else msgspec.json.encode(create_spec)
    db.add(RolloutRow(**fields, spec=spec))
    # Before the targets, which refer to it.
    db.flush()
    db.add_all(
        RolloutTargetRow(rollout_id=rollout.id, position=position, **_columns(target))
        for position, target in enumerate(targets)
    )
    return rollout


def _make_room(db: Session) -> None:
    """Forget the oldest that have ended, so that one more is no more than are kept."""
    kept = db.scalar(select(func.count()).select_from(RolloutRow)) or 0
    over = kept - MAX_ROLLOUTS + 1
    if over <= 0:
        return
    ended = select(RolloutRow.id).where(RolloutRow.state != "running").order_by(RolloutRow.created_at)
    oldest = list(db.scalars(ended.limit(over)))
    if len(oldest) < over:
        raise TooManyRollouts(f"{kept} rollouts run, the most that are kept; cancel some of them first.")
    for start in range(0, len(oldest), AT_ONCE):
        db.execute(delete(RolloutRow).where(RolloutRow.id.in_(oldest[start : start + AT_ONCE])))


def _columns(target: RolloutTarget) -> dict[str, object]:
    return {
        "agent_id": target.agent_id,
        "state": target.state,
        "completed_bytes": target.completed_bytes,
        "total_bytes": target.total_bytes,
        "detail": msgspec.json.encode(target),
    }


def _require(db: Session, rollout_id: str) -> RolloutRow:
    row = db.get(RolloutRow, rollout_id)
    if row is None:
        raise NotStored(f"There is no rollout {rollout_id[:64]!r}.")
    return row


def get(db: Session, rollout_id: str) -> Rollout:
    """See ``RolloutStorage.rollout``."""
    return record(_require(db, rollout_id))


def targets(db: Session, rollout_id: str) -> list[RolloutTarget]:
    """See ``RolloutStorage.rollout_targets``."""
    query = select(RolloutTargetRow.detail).where(RolloutTargetRow.rollout_id == rollout_id)
    decoder = msgspec.json.Decoder(RolloutTarget)
    return [decoder.decode(detail) for detail in db.scalars(query.order_by(RolloutTargetRow.position))]


def find(db: Session, which: RolloutFilter) -> list[RolloutTotals]:
    """See ``RolloutStorage.rollouts``."""
    query = select(RolloutRow)
    if which.state is not None:
        query = query.where(RolloutRow.state == which.state)
    if which.model is not None:
        query = query.where((RolloutRow.model == which.model) | (RolloutRow.destination == which.model))
    if which.agent_id is not None:
        mine = select(RolloutTargetRow.rollout_id).where(RolloutTargetRow.agent_id == which.agent_id)
        query = query.where(RolloutRow.id.in_(mine))
    # The id decides between those of one moment, so that lists have one order.
    rows = list(
        db.scalars(query.order_by(RolloutRow.created_at.desc(), RolloutRow.id.desc()).limit(which.limit))
    )
    totals = _totals(db, [row.id for row in rows])
    return [
        RolloutTotals(
            rollout=record(row),
            counts={state: totals[row.id].get(state, (0, None, None))[0] for state in TARGET_STATES},
            completed_bytes=_sum(one[1] for one in totals[row.id].values()),
            total_bytes=_sum(one[2] for one in totals[row.id].values()),
        )
        for row in rows
    ]


def _totals(db: Session, ids: Sequence[str]) -> dict[str, dict[str, tuple[int, int | None, int | None]]]:
    """By rollout and state: how many targets, and the sums of their bytes."""
    totals: dict[str, dict[str, tuple[int, int | None, int | None]]] = defaultdict(dict)
    row = RolloutTargetRow
    for start in range(0, len(ids), AT_ONCE):
        query = (
            select(
                row.rollout_id,
                row.state,
                func.count(),
                whole_sum(_believed(row.completed_bytes)),
                whole_sum(_believed(row.total_bytes)),
            )
            .where(row.rollout_id.in_(ids[start : start + AT_ONCE]))
            .group_by(row.rollout_id, row.state)
        )
        for rollout_id, state, count, completed, total in db.execute(query):
            totals[rollout_id][state] = count, completed, total
    return totals


def _believed(column: Any) -> ColumnElement[int | None]:
    """A number of an agent's own; null where an earlier release stored one that is none."""
    return case((column.between(0, MOST_REPORTED), column))


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def save(
    db: Session, rollout: Rollout, changed: Sequence[RolloutTarget], causes: Sequence[ChangeCause] = ()
) -> None:
    """See ``RolloutStorage.save_rollout``."""
    row = _require(db, rollout.id)
    row.state, row.finished_at, row.cancelling = rollout.state, rollout.finished_at, rollout.cancelling
    for target in changed:
        found = db.get(RolloutTargetRow, (rollout.id, target.agent_id))
        if found is not None:
            for name, value in _columns(target).items():
                setattr(found, name, value)
    note_causes(db, causes)


def remove(db: Session, rollout_id: str) -> None:
    """See ``RolloutStorage.delete_rollout``."""
    db.delete(_require(db, rollout_id))


def model_sets(db: Session) -> list[ModelSet]:
    """See ``RolloutStorage.model_sets``."""
    contents = db.scalars(select(ModelSetRow.content).order_by(ModelSetRow.name))
    return [msgspec.json.decode(content, type=ModelSet) for content in contents]


def save_model_set(db: Session, wanted: ModelSet) -> None:
    """See ``RolloutStorage.save_model_set``."""
    db.merge(ModelSetRow(name=wanted.name, content=msgspec.json.encode(wanted)))


def delete_model_set(db: Session, name: str) -> None:
    """See ``RolloutStorage.delete_model_set``."""
    row = db.get(ModelSetRow, name)
    if row is None:
        raise NotStored(f"There is no model set {name[:64]!r}.")
    db.delete(row)
