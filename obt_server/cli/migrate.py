"""``obt-server migrate``: bring the database to the schema of this release.

Bring the tables of an older release up to date. An SQLite file is copied beside itself before, and each start
of the server does the same. On PostgreSQL this command alone does it: stop the servers and back up
(pg_dump) before. With --check nothing is changed; exit status 1 says that something would be, or that the
tables are not what this release expects.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from sqlalchemy import Engine

from obt_server.cli.options import add_database, database_of
from obt_server.store import Database, postgresql
from obt_server.store.address import parse, shown
from obt_server.store.copies import CopyFailed
from obt_server.store.schema import differences, version_of
from obt_server.store.sqlite import sqlite_engine
from obt_server.store.tables import SCHEMA_VERSION


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.set_defaults(work=_migrate)
    add_database(parser)
    parser.add_argument("--check", action="store_true", help="say whether it is needed, and change nothing")


def _migrate(options: argparse.Namespace) -> int:
    address = database_of(options)
    if options.check:
        return _check(address)
    with contextlib.closing(Database.open(address, upgrade=True)) as database:
        found = database.found_schema
    where = shown(parse(address))
    if found is None:
        print(f"{where}: made, schema {SCHEMA_VERSION}")
    elif found == SCHEMA_VERSION:
        print(f"{where}: schema {SCHEMA_VERSION}, nothing to do")
    else:
        print(f"{where}: schema {found} brought to {SCHEMA_VERSION}")
    return 0


def _check(address: str) -> int:
    where = parse(address)
    if isinstance(where, Path):
        if not where.is_file():
            raise CopyFailed(f"there is no database {where}")
        engine = sqlite_engine(f"sqlite:///{where}")
    else:
        engine = postgresql.postgresql_engine(where)
    try:
        found, problems = postgresql.answered(_look, engine)
    finally:
        engine.dispose()
    print(f"{shown(where)}: schema {found or 'none'}; this release has {SCHEMA_VERSION}")
    for problem in problems:
        print(f"PROBLEM: {problem}")
    return 0 if found == SCHEMA_VERSION and not problems else 1


def _look(engine: Engine) -> tuple[int | None, list[str]]:
    with engine.connect() as connection:
        found = version_of(connection)
        # Tables of another schema differ, which says nothing.
        return found, differences(connection) if found == SCHEMA_VERSION else []
