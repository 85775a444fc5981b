"""An index by which an agent's models are found."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the index."""
    op.create_index(
        "obt_versions_of_agent",
        "obt_model_versions",
        ["agent_id", "current", "last_seen"],
        if_not_exists=True,
    )
