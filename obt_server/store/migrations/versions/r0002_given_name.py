"""Names that operators give to agents."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column."""
    op.add_column("obt_agents", sa.Column("given_name", sa.String(200)))
