"""A whole database copied from SQLite into an empty one on PostgreSQL, in one transaction there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Table, func, insert, select, text

from obt_server.store import copies, postgresql
from obt_server.store.column_types import NulInText
from obt_server.store.copies import CopyFailed
from obt_server.store.postgresql import postgresql_engine
from obt_server.store.replica_tables import ClusterRow, LeaseRow, ReplicaRow
from obt_server.store.schema import TABLES, bring_up_to_date
from obt_server.store.sqlite import sqlite_engine
from obt_server.store.tables import SCHEMA_VERSION, AgentRow, Revision, Schema

ROWS_AT_ONCE: Final = 500
BYTES_AT_ONCE: Final = 8 << 20
"""Of one statement, unless one row has more."""
_OWN: Final = {one.__tablename__ for one in (Revision, Schema, ReplicaRow, LeaseRow, ClusterRow)}
COPIED: Final = [one for one in TABLES if one.name not in _OWN]
"""The tables with content; the target has its own version, and its own server processes."""
_RESET: Final[Mapping[str, Mapping[str, Any]]] = {AgentRow.__tablename__: {"replica": None}}
"""By table: what a copied row has instead, for the same reason."""


def copy_to_postgresql(source: Path, target: URL) -> dict[str, int]:
    """Copy everything; return by table how many rows there are. Nobody may use the source meanwhile.

    Raises:
        CopyFailed: the source is no database of this release's schema, or the target is not empty; then the
            target holds what it held, and new empty tables at most.
        DatabaseInUse: a server or a command has the source open.
        DatabaseUnavailable: the target does not answer.
    """
    found = copies.schema_of(source)
    if found is None:
        raise CopyFailed(f"{source} is no database of obt-server")
    if found != SCHEMA_VERSION:
        raise CopyFailed(
            f"{source} has schema {found}, and {SCHEMA_VERSION} is needed: obt-server migrate first"
        )
    with copies.exclusive(source):
        reading, writing = sqlite_engine(f"sqlite:///{source}"), postgresql_engine(target)
        try:
            postgresql.answered(bring_up_to_date, writing, upgrade=False)
            level = writing.execution_options(isolation_level="READ COMMITTED")
            with reading.connect() as old, level.begin() as new:
                _empty_and_locked(new)
                # A table at a time, each behind those that it refers to.
                return {table.name: _copy(old, new, table) for table in COPIED}
        finally:
            reading.dispose()
            writing.dispose()


def _empty_and_locked(new: Connection) -> None:
    """Keep everybody else from writing until the end. Raise CopyFailed where somebody has written."""
    names = ", ".join(table.name for table in COPIED)
    # A large table may take longer than the server lets a statement take.
    new.execute(text("SET LOCAL statement_timeout = 0"))
    new.execute(text(f"LOCK TABLE {names} IN EXCLUSIVE MODE"))
    for table in COPIED:
        count = new.scalar(select(func.count()).select_from(table))
        if count:
            raise CopyFailed(
                f"the target is not empty: {table.name} has {count} rows; name an empty database"
            )


def _copy(old: Connection, new: Connection, table: Table) -> int:
    try:
        for rows in _batches(old, table):
            new.execute(insert(table), rows)
    except NulInText as error:
        raise CopyFailed(
            f"a row of {table.name} has a text with a NUL character, which PostgreSQL's has not"
        ) from error
    _continue_numbers(old, new, table)
    counts = [one.scalar(select(func.count()).select_from(table)) or 0 for one in (old, new)]
    if counts[0] != counts[1]:
        raise CopyFailed(f"{table.name} has {counts[0]} rows, and {counts[1]} arrived; nothing was copied")
    return counts[1]


def _batches(old: Connection, table: Table) -> Iterator[Sequence[Mapping[str, Any]]]:
    """Yield the rows of a table, some at a time: results may be larger than the memory."""
    rows: list[Mapping[str, Any]] = []
    size = 0
    found = old.execution_options(yield_per=ROWS_AT_ONCE).execute(select(table))
    for row in found.mappings():
        rows.append({**row, **_RESET.get(table.name, {})})
        size += sum(len(value) for value in row.values() if isinstance(value, bytes))
        if len(rows) >= ROWS_AT_ONCE or size >= BYTES_AT_ONCE:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _continue_numbers(old: Connection, new: Connection, table: Table) -> None:
    """Let the numbers of new rows go on behind those that were given."""
    column = table.autoincrement_column
    if column is None:
        return
    last = old.scalar(select(func.max(column))) or 0
    if table.dialect_options["sqlite"]["autoincrement"]:
        # Some numbers are never given again, not even those of rows that are gone.
        given = old.scalar(text("SELECT seq FROM sqlite_sequence WHERE name = :name"), {"name": table.name})
        last = max(last, given or 0)
    sequence = func.pg_get_serial_sequence(table.name, column.name)
    if last and new.scalar(select(sequence)) is not None:
        new.execute(select(func.setval(sequence, last)))
