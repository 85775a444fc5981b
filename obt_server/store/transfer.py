"""A whole database copied from SQLite into an empty one on PostgreSQL, in one transaction there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, LargeBinary, Table, func, insert, select, text
from sqlalchemy.exc import DBAPIError

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
_LOCKED: Final = "55P03"
"""SQLSTATE of a lock that was not free in time."""
_OWN: Final = {one.__tablename__ for one in (Revision, Schema, ReplicaRow, LeaseRow, ClusterRow)}
COPIED: Final = [one for one in TABLES if one.name not in _OWN]
"""The tables with content; the target has its own version, and its own server processes."""
_RESET: Final[Mapping[str, Mapping[str, Any]]] = {AgentRow.__tablename__: {"replica": None}}
"""By table: what a copied row has instead, for the same reason."""


def copy_to_postgresql(source: Path, target: URL) -> dict[str, int]:
    """Copy everything; return by table how many rows there are. Nobody may use the source meanwhile.

    Raises:
        CopyFailed: the source is no database of this release's schema or cannot be read, the target does not
            take a row of it, is not empty, or is in use; then the target holds what it held, and new empty
            tables at most.
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
            return postgresql.answered(_copy_all, writing, reading)
        finally:
            reading.dispose()
            writing.dispose()


def _copy_all(writing: Engine, reading: Engine) -> dict[str, int]:
    level = writing.execution_options(isolation_level="READ COMMITTED")
    with reading.connect() as old, level.begin() as new:
        _empty_and_locked(new)
        # A table at a time, each behind those that it refers to.
        return {table.name: _copy(old, new, table) for table in COPIED}


def _empty_and_locked(new: Connection) -> None:
    """Keep everybody else from writing until the end. Raise CopyFailed where somebody has written."""
    names = ", ".join(table.name for table in COPIED)
    # A large table may take longer than the server lets a statement take, and what is read between two of
    # them longer than it lets a transaction wait.
    for bound in ("statement_timeout", "idle_in_transaction_session_timeout"):
        new.execute(text(f"SET LOCAL {bound} = 0"))
    try:
        new.execute(text(f"LOCK TABLE {names} IN EXCLUSIVE MODE"))
    except DBAPIError as error:
        if postgresql.sqlstate(error) != _LOCKED:
            raise
        raise CopyFailed("the target is in use: stop the servers and commands that have it open") from error
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
    except DBAPIError as error:
        if postgresql.is_away(error):
            raise
        raise CopyFailed(f"a row of {table.name} cannot be copied: {_first_line(error)}") from error
    _continue_numbers(old, new, table)
    counts = [one.scalar(select(func.count()).select_from(table)) or 0 for one in (old, new)]
    if counts[0] != counts[1]:
        raise CopyFailed(f"{table.name} has {counts[0]} rows, and {counts[1]} arrived; nothing was copied")
    return counts[1]


def _batches(old: Connection, table: Table) -> Iterator[Sequence[Mapping[str, Any]]]:
    """Yield the rows of a table, some at a time: results may be larger than the memory."""
    rows: list[Mapping[str, Any]] = []
    size = 0
    # One at a time where it may be large: what is fetched together is held together.
    large = any(isinstance(column.type, LargeBinary) for column in table.columns)
    try:
        found = old.execution_options(yield_per=1 if large else ROWS_AT_ONCE).execute(select(table))
        for row in found.mappings():
            rows.append({**row, **_RESET.get(table.name, {})})
            size += sum(len(value) for value in row.values() if isinstance(value, bytes))
            if len(rows) >= ROWS_AT_ONCE or size >= BYTES_AT_ONCE:
                yield rows
                rows, size = [], 0
    except DBAPIError as error:
        raise CopyFailed(f"{table.name} cannot be read: {_first_line(error)}") from error
    if rows:
        yield rows


def _first_line(error: DBAPIError) -> str:
    """The driver's words, without the values of a row that PostgreSQL adds in a line of their own."""
    return str(error.orig).partition("\n")[0]


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
