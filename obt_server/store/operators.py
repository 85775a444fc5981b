"""Operators, their sign-ins, and API tokens. Passwords come and go as scrypt hashes, tokens as sha256."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from obt_server.storage import NotStored
from obt_server.store.database import Database
from obt_server.store.tables import ApiTokenRow, OperatorRow, SignInRow


@dataclass(frozen=True, kw_only=True)
class ApiToken:
    """An API token, without its secret."""

    id: int
    name: str
    operator: str
    created_at: float
    expires_at: float | None
    last_used_at: float | None


class OperatorStore:
    """Who may drive the machines.

    Args:
        database: where it is kept.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    async def names(self) -> list[str]:
        """All operators."""
        return await self._db.run(
            lambda db: list(db.scalars(select(OperatorRow.name).order_by(OperatorRow.name)))
        )

    async def password(self, name: str) -> str | None:
        """The scrypt hash of an operator's password."""
        return await self._db.run(
            lambda db: db.scalar(select(OperatorRow.password).where(OperatorRow.name == name))
        )

    async def set_password(self, name: str, password_hash: str, at: float) -> None:
        """Make an operator, or change a password; sign-ins of that operator end."""
        await self._db.run(_set_password, name, password_hash, at)

    async def create_first(self, name: str, password_hash: str, at: float) -> bool:
        """Make an operator if there is none at all; whether it was made."""
        return await self._db.run(_create_first, name, password_hash, at)

    async def remove(self, name: str) -> None:
        """Forget an operator, with sign-ins and API tokens. Raises NotStored."""
        await self._db.run(_remove, name)

    async def add_sign_in(self, sha256: str, operator: str, at: float, expires_at: float) -> None:
        """Remember a browser; expired ones are forgotten meanwhile."""
        await self._db.run(_add_sign_in, sha256, operator, at, expires_at)

    async def sign_in(self, sha256: str, at: float) -> str | None:
        """The operator of that sign-in, if it is valid."""
        query = select(SignInRow.operator).where(SignInRow.sha256 == sha256, SignInRow.expires_at > at)
        return await self._db.run(lambda db: db.scalar(query))

    async def remove_sign_in(self, sha256: str) -> None:
        """Sign out."""
        await self._db.run(
            lambda db: _nothing(db.execute(delete(SignInRow).where(SignInRow.sha256 == sha256)))
        )

    async def add_token(
        self, sha256: str, *, name: str, operator: str, at: float, expires_at: float | None
    ) -> ApiToken:
        """Store an API token by its hash. Raises NotStored where there is no such operator."""
        return await self._db.run(
            _add_token, sha256, name=name, operator=operator, at=at, expires_at=expires_at
        )

    async def tokens(self) -> list[ApiToken]:
        """All API tokens."""
        return await self._db.run(
            lambda db: [_token(row) for row in db.scalars(select(ApiTokenRow).order_by(ApiTokenRow.id))]
        )

    async def token_operator(self, sha256: str, at: float) -> str | None:
        """Whose API token that is, if it is valid; notes its use."""
        return await self._db.run(_token_operator, sha256, at)

    async def revoke_token(self, token_id: int) -> None:
        """Forget an API token. Raises NotStored."""
        await self._db.run(_revoke_token, token_id)


def _nothing(_: object) -> None:
    return None


def _set_password(db: Session, name: str, password_hash: str, at: float) -> None:
    row = db.get(OperatorRow, name)
    if row is None:
        db.add(OperatorRow(name=name, password=password_hash, created_at=at))
        return
    row.password = password_hash
    db.execute(delete(SignInRow).where(SignInRow.operator == name))


def _create_first(db: Session, name: str, password_hash: str, at: float) -> bool:
    if db.scalar(select(func.count()).select_from(OperatorRow)):
        return False
    db.add(OperatorRow(name=name, password=password_hash, created_at=at))
    return True


def _remove(db: Session, name: str) -> None:
    row = db.get(OperatorRow, name)
    if row is None:
        raise NotStored(f"There is no operator {name[:64]!r}.")
    db.delete(row)


def _add_sign_in(db: Session, sha256: str, operator: str, at: float, expires_at: float) -> None:
    db.execute(delete(SignInRow).where(SignInRow.expires_at <= at))
    db.add(SignInRow(sha256=sha256, operator=operator, created_at=at, expires_at=expires_at))


def _token(row: ApiTokenRow) -> ApiToken:
    return ApiToken(
        id=row.id,
        name=row.name,
        operator=row.operator,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
    )


def _add_token(
    db: Session, sha256: str, *, name: str, operator: str, at: float, expires_at: float | None
) -> ApiToken:
    if db.get(OperatorRow, operator) is None:
        raise NotStored(f"There is no operator {operator[:64]!r}.")
    row = ApiTokenRow(sha256=sha256, name=name, operator=operator, created_at=at, expires_at=expires_at)
    db.add(row)
    db.flush()
    return _token(row)


def _token_operator(db: Session, sha256: str, at: float) -> str | None:
    row = db.scalar(select(ApiTokenRow).where(ApiTokenRow.sha256 == sha256))
    if row is None or (row.expires_at is not None and row.expires_at <= at):
        return None
    if row.last_used_at is None or at - row.last_used_at > 60.0:  # noqa: PLR2004 -- not a write for each request
        row.last_used_at = at
    return row.operator


def _revoke_token(db: Session, token_id: int) -> None:
    row = db.get(ApiTokenRow, token_id)
    if row is None:
        raise NotStored(f"There is no API token {token_id}.")
    db.delete(row)
