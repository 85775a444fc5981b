"""Agents and their admission, as functions of an open session."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

import msgspec
from sqlalchemy import Row, Table, select, tuple_, update
from sqlalchemy.orm import Session

from obt_server.hub.storage import Admission, AgentRecord
from obt_server.storage import IdentityTaken, NameTaken, NotStored
from obt_server.store import jobs
from obt_server.store.database import AT_ONCE, from_row
from obt_server.store.tables import AgentRow, CredentialRow, FormerAgentRow, ModelVersionRow

T = TypeVar("T")

_AGENTS: Final = cast("Table", AgentRow.__table__)
_CREDENTIALS: Final = cast("Table", CredentialRow.__table__)
_VERSIONS: Final = cast("Table", ModelVersionRow.__table__)
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
    names = [field.name for field in dataclasses.fields(AgentRecord)]
    rows = db.execute(select(*(_AGENTS.c[name] for name in names)).order_by(_AGENTS.c.name, _AGENTS.c.id))
    found = []
    for row in rows:
        values: dict[str, Any] = dict(zip(names, row, strict=True))
        for name in _LISTS:
            values[name] = _words(values[name])
        found.append(AgentRecord(**values))
    return found


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
        raise _unknown(agent_id)
    return row


def _unknown(agent_id: str) -> NotStored:
    return NotStored(f"No agent has the id {agent_id[:64]!r}.")


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


def free_name(db: Session, name: str, agent_id: str, held: str | None = None) -> str:
    """Return the name by which an agent that calls itself ``name`` is shown and found.

    Whoever had a name first keeps it, so that no agent can make another's name ambiguous. A name that is
    taken, and one that cannot stand in an address, gets the end of the agent's id (its beginning is a time,
    which agents that were set up together share).

    Args:
        db: the session.
        name: the agent's own.
        agent_id: whose.
        held: the name that it has, if it has one.
    """
    # A slash would end the part of the address that the name stands in.
    name = name.replace("/", "-")[:_NAME_CHARS]
    for candidate in (name, f"{name} ({agent_id[-8:]})"):
        # Ids count as names that are taken: an address takes either. That nobody else has the name that it
        # has needs no look: on PostgreSQL agents that return at once would wait for each other's repeats.
        taken = _AGENTS.c.id == candidate
        if candidate != held:
            taken |= _AGENTS.c.name == candidate
        others = select(_AGENTS.c.id).where(_AGENTS.c.id != agent_id, taken).limit(1)
        if candidate not in _NO_NAMES and db.scalar(others) is None:
            return candidate
    return f"{name} ({agent_id})"


def label(db: Session, agent_id: str, labels: Sequence[str]) -> AgentRecord:
    """See ``ServerStorage.label_agent``."""
    row = require(db, agent_id)
    row.labels = _as_json(labels)
    return record(row)


def credentials_of(db: Session, agent_id: str) -> frozenset[int]:
    """The numbers of its credentials. Raise NotStored."""
    require(db, agent_id)
    return frozenset(db.scalars(select(_CREDENTIALS.c.id).where(_CREDENTIALS.c.agent_id == agent_id)))


def remove(db: Session, agent_id: str, known: frozenset[int]) -> None:
    """Forget an agent; what it reported goes with it.

    Raises:
        IdentityTaken: it has a credential beside those that are ``known``; it stays.
    """
    row = require(db, agent_id)
    valid = _CREDENTIALS.c.agent_id == agent_id, _CREDENTIALS.c.state != "revoked"
    if set(db.scalars(select(_CREDENTIALS.c.id).where(*valid))) - known:
        raise IdentityTaken("The agent enrolled again while it was removed. It stays, without its results.")
    db.add(FormerAgentRow(id=agent_id, session=row.session))
    db.delete(row)


def admit(db: Session, admission: Admission) -> AgentRecord:
    """See ``HubStorage.admit``."""
    # On tables, and not on objects of the mapper: a fleet that returns is admitted in half the time.
    mine = _AGENTS.c.id == admission.agent_id
    before = db.execute(select(_AGENTS).where(mine)).one_or_none()
    if before is None:
        raise _unknown(admission.agent_id)
    # Another store has none of the jobs that the old one was to finish. At the first admission there is none.
    if before.store_id is not None and before.store_id != admission.store_id:
        jobs.lose_all(db, admission.agent_id, admission.at)
    name = before.name
    # An operator's name wins over every hello.
    if before.given_name is None:
        name = free_name(db, admission.name, admission.agent_id, before.name)
    # Before ``last_seen`` moves: it is what the models were last seen at.
    _keep_last_seen(db, admission.agent_id, before.last_seen)
    used = update(_CREDENTIALS).where(_CREDENTIALS.c.id == admission.credential_id)
    db.execute(used.values(last_used_at=admission.at))
    said = {
        "name": name,
        "version": admission.version,
        "store_id": admission.store_id,
        "capabilities": _as_json(admission.capabilities),
        "own_labels": _as_json(admission.own_labels),
        "last_seen": admission.at,
        # Counted by the database: numbers of sessions only grow, and no two processes give the same one.
        # The replica with it: of two that admit an agent at once, the one that got the higher number stays.
        "session": _AGENTS.c.session + 1,
        "replica": admission.replica,
    }
    return record(db.execute(update(_AGENTS).where(mine).values(said).returning(_AGENTS)).one())


def _keep_last_seen(db: Session, agent_id: str, seen_at: float | None) -> None:
    """Before an agent is seen again: its models were there when it was last seen, and may be gone since.

    Between admissions a model that is ``current`` was last seen when its agent was, which saves a write of
    every model of every agent each minute.
    """
    if seen_at is not None:
        versions = _VERSIONS.c
        mine = versions.agent_id == agent_id, versions.current, versions.last_seen < seen_at
        db.execute(update(_VERSIONS).where(*mine).values(last_seen=seen_at))


def left(db: Session, sessions: Mapping[str, int]) -> None:
    """See ``HubStorage.left``."""
    ended = tuple_(_AGENTS.c.id, _AGENTS.c.session)
    for some in _parts(list(sessions.items())):
        db.execute(update(_AGENTS).where(ended.in_(some)).values(replica=None))


def mark_seen(db: Session, agent_ids: Sequence[str], at: float) -> None:
    """See ``HubStorage.mark_seen``."""
    for some in _parts(agent_ids):
        db.execute(update(_AGENTS).where(_AGENTS.c.id.in_(some)).values(last_seen=at))


def _parts(them: Sequence[T]) -> Iterator[Sequence[T]]:
    """So many at once that a statement stays below SQLite's bound on parameters."""
    return (them[start : start + AT_ONCE] for start in range(0, len(them), AT_ONCE))
