"""Scopes of API tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the columns. A token that is there was made to do what its operator may do, and stays so."""
    columns = (
        sa.Column("scope", sa.String(16), nullable=False, server_default="operator"),
        sa.Column("machines", sa.String, nullable=False, server_default="[]"),
        sa.Column("models", sa.String, nullable=False, server_default="[]"),
    )
    for column in columns:
        op.add_column("obt_api_tokens", column)
