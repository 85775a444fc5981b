"""The first schema, which the releases of then made themselves."""

from __future__ import annotations

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Nothing: a new database is made with the tables of now, and one of then has these."""
