"""Labels of agents: the operators', and those of its own configuration."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns. SQLite adds one that may not be null only with a default, which the rows there get."""
    for name in ("labels", "own_labels"):
        op.add_column("obt_agents", sa.Column(name, sa.String, nullable=False, server_default="[]"))
