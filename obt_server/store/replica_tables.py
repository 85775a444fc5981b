"""The tables by which several server processes (replicas) on one database know each other.

What they hold is of this database alone: a copy begins without it.
"""

from __future__ import annotations

from sqlalchemy import LargeBinary, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from obt_server.store.column_types import PlainText
from obt_server.store.tables import Table


class ReplicaRow(Table):
    """A replica. ``beats`` counts how often it said that it runs, ``seen_at`` is when it did so last.

    ``state`` is what it says of itself, as JSON.
    """

    __tablename__ = "obt_replicas"
    id: Mapped[str] = mapped_column(PlainText(64), primary_key=True)
    seen_at: Mapped[float]
    beats: Mapped[int]
    left: Mapped[bool]
    state: Mapped[bytes] = mapped_column(LargeBinary)


class LeaseRow(Table):
    """Who may do what one alone does. ``epoch`` grows each time that it is given."""

    __tablename__ = "obt_leases"
    # Makes the epoch a part of a key for PostgreSQL: a lock that keeps keys as they are (FOR KEY SHARE) holds
    # up a change of the epoch, and not a renewal.
    __table_args__ = (UniqueConstraint("name", "epoch"),)
    name: Mapped[str] = mapped_column(PlainText(32), primary_key=True)
    holder: Mapped[str] = mapped_column(PlainText(64))
    epoch: Mapped[int]
    expires_at: Mapped[float]


class ClusterRow(Table):
    """One row: a random id, under which the replicas of this database meet elsewhere."""

    __tablename__ = "obt_cluster"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    id: Mapped[str] = mapped_column(PlainText(32))
