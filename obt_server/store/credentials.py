"""Credentials of agents and their enrolment, as functions of an open session."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.orm import Session

from obt_server.hub.storage import AgentRecord, StoredCredential
from obt_server.storage import CredentialInfo, Enrolment, IdentityTaken
from obt_server.store.agents import free_name, record, require
from obt_server.store.database import from_row
from obt_server.store.tables import AgentRow, CredentialRow, FormerAgentRow

CREDENTIAL: Final = select(CredentialRow.id, CredentialRow.agent_id, CredentialRow.state).where(
    CredentialRow.sha256 == bindparam("sha256")
)
"""See ``HubStorage.credential``."""


def stored(row: tuple[Any, ...]) -> StoredCredential:
    """Return a row of ``CREDENTIAL``."""
    number, agent_id, state = row
    return StoredCredential(id=number, agent_id=agent_id, state=state)


def revoked(db: Session, credential_ids: Sequence[int]) -> list[int]:
    """See ``HubStorage.revoked``."""
    if not credential_ids:
        return []
    # All that are still good: one that was deleted with its agent is found revoked this way too, and a
    # statement that names each of thousands costs several times what their numbers do.
    good = set(db.scalars(select(CredentialRow.id).where(CredentialRow.state != "revoked")))
    return [one for one in credential_ids if one not in good]


def promote(db: Session, credential_id: int) -> None:
    """See ``HubStorage.promote``. What it replaces is deleted: it was never revoked, only used up."""
    row = db.get(CredentialRow, credential_id)
    # Revoked between the hello and here: the revocation holds, and ends the session in a moment.
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


def add_candidate(db: Session, credential_id: int, sha256: str) -> bool:
    """See ``HubStorage.add_candidate``."""
    followed = db.get(CredentialRow, credential_id)
    # Revoked while the agent made the next one: that would let in again who was locked out.
    if followed is None or followed.state == "revoked":
        return False
    agent_id = followed.agent_id
    agent = require(db, agent_id)
    # The wish is granted in the same transaction: a crash between the two would rotate again and again.
    agent.rotation_requested_at = None
    db.execute(
        delete(CredentialRow).where(CredentialRow.agent_id == agent_id, CredentialRow.state == "candidate")
    )
    # A repeated answer, or an agent that names the credential that it has: there is nothing to add.
    if db.scalar(select(CredentialRow.id).where(CredentialRow.sha256 == sha256)) is None:
        db.add(CredentialRow(agent_id=agent_id, sha256=sha256, state="candidate", created_at=time.time()))
    return True


def rotations_due(db: Session) -> list[str]:
    """See ``HubStorage.rotations_due``."""
    return list(db.scalars(select(AgentRow.id).where(AgentRow.rotation_requested_at.is_not(None))))


def request_rotation(db: Session, agent_id: str, at: float) -> None:
    """Note the wish."""
    require(db, agent_id).rotation_requested_at = at


def revoke(db: Session, agent_id: str, at: float) -> int:
    """See ``ServerStorage.revoke_credentials``."""
    del at  # another storage may keep when it was
    # A rotation that is still wished for would give the agent that is locked out a new credential.
    require(db, agent_id).rotation_requested_at = None
    result = db.execute(
        update(CredentialRow)
        .where(CredentialRow.agent_id == agent_id, CredentialRow.state != "revoked")
        .values(state="revoked")
        # Counted by what comes back: not every driver knows how many rows an update changed.
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
    # A join token for anybody must not be a way to take over an agent that works.
    if row is not None and not retake and _has_valid_credential(db, row.id):
        raise IdentityTaken(
            "An agent of this id is enrolled already. Revoke its credential first, or make a join token for "
            "this agent alone."
        )
    # Before the row is there: its own name would count as taken.
    name = free_name(db, enrolment.name, enrolment.agent_id)
    if row is None:
        row = AgentRow(id=enrolment.agent_id, enrolled_at=at, session=_last_session(db, enrolment.agent_id))
        db.add(row)
    if row.given_name is None:
        row.name = name
    row.version = enrolment.version
    db.flush()
    # Revoked ones go too: the agent is enrolled anew, and a refusal of an old secret says as much.
    db.execute(delete(CredentialRow).where(CredentialRow.agent_id == row.id))
    if db.scalar(select(CredentialRow.id).where(CredentialRow.sha256 == enrolment.secret_sha256)) is not None:
        raise IdentityTaken("This secret belongs to another agent; make a new one.")
    db.add(CredentialRow(agent_id=row.id, sha256=enrolment.secret_sha256, state="current", created_at=at))
    db.flush()
    return record(row)


def _last_session(db: Session, agent_id: str) -> int:
    """Return the number of the last session of an agent that was deleted, and forget it; 0 for a new one."""
    ended = delete(FormerAgentRow).where(FormerAgentRow.id == agent_id).returning(FormerAgentRow.session)
    return db.scalar(ended) or 0


def _has_valid_credential(db: Session, agent_id: str) -> bool:
    query = select(CredentialRow.id).where(
        CredentialRow.agent_id == agent_id, CredentialRow.state != "revoked"
    )
    return db.scalar(query.limit(1)) is not None
