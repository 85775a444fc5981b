"""Agents, credentials, enrolment, models and hardware, as functions of an open session."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import LargeBinary, case, delete, func, insert, literal, select, tuple_, update
from sqlalchemy.orm import Session

from obt_agent.ollama.payloads import InstalledModel
from obt_server.hub.storage import Admission, AgentRecord, StoredCredential
from obt_server.storage import (
    CredentialInfo,
    Enrolment,
    Hardware,
    IdentityTaken,
    ModelVersion,
    NameTaken,
    NotStored,
)
from obt_server.store import jobs
from obt_server.store.database import from_row
from obt_server.store.quota import ROW_BYTES, AgentQuota
from obt_server.store.tables import AgentRow, CredentialRow, HardwareRow, ModelVersionRow

AT_ONCE: Final = 200
"""Rows of one statement, and of one transaction of a list of models: others wait for some milliseconds."""
_NAME_CHARS: Final = 150
"""Of a name of an agent's own, so that an id fits the column beside it."""
_NO_NAMES: Final = frozenset({".", "..", "connect"})
"""Clients take dots out of an address, and ``/agents/connect`` is where agents dial."""


def record(row: AgentRow) -> AgentRecord:
    """A row as the rest of the server sees it."""
    return from_row(AgentRecord, row, capabilities=_capabilities(row.capabilities))


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
    return [from_row(AgentRecord, row, capabilities=_capabilities(row.capabilities)) for row in rows]


@functools.lru_cache(maxsize=256)
def _capabilities(text: str) -> tuple[str, ...]:
    """Agents of one release have the same ones."""
    return msgspec.json.decode(text, type=tuple[str, ...])


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
    if name is not None:
        holder = db.scalar(select(AgentRow).where(AgentRow.name == name, AgentRow.id != agent_id))
        if holder is not None and holder.given_name is not None:
            raise NameTaken(f"An operator gave the name {name[:64]!r} to agent {holder.id}.")
        if _free_name(db, name, agent_id) != name and holder is None:
            raise NameTaken(f"{name[:64]!r} cannot be a name: it is an agent's id, or no part of an address.")
        row.name = name
        db.flush()
        if holder is not None:
            holder.name = _free_name(db, holder.name, holder.id)
    return record(row)


def _free_name(db: Session, name: str, agent_id: str) -> str:
    """Return the name by which an agent that calls itself ``name`` is shown and found.

    Whoever had a name first keeps it, so that no agent can make another's name ambiguous. A name that is
    taken, and one that cannot stand in an address, gets the end of the agent's id (its beginning is a time,
    which agents that were set up together share).
    """
    name = name.replace("/", "-")[:_NAME_CHARS]
    for candidate in (name, f"{name} ({agent_id[-8:]})"):
        others = AgentRow.id != agent_id, (AgentRow.name == candidate) | (AgentRow.id == candidate)
        if candidate not in _NO_NAMES and db.scalar(select(AgentRow.id).where(*others).limit(1)) is None:
            return candidate
    return f"{name} ({agent_id})"


def remove(db: Session, agent_id: str) -> None:
    """Forget an agent; what it reported goes with it."""
    db.delete(require(db, agent_id))


def admit(db: Session, admission: Admission) -> int:
    """See ``HubStorage.admit``."""
    row = require(db, admission.agent_id)
    if row.store_id is not None and row.store_id != admission.store_id:
        jobs.lose_all(db, admission.agent_id, admission.at)
    if row.given_name is None:
        row.name = _free_name(db, admission.name, row.id)
    _keep_last_seen(db, row)
    row.version, row.store_id = admission.version, admission.store_id
    row.capabilities = msgspec.json.encode(admission.capabilities).decode()
    row.last_seen = admission.at
    row.session += 1
    db.execute(
        update(CredentialRow)
        .where(CredentialRow.id == admission.credential_id)
        .values(last_used_at=admission.at)
    )
    return row.session


def _keep_last_seen(db: Session, agent: AgentRow) -> None:
    """Before an agent is seen again: its models were there when it was last seen, and may be gone since.

    Between admissions a model that is ``current`` was last seen when its agent was, which saves a write of
    every model of every agent each minute.
    """
    if agent.last_seen is not None:
        mine = ModelVersionRow.agent_id == agent.id, ModelVersionRow.current
        older = ModelVersionRow.last_seen < agent.last_seen
        db.execute(update(ModelVersionRow).where(*mine, older).values(last_seen=agent.last_seen))


def mark_seen(db: Session, agent_ids: Sequence[str], at: float) -> None:
    """See ``HubStorage.mark_seen``. Each statement stays below SQLite's bound on parameters."""
    for start in range(0, len(agent_ids), AT_ONCE):
        some = agent_ids[start : start + AT_ONCE]
        db.execute(update(AgentRow).where(AgentRow.id.in_(some)).values(last_seen=at))


