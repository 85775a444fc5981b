"""Operators, their sign-ins, and API tokens. Passwords come and go as scrypt hashes, tokens as sha256."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from obt_server.storage import NotStored
from obt_server.store.database import Database, Stored, from_row, query, transaction
from obt_server.store.operator_tables import ApiTokenRow, OperatorRow, SignInAddressRow, SignInRow
from obt_server.store.shared_reads import SharedReads

_USE_STORED_EVERY_S: Final = 60.0
"""Of an API token: a program that asks every second must not make a write of each request."""

_VALID_S: Final = 1.0
"""For which a token or a sign-in that was found valid is taken as valid, when another process revokes it."""

_ADDRESSES_KEPT: Final = 64
"""Of an operator's sign-ins: laptops move."""


Scope = Literal["operator", "inference", "metrics"]
"""What a token is for: all that its operator may do, the gateway alone, or ``/metrics`` alone."""


@dataclass(frozen=True, kw_only=True)
class ApiToken:
    """An API token, without its secret.

    One of scope ``inference`` is for ``machines`` (ids, ``@label``, ``*``) and ``models`` (patterns).
    """

    id: int
    name: str
    operator: str
    created_at: float
    expires_at: float | None
    last_used_at: float | None
    scope: Scope = "operator"
    machines: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


def _names(db: Session) -> list[str]:
    """Return the names of all operators."""
    return list(db.scalars(select(OperatorRow.name).order_by(OperatorRow.name)))


def _password(db: Session, name: str) -> str | None:
    """Return the scrypt hash of an operator's password."""
    return db.scalar(select(OperatorRow.password).where(OperatorRow.name == name))


def _sign_in(db: Session, sha256: str, at: float) -> str | None:
    """Return the operator of that sign-in, if it is valid."""
    return db.scalar(select(SignInRow.operator).where(SignInRow.sha256 == sha256, SignInRow.expires_at > at))


def _remove_sign_in(db: Session, sha256: str) -> None:
    """Sign out."""
    db.execute(delete(SignInRow).where(SignInRow.sha256 == sha256))


def _tokens(db: Session) -> list[ApiToken]:
    """Return all API tokens."""
    return [_token(row) for row in db.scalars(select(ApiTokenRow).order_by(ApiTokenRow.id))]


def _token(row: ApiTokenRow) -> ApiToken:
    machines, models = tuple(json.loads(row.machines)), tuple(json.loads(row.models))
    return from_row(ApiToken, row, machines=machines, models=models)


def _set_password(db: Session, name: str, password_hash: str, at: float) -> None:
    """Make an operator, or change a password; sign-ins of that operator end."""
    row = db.get(OperatorRow, name)
    if row is None:
        db.add(OperatorRow(name=name, password=password_hash, created_at=at))
        return
    row.password = password_hash
    # Whoever changes a password because somebody knows it must not leave that one signed in.
    db.execute(delete(SignInRow).where(SignInRow.operator == name))


def _create_first(db: Session, name: str, password_hash: str, at: float) -> bool:
    """Make an operator if there is none at all; return whether it was made."""
    # Asked inside the transaction: two servers that start on one new database make one operator.
    if db.scalar(select(func.count()).select_from(OperatorRow)):
        return False
    db.add(OperatorRow(name=name, password=password_hash, created_at=at))
    return True


def _remove(db: Session, name: str) -> None:
    """Forget an operator, with sign-ins and API tokens. Raise NotStored."""
    row = db.get(OperatorRow, name)
    if row is None:
        raise NotStored(f"There is no operator {name[:64]!r}.")
    db.delete(row)


def _add_sign_in(
    db: Session, sha256: str, operator: str, at: float, expires_at: float, address: str = ""
) -> None:
    """Remember a browser, and where it was; expired ones are forgotten meanwhile."""
    # Here and nowhere else: a table that grows by one a sign-in shrinks often enough this way.
    db.execute(delete(SignInRow).where(SignInRow.expires_at <= at))
    db.add(SignInRow(sha256=sha256, operator=operator, created_at=at, expires_at=expires_at))
    db.merge(SignInAddressRow(operator=operator, address=address, last_at=at))
    db.flush()
    mine = SignInAddressRow.operator == operator
    newest = select(SignInAddressRow.address).where(mine).order_by(SignInAddressRow.last_at.desc())
    # Bounded: whoever has the password of an operator may come from as many addresses as they like.
    kept = list(db.scalars(newest.limit(_ADDRESSES_KEPT)))
    db.execute(delete(SignInAddressRow).where(mine, SignInAddressRow.address.not_in(kept)))


