"""A database examined, and put back from a copy. Both on the caller's thread: they take their time."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from obt_agent.system import owners
from obt_server.store import copies
from obt_server.store.copies import CopyFailed
from obt_server.store.schema import SchemaTooNew
from obt_server.store.tables import SCHEMA_VERSION

_MOST_SHOWN: Final = 20


@dataclass(frozen=True, kw_only=True)
class DatabaseReport:
    """What a look at a database found. ``problems`` are for a person; none: it is right."""

    schema: int
    size: int
    unused: int
    wal: int
    free: int
    rows: dict[str, int]
    problems: list[str] = field(default_factory=list)


_COUNTED: Final = ("obt_agents", "obt_jobs", "obt_results", "obt_campaigns", "obt_rollouts", "obt_operators")


def examine(path: Path) -> DatabaseReport:
    """Read a database whole, which others may use meanwhile, and say what is wrong with it.

    Raises:
        CopyFailed: it cannot be read, or is no database of this program's.
    """
    schema = copies.schema_of(path)
    if schema is None:
        raise CopyFailed(f"{path} is no database of obt-server")
    try:
        with contextlib.closing(
            sqlite3.connect(path, timeout=copies.BUSY_S, isolation_level=None)
        ) as database:
            # As of one moment, or a foreign key may point to what was written since.
            database.execute("BEGIN")
            problems = [words for (words,) in database.execute(f"PRAGMA integrity_check({_MOST_SHOWN})")]
            problems = [] if problems == ["ok"] else problems
            loose = database.execute("PRAGMA foreign_key_check").fetchmany(_MOST_SHOWN)
            problems += [f"row {row} of {table} points to nothing in {of}" for table, row, of, _ in loose]
            page, unused = (
                database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "freelist_count")
            )
            present = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            rows = {
                table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 - names of our own
                for table in _COUNTED
                if table in present
            }
    except sqlite3.Error as error:
        raise CopyFailed(f"{path} cannot be read as a database: {error}") from error
    wal = path.with_name(path.name + "-wal")
    return DatabaseReport(
        schema=schema,
        size=path.stat().st_size,
        unused=page * unused,
        wal=wal.stat().st_size if wal.exists() else 0,
        free=shutil.disk_usage(path.parent).free,
        rows=rows,
        problems=problems + _around(path, schema),
    )


def _around(path: Path, schema: int) -> list[str]:
    """What is wrong outside the tables."""
    found = []
    if schema > SCHEMA_VERSION:
        found.append(f"its schema is {schema}, and this release knows {SCHEMA_VERSION}: install a newer one")
    if owners.granted(path.stat(), owners.EVERYBODY_ELSE):
        found.append(f"others than its owner may read it, and it holds hashes of secrets: chmod 600 {path}")
    try:
        copies.check_space(path, path.parent)
    except CopyFailed as error:
        # The next migration copies the database first, and would stop the server's start.
        found.append(error.message)
    return found


def restore(path: Path, source: Path) -> Path | None:
    """Put a copy in place of a database that nobody uses; return where the one before is kept.

    An older schema stays as it is, and is brought up to date by the next start of the server.

    Raises:
        CopyFailed: the copy is damaged or no database of this program's, or the disk has no room.
        SchemaTooNew: a newer release wrote it.
        DatabaseInUse: a server or a command has the database open.
        OSError: a file cannot be read or written.
    """
    schema = copies.schema_of(source)
    if schema is None:
        raise CopyFailed(f"{source} is no backup of obt-server's database")
    if schema > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{source} has schema {schema}; this release knows {SCHEMA_VERSION}. Install a newer one."
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with copies.exclusive(path):
        # Beside the database first, checked and whole: a disk that fills up meanwhile costs nothing.
        fresh = copies.restoring(path)
        copies.back_up(source, fresh)
        copies.give_to_owner(fresh, path.parent)
        # Until it has its name there is no database: ``check_restored`` keeps a start from making one.
        whole = fresh.rename(copies.restored(fresh))
        kept = _set_aside(path)
        whole.rename(path)
        copies.sync(path.parent)
        for left in copies.unfinished_restores(path):
            left.unlink(missing_ok=True)
    return kept


def _set_aside(path: Path) -> Path | None:
    """Rename a database and its log of writes, which would be taken for the new one's."""
    kept = path.with_name(f"{path.name}.before-restore-{copies.stamp()}")
    # Its index is made anew by whoever opens it.
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    found = None
    for suffix in ("", "-wal"):
        old = path.with_name(path.name + suffix)
        if old.exists():
            old.rename(kept.with_name(kept.name + suffix))
            found = kept
    return found
