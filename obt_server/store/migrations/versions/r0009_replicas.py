"""What several server processes on one database know of each other."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from obt_server.store.column_types import PlainText, WholeNumber

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Make the tables, empty. An agent that is there has no replica: its next admission names one."""
    op.create_table(
        "obt_replicas",
        sa.Column("id", PlainText(64), primary_key=True),
        sa.Column("seen_at", sa.Double, nullable=False),
        sa.Column("beats", WholeNumber, nullable=False),
        sa.Column("left", sa.Boolean, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "obt_leases",
        sa.Column("name", PlainText(32), primary_key=True),
        sa.Column("holder", PlainText(64), nullable=False),
        sa.Column("epoch", WholeNumber, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.UniqueConstraint("name", "epoch"),
    )
    op.create_table(
        "obt_cluster",
        sa.Column("number", WholeNumber, primary_key=True, autoincrement=False),
        sa.Column("id", PlainText(32), nullable=False),
    )
    op.add_column("obt_agents", sa.Column("replica", PlainText(64)))