def _signed_in_from(db: Session, operator: str, address: str) -> bool:
    """Return whether the operator signed in from that address before."""
    return db.get(SignInAddressRow, (operator, address)) is not None


def _add_token(  # noqa: PLR0913 - what a token is, by name
    db: Session,
    sha256: str,
    *,
    name: str,
    operator: str,
    at: float,
    expires_at: float | None,
    scope: Scope = "operator",
    grant: tuple[Sequence[str], Sequence[str]] | None = None,
) -> ApiToken:
    """Store an API token by its hash; ``grant`` has the machines and models of one of scope ``inference``.

    Raise NotStored where there is no such operator.
    """
    if db.get(OperatorRow, operator) is None:
        raise NotStored(f"There is no operator {operator[:64]!r}.")
    row = ApiTokenRow(sha256=sha256, name=name, operator=operator, created_at=at, expires_at=expires_at)
    row.scope = scope
    row.machines, row.models = (json.dumps(list(limit)) for limit in grant or ((), ()))
    db.add(row)
    db.flush()
    return _token(row)


def _valid_token(db: Session, sha256: str, at: float) -> ApiToken | None:
    """Return the API token of that hash, if it is valid."""
    row = db.scalar(select(ApiTokenRow).where(ApiTokenRow.sha256 == sha256))
    # Expired ones stay in the list, where an operator sees why a program fails.
    if row is None or (row.expires_at is not None and row.expires_at <= at):
        return None
    return _token(row)


def _note_use(db: Session, sha256: str, at: float) -> None:
    db.execute(update(ApiTokenRow).where(ApiTokenRow.sha256 == sha256).values(last_used_at=at))


def _revoke_token(db: Session, token_id: int) -> None:
    """Forget an API token. Raise NotStored."""
    row = db.get(ApiTokenRow, token_id)
    if row is None:
        raise NotStored(f"There is no API token {token_id}.")
    db.delete(row)


class OperatorStore(Stored):
    """Who may drive the machines. Each method is one transaction, described at the function that it runs."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        # by hash of a valid token: whose use this process stores already; many requests may come at once
        self._noted: dict[str, float] = {}
        # Open pages and programs are looked at anew every few seconds, all at once and mostly of few people.
        # For a moment it is kept, too: under load a look-up takes longer than most of what is asked for.
        self._sign_ins = SharedReads(self._valid_sign_in, _VALID_S)
        self._tokens_in_use = SharedReads(self._read_token, _VALID_S)

    names = query(_names)
    password = query(_password)
    _set_password = transaction(_set_password)
    create_first = transaction(_create_first)
    _remove = transaction(_remove)
    add_sign_in = transaction(_add_sign_in)
    _valid_sign_in = query(_sign_in)
    _read_token = query(_valid_token)
    signed_in_from = query(_signed_in_from)
    _remove_sign_in = transaction(_remove_sign_in)
    add_token = transaction(_add_token)
    tokens = query(_tokens)
    _revoke_token = transaction(_revoke_token)

    async def set_password(self, name: str, password_hash: str, at: float) -> None:
        """Make an operator, or change a password; sign-ins of that operator end at once."""
        await self._set_password(name, password_hash, at)
        self._forget()

    async def remove(self, name: str) -> None:
        """Forget an operator, with sign-ins and API tokens. Raise NotStored."""
        await self._remove(name)
        self._forget()

    async def remove_sign_in(self, sha256: str) -> None:
        """Sign out."""
        await self._remove_sign_in(sha256)
        self._forget()

    async def revoke_token(self, token_id: int) -> None:
        """Forget an API token. Raise NotStored."""
        await self._revoke_token(token_id)
        self._forget()

    def _forget(self) -> None:
        # After the commit: a read that began before it is not kept, whenever it ends.
        self._sign_ins.forget()
        self._tokens_in_use.forget()

    async def sign_in(self, sha256: str, at: float) -> str | None:
        """Return who signed in with that cookie, if it is valid."""
        return await self._sign_ins.get(sha256, at)

    async def valid_token(self, sha256: str, at: float) -> ApiToken | None:
        """Return the API token of that hash, if it is valid; note its use."""
        token = await self._tokens_in_use.get(sha256, at)
        if token is None:
            return None
        noted = token.last_used_at is not None and at - token.last_used_at <= _USE_STORED_EVERY_S
        # Noted here before it is stored, so that requests that come together make one write.
        if not noted and at - self._noted.get(sha256, 0.0) > _USE_STORED_EVERY_S:
            self._noted[sha256] = at
            # Not awaited: a token is as good while the writer is busy, or the file locked by another process.
            self._db.run_later(_note_use, sha256, at)
        return token