# -- credentials --------------------------------------------------------------------------------------


def credential(db: Session, sha256: str) -> StoredCredential | None:
    """See ``HubStorage.credential``."""
    row = db.scalar(select(CredentialRow).where(CredentialRow.sha256 == sha256))
    if row is None:
        return None
    return from_row(StoredCredential, row)


def revoked(db: Session, credential_ids: Sequence[int]) -> list[int]:
    """See ``HubStorage.revoked``."""
    if not credential_ids:
        return []
    good = set(
        db.scalars(
            select(CredentialRow.id).where(
                CredentialRow.id.in_(credential_ids), CredentialRow.state != "revoked"
            )
        )
    )
    return [one for one in credential_ids if one not in good]


def promote(db: Session, credential_id: int) -> None:
    """See ``HubStorage.promote``. What it replaces is deleted: it was never revoked, only used up."""
    row = db.get(CredentialRow, credential_id)
    if row is None or row.state == "revoked":
        return
    db.execute(
        delete(CredentialRow).where(
            CredentialRow.agent_id == row.agent_id,
            CredentialRow.id != credential_id,
            CredentialRow.state != "revoked",
        )
    )
    row.state = "current"
    row.last_used_at = time.time()


def add_candidate(db: Session, agent_id: str, sha256: str) -> None:
    """See ``HubStorage.add_candidate``."""
    agent = require(db, agent_id)
    agent.rotation_requested_at = None
    db.execute(
        delete(CredentialRow).where(CredentialRow.agent_id == agent_id, CredentialRow.state == "candidate")
    )
    if db.scalar(select(CredentialRow.id).where(CredentialRow.sha256 == sha256)) is None:
        db.add(CredentialRow(agent_id=agent_id, sha256=sha256, state="candidate", created_at=time.time()))


def rotations_due(db: Session) -> list[str]:
    """See ``HubStorage.rotations_due``."""
    return list(db.scalars(select(AgentRow.id).where(AgentRow.rotation_requested_at.is_not(None))))


def request_rotation(db: Session, agent_id: str, at: float) -> None:
    """Note the wish."""
    require(db, agent_id).rotation_requested_at = at


def revoke(db: Session, agent_id: str, at: float) -> int:
    """See ``ServerStorage.revoke_credentials``."""
    del at  # another storage may keep when it was
    require(db, agent_id).rotation_requested_at = None
    result = db.execute(
        update(CredentialRow)
        .where(CredentialRow.agent_id == agent_id, CredentialRow.state != "revoked")
        .values(state="revoked")
        .returning(CredentialRow.id)
    )
    return len(result.all())


def credentials(db: Session) -> list[CredentialInfo]:
    """All credentials."""
    rows = db.execute(
        select(CredentialRow, AgentRow)
        .join(AgentRow, AgentRow.id == CredentialRow.agent_id)
        .order_by(AgentRow.name, AgentRow.id, CredentialRow.id)
    )
    return [
        from_row(CredentialInfo, row, rotation_requested=agent.rotation_requested_at is not None)
        for row, agent in rows
    ]


def enrol(db: Session, enrolment: Enrolment, at: float, *, retake: bool = False) -> AgentRecord:
    """Store an agent and its credential.

    Args:
        db: the session.
        enrolment: who.
        at: when.
        retake: whether an identity that has a valid credential may be taken; its credentials end then.

    Raises:
        IdentityTaken: and ``retake`` is false; or the secret is another one's.
    """
    row = db.get(AgentRow, enrolment.agent_id)
    if row is not None and not retake and _has_valid_credential(db, row.id):
        raise IdentityTaken(
            "An agent of this id is enrolled already. Revoke its credential first, or make a join token for "
            "this agent alone."
        )
    name = _free_name(db, enrolment.name, enrolment.agent_id)
    if row is None:
        row = AgentRow(id=enrolment.agent_id, session=0, enrolled_at=at, capabilities="[]")
        db.add(row)
    if row.given_name is None:
        row.name = name
    row.version = enrolment.version
    db.flush()
    db.execute(delete(CredentialRow).where(CredentialRow.agent_id == row.id))
    if db.scalar(select(CredentialRow.id).where(CredentialRow.sha256 == enrolment.secret_sha256)) is not None:
        raise IdentityTaken("This secret belongs to another agent; make a new one.")
    db.add(CredentialRow(agent_id=row.id, sha256=enrolment.secret_sha256, state="current", created_at=at))
    db.flush()
    return record(row)


def _has_valid_credential(db: Session, agent_id: str) -> bool:
    query = select(CredentialRow.id).where(
        CredentialRow.agent_id == agent_id, CredentialRow.state != "revoked"
    )
    return db.scalar(query.limit(1)) is not None


# -- models and hardware ------------------------------------------------------------------------------


