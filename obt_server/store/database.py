"""One database: opened, brought to the current schema, and worked on by one thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, insert, select, update
from sqlalchemy.orm import Session

from obt_server.store.tables import SCHEMA_VERSION, Schema, Table

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

P = ParamSpec("P")
T = TypeVar("T")
D = TypeVar("D", bound="DataclassInstance")


class SchemaTooNew(Exception):
    """A newer release wrote this database."""


def _add_given_name(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE obt_agents ADD COLUMN given_name VARCHAR(200)")


MIGRATIONS: dict[int, Callable[[Connection], None]] = {1: _add_given_name}
"""What brings a database from that version to the next."""


class Database:
    """SQLAlchemy on one thread, so that the event loop never waits for a disk.

    Everything that ``run`` did is committed, and synchronised to disk, when it returns.

    Args:
        engine: any that SQLAlchemy knows; tables are made where they are missing.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="obt-store")
        self._closed = False
        migrate(engine)

    @classmethod
    def sqlite(cls, path: Path) -> Database:
        """Open (or make) an SQLite file that nobody but its owner reads.

        Raises:
            SchemaTooNew: a newer release wrote it.
            OSError: the folder cannot be made or written.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        return cls(sqlite_engine(f"sqlite:///{path}"))

    async def run(self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work(session, ...)`` in a transaction on the store's thread."""

        def job() -> T:
            with Session(self._engine, expire_on_commit=False) as session, session.begin():
                return work(session, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._thread, job)

    def close(self) -> None:
        """Finish what runs and close. Closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        self._thread.shutdown(wait=True)
        self._engine.dispose()


class Stored:
    """Base of what is kept in a database.

    Args:
        database: where.
    """

    def __init__(self, database: Database) -> None:
        # the one thread that all work goes to, in the order in which it was given
        self._db = database


S = TypeVar("S", bound=Stored)


def transaction(
    work: Callable[Concatenate[Session, P], T],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Return a method that runs ``work(session, ...)`` as one transaction on the store's thread."""

    @functools.wraps(work)
    async def method(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._db.run(work, *args, **kwargs)

    return method


def from_row(kind: type[D], row: object, **other: object) -> D:
    """Return a dataclass whose fields are the row's columns of the same names, but for ``other``."""
    names = (field.name for field in dataclasses.fields(kind) if field.name not in other)
    return kind(**{name: getattr(row, name) for name in names}, **other)


def sqlite_engine(url: str) -> Engine:
    """An engine whose transactions take the write lock at their start.

    Two processes (server and command line) then wait for each other, at most 10 s, and never see a half-done
    change.
    """
    engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": 10})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # SQLAlchemy says BEGIN, below
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def migrate(engine: Engine) -> None:
    """Make the tables, or bring older ones up to date, in one transaction.

    Raises:
        SchemaTooNew: the database is from a newer release.
    """
    with engine.begin() as connection:
        Table.metadata.create_all(connection)
        found = connection.scalar(select(Schema.version))
        if found is None:
            connection.execute(insert(Schema).values(version=SCHEMA_VERSION))
            return
        if found > SCHEMA_VERSION:
            raise SchemaTooNew(
                f"The database has schema {found}; this release knows {SCHEMA_VERSION}. Install a newer one."
            )
        for version in range(found, SCHEMA_VERSION):
            MIGRATIONS[version](connection)
        connection.execute(update(Schema).values(version=SCHEMA_VERSION))
