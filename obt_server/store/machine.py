"""What agents report of their machines: models and hardware, as functions of an open session."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from sqlalchemy import LargeBinary, case, delete, func, insert, literal, select, tuple_, update
from sqlalchemy.orm import Session

from obt_agent.ollama.payloads import InstalledModel
from obt_server.storage import Hardware, ModelVersion
from obt_server.store import model_changes
from obt_server.store.agents import require
from obt_server.store.database import AT_ONCE, from_row
from obt_server.store.quota import ROW_BYTES, AgentQuota
from obt_server.store.tables import AgentRow, HardwareRow, ModelVersionRow


def save_models(
    db: Session, agent_id: str, models: Sequence[InstalledModel], at: float, quota: AgentQuota
) -> None:
    """Store some models of an agent's list. Only what the list changes is read and written."""
    agent = require(db, agent_id)
    # Looked up by what came, a piece of a list: never more than AT_ONCE rows, however many are remembered.
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
        # Unchanged rows stay unwritten: a list of ten thousand that is sent again costs one read.
        elif not found.current or found.details != values["details"]:
            changed.append({"id": found.id} | values)
    there = {key for key, row in known.items() if row.current}
    arrived = [model for model in models if (model.name, model.digest) not in there]
    # What the first list of all has was there before.
    if arrived and agent.models_at is not None:
        before = _digests_now(db, agent_id, [model.name for model in arrived])
        changes = {model.name: (before.get(model.name), model.digest) for model in arrived}
        model_changes.add(db, agent_id, changes, at, quota.model_changes)
    if new:
        db.execute(insert(ModelVersionRow), new)
    if changed:
        db.execute(update(ModelVersionRow), changed)


def _digests_now(db: Session, agent_id: str, names: Sequence[str]) -> dict[str, str]:
    """Return the digests of some names, as the last list had them."""
    query = select(ModelVersionRow.name, ModelVersionRow.digest).where(
        ModelVersionRow.agent_id == agent_id, ModelVersionRow.current, ModelVersionRow.name.in_(names)
    )
    return {row.name: row.digest for row in db.execute(query)}


def save_last_models(
    db: Session,
    agent_id: str,
    models: Sequence[InstalledModel],
    keys: Collection[tuple[str, str]],
    at: float,
    quota: AgentQuota,
) -> None:
    """Store the last piece of a list; what is not among its ``keys`` (name, digest) is not installed."""
    save_models(db, agent_id, models, at, quota)
    # What is gone is worked out here and not in SQL: the keys may be more than a statement has parameters.
    mine = ModelVersionRow.agent_id == agent_id, ModelVersionRow.current
    columns = ModelVersionRow.id, ModelVersionRow.name, ModelVersionRow.digest
    left = [row for row in db.execute(select(*columns).where(*mine)) if (row.name, row.digest) not in keys]
    gone = [row.id for row in left]
    names = {name for name, _ in keys}
    # A name that is still there has another digest now, which was noted when that came.
    deleted = {row.name: (row.digest, None) for row in left if row.name not in names}
    model_changes.add(db, agent_id, deleted, at, quota.model_changes)
    require(db, agent_id).models_at = at
    for start in range(0, len(gone), AT_ONCE):
        some = ModelVersionRow.id.in_(gone[start : start + AT_ONCE])
        db.execute(update(ModelVersionRow).where(some).values(current=False))
    # Only then is there more to remember than before.
    if gone:
        _forget_oldest(db, agent_id, quota)


def _forget_oldest(db: Session, agent_id: str, quota: AgentQuota) -> None:
    """Of the versions that are no longer installed, the newest are remembered: so many, and so many bytes."""
    size = func.length(ModelVersionRow.details)
    query = select(ModelVersionRow.id, size).where(
        ModelVersionRow.agent_id == agent_id, ModelVersionRow.current.is_(False)
    )
    # The id decides between those that went at once, so that the same ones go on every database.
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
    # A current model is there for as long as its agent is
    last_seen = case(
        (ModelVersionRow.current & (AgentRow.last_seen > ModelVersionRow.last_seen), AgentRow.last_seen),
        else_=ModelVersionRow.last_seen,
    ).label("last_seen")
    # Details are by far the most of a row, and lists over all machines do not show them.
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


def save_inventory(db: Session, agent_id: str, fingerprint: str, inventory: bytes, at: float) -> None:
    """See ``HubStorage.save_inventory``."""
    require(db, agent_id)
    db.merge(HardwareRow(agent_id=agent_id, fingerprint=fingerprint, inventory=inventory, updated_at=at))


def hardware(db: Session, agent_id: str) -> Hardware | None:
    """See ``ServerStorage.hardware``."""
    row = db.get(HardwareRow, agent_id)
    if row is None:
        return None
    return from_row(Hardware, row)
