"""Where a test's server keeps its data: an SQLite file, or PostgreSQL, as ``make test-cluster`` says."""

import atexit
import functools
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Connection, Engine, create_engine, event

from obt_server.store import Database

SERVER: Final = os.environ.get("OBT_TEST_DATABASE", "")
"""The address of PostgreSQL, of no database there; empty: SQLite."""
sqlite_alone: Final = pytest.mark.skipif(
    bool(SERVER), reason="about SQLite's file, and the suite runs on PostgreSQL"
)
_TEMPLATE: Final = f"obt_template_{os.getpid()}"
_REFUSE: Final = "DO $$ BEGIN RAISE EXCEPTION 'the suite repeats' USING ERRCODE = '40001'; END $$"
_of_thread = threading.local()

if SERVER and os.environ.get("OBT_TEST_REPEAT"):
    # The database refuses each write once, when its work is done: what comes of the repeat must be the same.
    @event.listens_for(Engine, "commit")
    def refuse_once(connection: Connection) -> None:
        # Those that only read, and those that make the tables, have a level of their own.
        if connection.dialect.name != "postgresql" or "isolation_level" in connection.get_execution_options():
            return
        _of_thread.refused = not getattr(_of_thread, "refused", False)
        if _of_thread.refused:
            connection.exec_driver_sql(_REFUSE)


def address_in(folder: Path) -> str | Path:
    """Return the database of a folder, with all tables; one that is there already is gone on with."""
    folder.mkdir(parents=True, exist_ok=True)
    if SERVER:
        return _databases().of(folder)
    if not (folder / "obt.sqlite3").exists():
        shutil.copyfile(_empty_file(), folder / "obt.sqlite3")
    return folder / "obt.sqlite3"


def is_new(folder: Path) -> bool:
    """Whether ``address_in`` would make one."""
    return folder not in _databases().names if SERVER else not (folder / "obt.sqlite3").exists()


def rows_in(folder: Path, query: str) -> list[tuple[Any, ...]]:
    """Ask the database of a folder, beside whoever uses it."""
    engine = create_engine(address) if isinstance(address := address_in(folder), str) else sqlite(address)
    try:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query)]
    finally:
        engine.dispose()


def sqlite(path: Path) -> Engine:
    """Return an engine for a file."""
    return create_engine(f"sqlite:///{path}")


@functools.cache
def _empty_file() -> Path:
    """A database with all tables: to make them takes 50 ms, and more than a thousand tests need them."""
    folder = Path(tempfile.mkdtemp(prefix="obt-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Database.sqlite(folder / "empty.sqlite3").close()
    return folder / "empty.sqlite3"


@functools.cache
def _databases() -> "Databases":
    return Databases()


class Databases:
    """Databases of this process on PostgreSQL, each a copy of one with all tables."""

    def __init__(self) -> None:
        import psycopg  # noqa: PLC0415 - an extra

        address = SERVER.replace("postgresql+psycopg://", "postgresql://").replace("/?", "/postgres?")
        self._admin: Any = psycopg.connect(address, autocommit=True)
        atexit.register(self._close)
        self._admin.execute(f"CREATE DATABASE {_TEMPLATE}")
        Database.open(_named(_TEMPLATE)).close()
        # by folder: the database, and the test that made it
        self.names: dict[Path, tuple[str, str]] = {}
        self._made = 0

    def of(self, folder: Path) -> str:
        """Return the address of the folder's database."""
        if folder not in self.names:
            self._drop_others()
            self._made += 1
            name = f"obt_{os.getpid()}_{self._made}"
            self._admin.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
            self.names[folder] = name, _test()
        return _named(self.names[folder][0])

    def _drop_others(self) -> None:
        """Drop those of tests that have ended: each takes 8 MB."""
        for folder, (name, test) in list(self.names.items()):
            if test != _test():
                self._admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
                del self.names[folder]

    def _close(self) -> None:
        for name, _ in [*self.names.values(), (_TEMPLATE, "")]:
            self._admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self._admin.close()


def _named(name: str) -> str:
    return SERVER.replace("/?", f"/{name}?")


def _test() -> str:
    return os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
