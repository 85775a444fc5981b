"""An index that keeps a job from having two accepted results; PostgreSQL begins here."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

# Where there are two, which no release made on SQLite, the one that the job names stays, else the first.
_SET_OTHERS_ASIDE = """
UPDATE obt_results SET accepted = 0 WHERE accepted AND id <> (
  SELECT coalesce(min(CASE WHEN one.sha256 = job.sha256 THEN one.id END), min(one.id))
  FROM obt_results AS one LEFT JOIN obt_jobs AS job ON job.agent_id = one.agent_id AND job.job_id = one.job_id
  WHERE one.agent_id = obt_results.agent_id AND one.job_id = obt_results.job_id AND one.accepted)
"""


def upgrade() -> None:
    """Make the index, and let releases of before refuse the database, which look at another table."""
    op.execute(_SET_OTHERS_ASIDE)
    op.create_index(
        "obt_results_accepted",
        "obt_results",
        ["agent_id", "job_id"],
        unique=True,
        sqlite_where=sa.text("accepted"),
        postgresql_where=sa.text("accepted"),
    )
    op.execute("UPDATE obt_schema SET version = 8")
