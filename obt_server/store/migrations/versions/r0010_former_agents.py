"""The last session of each agent that was deleted: one that enrols again goes on from there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from obt_server.store.column_types import PlainText, WholeNumber

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Make the table, empty: of agents that were deleted before nothing is known."""
    op.create_table(
        "obt_former_agents",
        sa.Column("id", PlainText(64), primary_key=True),
        sa.Column("session", WholeNumber, nullable=False),
    )
