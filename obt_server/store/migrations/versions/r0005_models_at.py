"""When an agent's list of models was stored last."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add it. Null for agents that are there: their next list is compared with nothing, as a first one is."""
    op.add_column("obt_agents", sa.Column("models_at", sa.Double))
