"""SQLite: the engine, whose transactions wait for each other in time."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event

_READ: Final = "obt_read"
"""The execution option of connections that only read."""


def sqlite_engine(url: str) -> Engine:
    """An engine whose transactions take the write lock at their start, but for those that only read.

    Two processes (server and command line) then wait for each other, at most 10 s, and never see a half-done
    change. Readers take no lock (WAL): they see the last commit, and hold nobody up.
    """
    engine = create_engine(
        url,
        hide_parameters=True,  # an error that is logged must not hold hashes of secrets, nor results
        connect_args={"check_same_thread": False, "timeout": 10},
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # SQLAlchemy says BEGIN, below
        # FULL: a result that was acknowledged is deleted at the agent, and must survive a power cut here.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # IMMEDIATE: a transaction that begins to read and writes later could not wait for another writer, and
        # would fail.
        reads = connection.get_execution_options().get(_READ, False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def reading(engine: Engine) -> Engine:
    """The same engine for those that only read: they take no lock."""
    return engine.execution_options(**{_READ: True})
