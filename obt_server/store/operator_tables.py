"""The tables of operators, their sign-ins and API tokens."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from obt_server.store.column_types import PlainText
from obt_server.store.tables import Table


class OperatorRow(Table):
    """Somebody who may sign in."""

    __tablename__ = "obt_operators"
    name: Mapped[str] = mapped_column(PlainText(64), primary_key=True)
    password: Mapped[str]
    created_at: Mapped[float]


class SignInRow(Table):
    """A signed-in browser."""

    __tablename__ = "obt_sign_ins"
    sha256: Mapped[str] = mapped_column(PlainText(64), primary_key=True)
    operator: Mapped[str] = mapped_column(ForeignKey(OperatorRow.name, ondelete="CASCADE"))
    created_at: Mapped[float]
    expires_at: Mapped[float] = mapped_column(index=True)


class SignInAddressRow(Table):
    """An address (IPv6: its /64) from which an operator signed in."""

    __tablename__ = "obt_sign_in_addresses"
    operator: Mapped[str] = mapped_column(ForeignKey(OperatorRow.name, ondelete="CASCADE"), primary_key=True)
    address: Mapped[str] = mapped_column(PlainText(64), primary_key=True)
    last_at: Mapped[float]


class ApiTokenRow(Table):
    """A program's permission to use the interface, or of scope ``inference`` the gateway.

    ``machines`` and ``models``, which only the latter has, are lists as JSON.
    """

    __tablename__ = "obt_api_tokens"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    sha256: Mapped[str] = mapped_column(PlainText(64), unique=True)
    name: Mapped[str] = mapped_column(PlainText(200))
    operator: Mapped[str] = mapped_column(ForeignKey(OperatorRow.name, ondelete="CASCADE"))
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    last_used_at: Mapped[float | None]
    scope: Mapped[str] = mapped_column(PlainText(16), default="operator")
    machines: Mapped[str] = mapped_column(default="[]")
    models: Mapped[str] = mapped_column(default="[]")
