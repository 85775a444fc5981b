"""Agents and their admission, as functions of an open session."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Row, select, update
from sqlalchemy.orm import Session

from obt_server.hub.storage import Admission, AgentRecord
from obt_server.storage import NameTaken, NotStored
from obt_server.store import jobs
from obt_server.store.database import AT_ONCE, from_row
from obt_server.store.tables import AgentRow, CredentialRow, ModelVersionRow

_NAME_CHARS: Final = 150
"""Of a name of an agent's own, so that an id fits the column beside it."""
_LISTS: Final = ("capabilities", "labels", "own_labels")
"""Columns that hold a list of words as JSON: they are read and written whole, and no query looks inside."""
_NO_NAMES: Final = frozenset({".", "..", "connect"})
"""Clients take dots out of an address, and ``/agents/connect`` is where agents dial."""


def record(row: AgentRow | Row[Any]) -> AgentRecord:
    """A row, or its columns alone, as the rest of the server sees it."""
    return from_row(AgentRecord, row, **{name: _words(getattr(row, name)) for name in _LISTS})


def get(db: Session, agent_id: str) -> AgentRecord | None:
    """One agent."""
    row = db.get(AgentRow, agent_id)
    return None if row is None else record(row)


def named(db: Session, name: str) -> list[AgentRecord]:
    """Agents of that name."""
    return [
        record(row) for row in db.scalars(select(AgentRow).where(AgentRow.name == name).order_by(AgentRow.id))
    ]


def everyone(db: Session) -> list[AgentRecord]:
    """All agents. By columns: a thousand rows as objects of the mapper would take ten times as long."""
    columns = [getattr(AgentRow, field.name) for field in dataclasses.fields(AgentRecord)]
    rows = db.execute(select(*columns).order_by(AgentRow.name, AgentRow.id))
    return [record(row) for row in rows]


@functools.lru_cache(maxsize=256)
def _words(text: str) -> tuple[str, ...]:
    """A list that is kept as JSON. Agents of one release, and of one group, have the same ones."""
    return msgspec.json.decode(text, type=tuple[str, ...])


def _as_json(words: Sequence[str]) -> str:
    return msgspec.json.encode(words).decode()


def require(db: Session, agent_id: str) -> AgentRow:
    """The row, or NotStored."""
    row = db.get(AgentRow, agent_id)
    if row is None:
        raise NotStored(f"No agent has the id {agent_id[:64]!r}.")
    return row


def rename(db: Session, agent_id: str, name: str | None) -> AgentRecord:
    """See ``ServerStorage.rename_agent``."""
    row = require(db, agent_id)
    row.given_name = name
    # Without a name it keeps the one that it has until its next hello.
    if name is not None:
        holder = db.scalar(select(AgentRow).where(AgentRow.name == name, AgentRow.id != agent_id))
        if holder is not None and holder.given_name is not None:
            raise NameTaken(f"An operator gave the name {name[:64]!r} to agent {holder.id}.")
        if free_name(db, name, agent_id) != name and holder is None:
            raise NameTaken(f"{name[:64]!r} cannot be a name: it is an agent's id, or no part of an address.")
        row.name = name
        # Written before the other is named anew, which asks the database for names that are free.
        db.flush()
        if holder is not None:
            holder.name = free_name(db, holder.name, holder.id)
    return record(row)


def free_name(db: Session, name: str, agent_id: str) -> str:
    """Return the name by which an agent that calls itself ``name`` is shown and found.

    Whoever had a name first keeps it, so that no agent can make another's name ambiguous. A name that is
    taken, and one that cannot stand in an address, gets the end of the agent's id (its beginning is a time,
    which agents that were set up together share).
    """
    # A slash would end the part of the address that the name stands in.
    name = name.replace("/", "-")[:_NAME_CHARS]
    for candidate in (name, f"{name} ({agent_id[-8:]})"):
        # Ids count as names that are taken: an address takes either.
        others = AgentRow.id != agent_id, (AgentRow.name == candidate) | (AgentRow.id == candidate)
        if candidate not in _NO_NAMES and db.scalar(select(AgentRow.id).where(*others).limit(1)) is None:
            return candidate
    return f"{name} ({agent_id})"


def label(db: Session, agent_id: str, labels: Sequence[str]) -> AgentRecord:
    """See ``ServerStorage.label_agent``."""
    row = require(db, agent_id)
    row.labels = _as_json(labels)
    return record(row)


def remove(db: Session, agent_id: str) -> None:
    """Forget an agent; what it reported goes with it."""
    db.delete(require(db, agent_id))


def admit(db: Session, admission: Admission) -> int:
    """See ``HubStorage.admit``."""
    row = require(db, admission.agent_id)
    # Another store has none of the jobs that the old one was to finish. At the first admission there is none.
    if row.store_id is not None and row.store_id != admission.store_id:
        jobs.lose_all(db, admission.agent_id, admission.at)
    # An operator's name wins over every hello.
    if row.given_name is None:
        row.name = free_name(db, admission.name, row.id)
    # Before ``last_seen`` moves: it is what the models were last seen at.
    _keep_last_seen(db, row)
    row.version, row.store_id = admission.version, admission.store_id
    row.capabilities, row.own_labels = _as_json(admission.capabilities), _as_json(admission.own_labels)
    row.last_seen = admission.at
    db.execute(
        update(CredentialRow)
        .where(CredentialRow.id == admission.credential_id)
        .values(last_used_at=admission.at)
    )
    # Counted by the database: numbers of sessions only grow, and no two processes give the same one.
    # The replica with it: of two that admit an agent at once, the one that got the higher number stays.
    counted = (
        update(AgentRow)
        .where(AgentRow.id == row.id)
        .values(session=AgentRow.session + 1, replica=admission.replica)
    )
    return db.execute(counted.returning(AgentRow.session)).scalar_one()


def _keep_last_seen(db: Session, agent: AgentRow) -> None:
    """Before an agent is seen again: its models were there when it was last seen, and may be gone since.

    Between admissions a model that is ``current`` was last seen when its agent was, which saves a write of
    every model of every agent each minute.
    """
    if agent.last_seen is not None:
        mine = ModelVersionRow.agent_id == agent.id, ModelVersionRow.current
        older = ModelVersionRow.last_seen < agent.last_seen
        db.execute(update(ModelVersionRow).where(*mine, older).values(last_seen=agent.last_seen))


def left(db: Session, agent_id: str, session: int) -> None:
    """See ``HubStorage.left``."""
    mine = AgentRow.id == agent_id, AgentRow.session == session
    db.execute(update(AgentRow).where(*mine).values(replica=None))


def mark_seen(db: Session, agent_ids: Sequence[str], at: float) -> None:
    """See ``HubStorage.mark_seen``. Each statement stays below SQLite's bound on parameters."""
    for start in range(0, len(agent_ids), AT_ONCE):
        some = agent_ids[start : start + AT_ONCE]
        db.execute(update(AgentRow).where(AgentRow.id.in_(some)).values(last_seen=at))
