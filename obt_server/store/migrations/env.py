"""Alembic runs this for each of its commands: on the connection of whoever called it, in its transaction."""

from __future__ import annotations

from alembic import context

from obt_server.store.tables import REVISION_TABLE, Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    version_table=REVISION_TABLE,
    render_as_batch=True,  # SQLite alters a table by making it anew
)
context.run_migrations()