def save_models(db: Session, agent_id: str, models: Sequence[InstalledModel], at: float) -> None:
    """Store some models of an agent's list. Only what the list changes is read and written."""
    require(db, agent_id)
    key = tuple_(ModelVersionRow.name, ModelVersionRow.digest)
    columns = ModelVersionRow.id, ModelVersionRow.name, ModelVersionRow.digest, ModelVersionRow.current
    query = select(*columns, ModelVersionRow.details).where(
        ModelVersionRow.agent_id == agent_id, key.in_([(model.name, model.digest) for model in models])
    )
    known = {(row.name, row.digest): row for row in db.execute(query)}
    new: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    for model in models:
        values = {"current": True, "last_seen": at, "details": msgspec.json.encode(model)}
        found = known.get((model.name, model.digest))
        if found is None:
            identity = {"agent_id": agent_id, "name": model.name, "digest": model.digest, "first_seen": at}
            new.append(identity | values)
        elif not found.current or found.details != values["details"]:
            changed.append({"id": found.id} | values)
    if new:
        db.execute(insert(ModelVersionRow), new)
    if changed:
        db.execute(update(ModelVersionRow), changed)


def save_last_models(
    db: Session,
    agent_id: str,
    models: Sequence[InstalledModel],
    keys: Collection[tuple[str, str]],
    at: float,
    quota: AgentQuota,
) -> None:
    """Store the last piece of a list; what is not among its ``keys`` (name, digest) is not installed."""
    save_models(db, agent_id, models, at)
    mine = ModelVersionRow.agent_id == agent_id, ModelVersionRow.current
    columns = ModelVersionRow.id, ModelVersionRow.name, ModelVersionRow.digest
    gone = [row.id for row in db.execute(select(*columns).where(*mine)) if (row.name, row.digest) not in keys]
    for start in range(0, len(gone), AT_ONCE):
        some = ModelVersionRow.id.in_(gone[start : start + AT_ONCE])
        db.execute(update(ModelVersionRow).where(some).values(current=False))
    if gone:
        _forget_oldest(db, agent_id, quota)


def _forget_oldest(db: Session, agent_id: str, quota: AgentQuota) -> None:
    """Of the versions that are no longer installed, the newest are remembered: so many, and so many bytes."""
    size = func.length(ModelVersionRow.details)
    query = select(ModelVersionRow.id, size).where(
        ModelVersionRow.agent_id == agent_id, ModelVersionRow.current.is_(False)
    )
    rows = db.execute(query.order_by(ModelVersionRow.last_seen.desc(), ModelVersionRow.id.desc())).all()
    total, kept = 0, 0
    for _, length in rows[: quota.model_versions]:
        total += length + ROW_BYTES
        if total > quota.model_bytes:
            break
        kept += 1
    forgotten = [row_id for row_id, _ in rows[kept:]]
    for start in range(0, len(forgotten), AT_ONCE):
        some = forgotten[start : start + AT_ONCE]
        db.execute(delete(ModelVersionRow).where(ModelVersionRow.id.in_(some)))


def versions(
    db: Session, *, agent_id: str | None = None, name: str | None = None, details: bool = True
) -> list[ModelVersion]:
    """See ``ServerStorage.versions``."""
    columns = [
        getattr(ModelVersionRow, field.name)
        for field in dataclasses.fields(ModelVersion)
        if field.name not in ("last_seen", "details")
    ]
    # a current model is there for as long as its agent is
    last_seen = case(
        (ModelVersionRow.current & (AgentRow.last_seen > ModelVersionRow.last_seen), AgentRow.last_seen),
        else_=ModelVersionRow.last_seen,
    ).label("last_seen")
    text = (ModelVersionRow.details if details else literal(b"", LargeBinary)).label("details")
    query = select(*columns, last_seen, text).join(AgentRow, AgentRow.id == ModelVersionRow.agent_id)
    query = query.order_by(
        ModelVersionRow.name, ModelVersionRow.agent_id, ModelVersionRow.first_seen, ModelVersionRow.id
    )
    if agent_id is not None:
        query = query.where(ModelVersionRow.agent_id == agent_id)
    if name is not None:
        query = query.where(ModelVersionRow.name == name)
    return [ModelVersion(**row) for row in db.execute(query).mappings()]


def save_inventory(db: Session, agent_id: str, fingerprint: str, inventory: msgspec.Raw, at: float) -> None:
    """See ``HubStorage.save_inventory``."""
    require(db, agent_id)
    db.merge(
        HardwareRow(agent_id=agent_id, fingerprint=fingerprint, inventory=bytes(inventory), updated_at=at)
    )


def hardware(db: Session, agent_id: str) -> Hardware | None:
    """See ``ServerStorage.hardware``."""
    row = db.get(HardwareRow, agent_id)
    if row is None:
        return None
    return from_row(Hardware, row, inventory=msgspec.Raw(row.inventory))
