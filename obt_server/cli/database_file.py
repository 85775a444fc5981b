"""The SQLite file of commands that work on files; on PostgreSQL its own programs do the same."""

from __future__ import annotations

import argparse
from pathlib import Path

from obt_server.cli.options import UsageError, database_of
from obt_server.store.address import parse, shown


def file_of(options: argparse.Namespace, instead: str) -> Path:
    """Return the file.

    Args:
        options: the command's.
        instead: what to do on PostgreSQL, with ``{}`` for the address of the database.

    Raises:
        UsageError: the database is on PostgreSQL.
        WrongConfig, ConfigError: see ``database_of`` and ``parse``.
    """
    found = parse(database_of(options))
    if isinstance(found, Path):
        return found
    raise UsageError(f"the database is on PostgreSQL: {instead.format(shown(found))}")
