"""Join tokens: made by operators, used once."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from obt_server.hub.storage import AgentRecord
from obt_server.storage import Enrolment, JoinRefused, JoinToken, NotStored
from obt_server.store import agents, credentials
from obt_server.store.database import from_row
from obt_server.store.tables import JoinPinRow, JoinTokenRow


def create(
    db: Session, sha256: str, *, note: str, agent_id: str | None, at: float, expires_at: float
) -> JoinToken:
    """See ``ServerStorage.create_join_token``."""
    row = JoinTokenRow(sha256=sha256, note=note, agent_id=agent_id, created_at=at, expires_at=expires_at)
    db.add(row)
    db.flush()
    return from_row(JoinToken, row)


def everything(db: Session) -> list[JoinToken]:
    """All join tokens."""
    return [
        from_row(JoinToken, row) for row in db.scalars(select(JoinTokenRow).order_by(JoinTokenRow.id.desc()))
    ]


def of_secret(db: Session, sha256: str) -> JoinToken | None:
    """The join token whose secret has that hash."""
    row = db.scalar(select(JoinTokenRow).where(JoinTokenRow.sha256 == sha256))
    return None if row is None else from_row(JoinToken, row)


def revoke(db: Session, token_id: int, at: float) -> None:
    """Make one useless."""
    row = db.get(JoinTokenRow, token_id)
    if row is None:
        raise NotStored(f"There is no join token {token_id}.")
    # The first revocation counts: it says when the token became useless.
    row.revoked_at = row.revoked_at or at


def pins(db: Session) -> tuple[str, ...]:
    """The pins that join tokens name."""
    return tuple(db.scalars(select(JoinPinRow.pin).order_by(JoinPinRow.position)))


def keep_pins(db: Session, named: Sequence[str]) -> None:
    """Replace them."""
    db.execute(delete(JoinPinRow))
    db.add_all(JoinPinRow(position=position, pin=pin) for position, pin in enumerate(named))


def enroll(db: Session, token_sha256: str, enrolment: Enrolment, at: float) -> AgentRecord:
    """See ``ServerStorage.enroll``."""
    row = db.scalar(select(JoinTokenRow).where(JoinTokenRow.sha256 == token_sha256))
    if row is None:
        raise JoinRefused(
            "This join token is not known here. Make one with: obt-server tokens join", reason="unknown"
        )
    # Used comes before revoked and expired: the lost answer of an enrolment that worked is still given.
    if row.used_at is not None:
        return _repeat(db, row, enrolment)
    if row.revoked_at is not None:
        raise JoinRefused("This join token was revoked.", reason="revoked")
    if row.expires_at <= at:
        raise JoinRefused("This join token has expired; make a new one.", reason="expired")
    if row.agent_id is not None and row.agent_id != enrolment.agent_id:
        raise JoinRefused("This join token is for another agent.", reason="other_agent")
    agent = credentials.enrol(db, enrolment, at, retake=row.agent_id is not None)
    # In one transaction with the credential: a token is never used up without an agent that can dial. Asked
    # again in the statement itself, so that not even a lower isolation lets two use it.
    used = {"used_at": at, "used_by": enrolment.agent_id, "used_secret_sha256": enrolment.secret_sha256}
    unused = update(JoinTokenRow).where(JoinTokenRow.id == row.id, JoinTokenRow.used_at.is_(None))
    if db.execute(unused.values(used).returning(JoinTokenRow.id)).first() is None:
        raise _used()
    return agent


def _repeat(db: Session, row: JoinTokenRow, enrolment: Enrolment) -> AgentRecord:
    """The answer was lost, and the agent asks again with the same secret: the same answer again."""
    same = (row.used_by, row.used_secret_sha256) == (enrolment.agent_id, enrolment.secret_sha256)
    agent = agents.get(db, enrolment.agent_id)
    if not same or agent is None:
        raise _used()
    return agent


def _used() -> JoinRefused:
    return JoinRefused("This join token was used already; make a new one.", reason="used")
