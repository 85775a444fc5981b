"""The schema of a database: made where there is none, brought up to date where it is older."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, Float, insert, inspect, select, text

from obt_agent.errors import AgentError
from obt_server.store.operator_tables import OperatorRow
from obt_server.store.replica_tables import ReplicaRow
from obt_server.store.tables import SCHEMA_VERSION, Revision, Schema, Table

# A table is known when its module is imported.
_BESIDE: Final = (OperatorRow, ReplicaRow)
TABLES: Final = Table.metadata.sorted_tables
"""All tables, each behind those that it refers to."""
LAST_WITHOUT_REVISIONS: Final = 7
"""The schema of the last releases that counted schemas themselves."""
MIGRATIONS: Final = Path(__file__).with_name("migrations")
LOCKED_WITHIN_S: Final = 600
"""For which a start waits for another one that brings the same database up to date."""
# Of PostgreSQL's advisory locks, which whoever uses the database shares; "obt-sche" as a number.
_LOCK: Final = 0x6F62742D73636865


class SchemaTooNew(AgentError):
    """A newer release wrote this database."""

    kind = "schema_too_new"


class SchemaTooOld(AgentError):
    """An older release wrote this database, and nobody said that it may be changed."""

    kind = "schema_too_old"


def version_of(connection: Connection) -> int | None:
    """Return the version of the schema that a database has; None where it has none."""
    known = inspect(connection)
    if known.has_table(Revision.__tablename__):
        found = connection.scalar(select(Revision.version_num))
        return None if found is None else int(found)
    return connection.scalar(select(Schema.version)) if known.has_table(Schema.__tablename__) else None


def bring_up_to_date(engine: Engine, *, upgrade: bool = True) -> int | None:
    """Make the tables, or bring older ones up to date, in one transaction.

    Args:
        engine: of the database.
        upgrade: whether older tables may be changed.

    Returns:
        The version that was found; None where the tables were made.

    Raises:
        SchemaTooNew: the database is from a newer release.
        SchemaTooOld: it is from an older one, and ``upgrade`` is false.
    """
    # A snapshot from before the lock would not show what another process made meanwhile. SQLite has none: its
    # transaction begins with the lock.
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="READ COMMITTED")
    with engine.begin() as connection:
        if version_of(connection) == SCHEMA_VERSION:
            return SCHEMA_VERSION
    with engine.begin() as connection:
        _lock(connection)
        found = version_of(connection)
        if found is None:
            _make(connection)
        else:
            _check(found, upgrade=upgrade)
            if found < SCHEMA_VERSION:
                # All of them in this one transaction: a crash leaves the old schema, and never one between.
                _upgrade(connection, found)
        return found


def _lock(connection: Connection) -> None:
    """Wait for whoever else makes or changes the tables. SQLite's transaction has waited already."""
    if connection.dialect.name != "postgresql":
        return
    # What takes long here takes long once, while nobody is served.
    for setting, value in (("statement_timeout", 0), ("lock_timeout", LOCKED_WITHIN_S * 1000)):
        connection.execute(text(f"SET LOCAL {setting} = {value}"))
    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def _make(connection: Connection) -> None:
    Table.metadata.create_all(connection)
    connection.execute(insert(Revision).values(version_num=f"{SCHEMA_VERSION:04}"))
    connection.execute(insert(Schema).values(version=LAST_WITHOUT_REVISIONS + 1))


def _check(found: int, *, upgrade: bool) -> None:
    if found > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"The database has schema {found}; this release knows {SCHEMA_VERSION}. Install a newer one."
        )
    if found < SCHEMA_VERSION and not upgrade:
        raise SchemaTooOld(
            f"The database has schema {found}, and this release needs {SCHEMA_VERSION}. Back it up "
            "(pg_dump), then bring it up to date: obt-server migrate"
        )


def _upgrade(connection: Connection, found: int) -> None:
    """Run what is missing. Only an older database needs Alembic, which takes 0.2 s to import."""
    from alembic import command  # noqa: PLC0415 - see above

    if not inspect(connection).has_table(Revision.__tablename__):
        _take_over(connection, found)
    command.upgrade(config(connection), "head")


def config(connection: Connection) -> Any:
    """Return Alembic's settings, for work on a connection."""
    from alembic.config import Config  # noqa: PLC0415 - as above

    made = Config()
    # A percent sign is the beginning of a variable there.
    made.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    made.attributes["connection"] = connection
    return made


def differences(connection: Connection) -> list[str]:
    """Return what the tables have that this release does not know, and the other way around."""
    from alembic.autogenerate import compare_metadata  # noqa: PLC0415 - as above
    from alembic.migration import MigrationContext  # noqa: PLC0415

    options = {
        "version_table": Revision.__tablename__,
        "include_name": _is_ours,
        "compare_type": _is_of_another_type,
    }
    found = compare_metadata(MigrationContext.configure(connection, opts=options), Table.metadata)
    return [repr(one) for one in found]


def _is_ours(name: str | None, kind: str, parents: Any) -> bool:
    """Leave out tables of an application that shares the database."""
    del parents
    return kind != "table" or name in Table.metadata.tables


def _is_of_another_type(
    context: object, inspected: object, column: object, found: object, known: object
) -> bool | None:
    """Take any floating point for the same; None leaves the rest to Alembic.

    SQLite keeps the word that a table was made with: FLOAT with SQLAlchemy 2.0, DOUBLE since, and means one.
    """
    del context, inspected, column
    return False if isinstance(found, Float) and isinstance(known, Float) else None


def _take_over(connection: Connection, found: int) -> None:
    """Bring a database of the releases that counted schemas themselves under Alembic."""
    if connection.dialect.name != "sqlite":
        raise SchemaTooOld(
            "This database was made by a release that did not yet run on PostgreSQL: make a new one, and "
            "fill it with obt-server copy."
        )
    # Tables that came later than the database; each start of those releases made them.
    statements = (MIGRATIONS / "schema_7.sql").read_text(encoding="utf-8")
    for statement in statements.splitlines():
        if not statement.startswith("--"):
            connection.exec_driver_sql(statement)
    Table.metadata.tables[Revision.__tablename__].create(connection)
    connection.execute(insert(Revision).values(version_num=f"{found:04}"))
