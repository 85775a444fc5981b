"""Versions of saved plans: what was the only plan of a name is its first version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from obt_server.saved_plans import hash_of

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Move the plans into the table of versions."""
    connection = op.get_bind()
    # A database of the first releases has no plans at all.
    if not sa.inspect(connection).has_table("obt_plans"):
        return
    names = "name", "version", "hash", "plan", "saved_at", "saved_by", "deleted"
    versions = sa.table("obt_plan_versions", *(sa.column(name) for name in names))
    for name, plan, saved_at in connection.exec_driver_sql(
        "SELECT name, plan, saved_at FROM obt_plans"
    ).all():
        first = {"name": name, "version": 1, "hash": hash_of(plan), "plan": plan, "saved_at": saved_at}
        connection.execute(sa.insert(versions).values(**first, saved_by="", deleted=False))
    op.drop_table("obt_plans")
