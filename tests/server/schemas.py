"""Databases as older releases made them, and releases that are yet to come."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest

from obt_server.store import database, schema
from obt_server.store.tables import SCHEMA_VERSION

OLD = Path(__file__).with_name("old_databases")
REVISIONS = schema.MIGRATIONS


def make_old(path: Path, version: int) -> None:
    """Make a file as the release with that schema did: its tables, with rows of its own."""
    path.touch(0o600)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("pragma journal_mode=wal")
        db.executescript((OLD / f"schema-{version}.sql").read_text(encoding="utf-8"))


def rows_of(path: Path) -> dict[str, set[str]]:
    """By table: its rows, each as column and value, so that columns that come later do not matter."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        names = [
            name
            for (name,) in db.execute("select name from sqlite_master where type = 'table'")
            if name.startswith("obt_")
        ]
        found = {name: db.execute(f"select * from {name}") for name in names}  # noqa: S608 - the database's own
        return {name: {repr(dict(row)) for row in rows} for name, rows in found.items()}


def later_release(monkeypatch: pytest.MonkeyPatch, folder: Path, *revisions: str) -> int:
    """Have this process be a release with further revisions; return its schema.

    Each is the body of its ``upgrade``.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(REVISIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for number, body in enumerate(revisions, SCHEMA_VERSION + 1):
        head = f'from alembic import op\n\nrevision = "{number:04}"\ndown_revision = "{number - 1:04}"\n'
        text = f"{head}\n\ndef upgrade() -> None:\n    {body}\n"
        (folder / "versions" / f"r{number:04}_later.py").write_text(text)
    newest = SCHEMA_VERSION + len(revisions)
    monkeypatch.setattr(schema, "MIGRATIONS", folder)
    monkeypatch.setattr(schema, "SCHEMA_VERSION", newest)
    monkeypatch.setattr(database, "SCHEMA_VERSION", newest)
    return newest
