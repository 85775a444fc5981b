"""The history of models on machines: what changed, and who did it, as functions of an open session."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from obt_server.hub.storage import ENDED_STATES
from obt_server.rollout_storage import ChangeCause, ChangeFilter, ModelChange, model_key
from obt_server.store.database import from_row
from obt_server.store.tables import AgentRow, ChangeCauseRow, JobRow, ModelChangeRow

AFTER_JOB_S: Final = 60.0
"""A machine lists its models within 5 s of a change; a link that was lost takes longer."""
Changes = Mapping[str, tuple[str | None, str | None]]
"""By name: the digest before and the digest after; None where the model was not there."""


def note_causes(db: Session, causes: Sequence[ChangeCause]) -> None:
    """See ``RolloutStorage.note_causes``."""
    for cause in causes:
        # An agent that was deleted meanwhile has no changes to explain.
        if db.get(AgentRow, cause.agent_id) is not None:
            db.merge(ChangeCauseRow(**dataclasses.asdict(cause)))


def add(db: Session, agent_id: str, changes: Changes, at: float, most: int) -> None:
    """Remember changes, each with who did it, and at most ``most`` of the agent."""
    if not changes:
        return
    causes = _causes(db, agent_id, at)
    rows: list[dict[str, Any]] = []
    # More than are kept would be written to be deleted at once: a list may be of twenty thousand.
    for name, (before, after) in list(changes.items())[-most:]:
        cause = causes.get(model_key(name))
        # Without a cause they are all null: it was done at the machine.
        by = {who: getattr(cause, who, None) for who in ("rollout_id", "model_set", "operator")}
        what = {"at": at, "agent_id": agent_id, "name": model_key(name)}
        rows.append(what | {"digest_before": before, "digest_after": after} | by)
    db.execute(insert(ModelChangeRow), rows)
    _forget_oldest(db, agent_id, most)


def _causes(db: Session, agent_id: str, at: float) -> dict[str, ChangeCauseRow]:
    """What explains a change of now, by the model's key; what explains nothing any more goes."""
    found: dict[str, ChangeCauseRow] = {}
    for row in db.scalars(select(ChangeCauseRow).where(ChangeCauseRow.agent_id == agent_id)):
        if _holds(db, row, at):
            found[row.name] = row
        # A job's row may come a moment after its cause.
        elif row.expires_at < at:
            db.delete(row)
    return found


def _holds(db: Session, cause: ChangeCauseRow, at: float) -> bool:
    if cause.job_id is not None:
        job = db.get(JobRow, (cause.agent_id, cause.job_id))
        if job is not None:
            return job.state not in ENDED_STATES or (job.finished_at or 0.0) + AFTER_JOB_S >= at
    return cause.expires_at >= at


def _forget_oldest(db: Session, agent_id: str, most: int) -> None:
    query = select(ModelChangeRow.id).where(ModelChangeRow.agent_id == agent_id)
    # The first one beyond those that are kept; all with a smaller number are older.
    last = db.scalar(query.order_by(ModelChangeRow.id.desc()).offset(most).limit(1))
    if last is not None:
        db.execute(
            delete(ModelChangeRow).where(ModelChangeRow.agent_id == agent_id, ModelChangeRow.id <= last)
        )


def find(db: Session, which: ChangeFilter) -> list[ModelChange]:
    """See ``RolloutStorage.model_changes``."""
    query = select(ModelChangeRow)
    if which.agent_id is not None:
        query = query.where(ModelChangeRow.agent_id == which.agent_id)
    if which.name is not None:
        query = query.where(ModelChangeRow.name == which.name)
    if which.before is not None:
        query = query.where(ModelChangeRow.id < which.before)
    rows = db.scalars(query.order_by(ModelChangeRow.id.desc()).limit(which.limit))
    return [from_row(ModelChange, row) for row in rows]
