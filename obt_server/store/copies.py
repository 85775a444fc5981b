"""Copies of an SQLite database: of one in use, before a migration; and the lock of those who use it."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import structlog

from obt_agent import file_lock
from obt_agent.errors import AgentError
from obt_agent.system import descriptors, owners
from obt_agent.system.directory import open_directory
from obt_server.store.tables import REVISION_TABLE

log = structlog.get_logger(__name__)

SPARE_BYTES: Final = 64 << 20
"""That stay free on a disk beside a copy: a full disk would stop the server that the copy is for."""
KEPT_BEFORE_MIGRATION: Final = 3
"""Copies, the newest; each is as large as the database was."""
BUSY_S: Final = 30.0
"""For which a copy waits for a writer that keeps the whole file, as a change of its journal does."""
_RESTORING: Final = ".restoring-"
_RESTORED: Final = ".restored-"
_PAGES_AT_ONCE: Final = 4096
_STAMP: Final = "%Y%m%dT%H%M%SZ"
_STAMPED: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z")


class CopyFailed(AgentError):
    """A copy could not be made, or is none; what it was made from is as it was."""

    kind = "copy_failed"


class DatabaseInUse(AgentError):
    """A server or a command has the database open."""

    kind = "database_in_use"


def back_up(source: Path, target: Path) -> int:
    """Copy a database, which others may use meanwhile, into a file of its own; return its bytes.

    The copy is the database as it was at one moment, checked, on the disk, and readable by its owner alone.
    Nobody waits for it: readers and writers go on.

    Raises:
        CopyFailed: ``source`` is no database, the copy is damaged, or the disk has no room for it.
        OSError: a file cannot be read or written.
    """
    if not source.is_file():
        raise CopyFailed(f"there is no database {source}")
    if target.exists():
        raise CopyFailed(f"{target} exists already; name a file that does not")
    check_space(source, target.parent)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    # Made before SQLite opens it, which would make it readable as the umask says: it holds hashes of secrets.
    os.close(os.open(partial, descriptors.MAKE, 0o600))
    try:
        _copy_pages(source, partial)
        sync(partial)
        # Under its name only when it is whole: a job that is killed leaves nothing that looks like a backup.
        partial.rename(target)
        sync(target.parent)
    except sqlite3.Error as error:
        raise CopyFailed(f"{source} cannot be copied to {target}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return target.stat().st_size


def _copy_pages(source: Path, partial: Path) -> None:
    with (
        contextlib.closing(_open(source)) as reading,
        contextlib.closing(sqlite3.connect(partial, isolation_level=None)) as copy,
    ):
        # One transaction around all steps: without it each write of the server would begin the copy anew, and
        # under load it would never end. It holds nobody up; the log of writes grows meanwhile.
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM sqlite_master").fetchone()
        copy.execute("PRAGMA synchronous=OFF")  # synchronised once, at the end
        reading.backup(copy, pages=_PAGES_AT_ONCE)
        # In one file: of a copy in WAL mode a part could stand in another one.
        copy.execute("PRAGMA journal_mode=DELETE")
        (found,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise CopyFailed(f"{source} is damaged ({found}): see obt-server check")


def _open(path: Path) -> sqlite3.Connection:
    # Not made where it is missing; written only by SQLite itself, which keeps its index of the log there.
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_S, isolation_level=None
    )


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk when this returns."""
    if path.is_dir():
        folder = open_directory(path.resolve())
        try:
            folder.sync()
        finally:
            folder.close()
        return
    # To sync a file takes the right to write it on Windows.
    descriptor = os.open(path, descriptors.READ_AND_WRITE)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_space(source: Path, folder: Path) -> None:
    """Raise CopyFailed where the folder's disk has no room for a copy and some to spare."""
    wal = source.with_name(source.name + "-wal")
    needed = source.stat().st_size + (wal.stat().st_size if wal.exists() else 0) + SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CopyFailed(
            f"{folder} has {free >> 20} MiB free, and a copy of {source} needs {needed >> 20} MiB: make room"
        )


def schema_of(path: Path) -> int | None:
    """Return the version of the schema in a file; None where it has none. Raise CopyFailed."""
    if not path.is_file() or not path.stat().st_size:
        return None
    try:
        with contextlib.closing(_open(path)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            if REVISION_TABLE in tables:
                row = database.execute(f"SELECT version_num FROM {REVISION_TABLE}").fetchone()  # noqa: S608 - a name of our own
            # Releases before counted schemas themselves.
            elif "obt_schema" in tables:
                row = database.execute("SELECT version FROM obt_schema").fetchone()
            else:
                return None
    except sqlite3.Error as error:
        raise CopyFailed(f"{path} cannot be read as a database: {error}") from error
    return None if row is None else int(row[0])


def before_migration(path: Path, schema: int) -> None:
    """Copy a database of an older schema beside itself, before it is brought to this one.

    Raises:
        CopyFailed: there is no room; the database stays as it is.
    """
    found = schema_of(path)
    if found is None or found >= schema:
        return
    target = path.with_name(f"{path.name}.schema-{found}-{stamp()}")
    # One that a start of this second made, which then failed, is a copy of the same.
    if not target.exists():
        size = back_up(path, target)
        log.info("database.copied", file=str(target), bytes=size, schema=found, next=schema)
    keep_newest(path.parent, f"{path.name}.schema-*", KEPT_BEFORE_MIGRATION)


def keep_newest(folder: Path, pattern: str, most: int) -> list[Path]:
    """Remove all but the newest files of that pattern with a time in their names; return what was removed."""
    found = [(times[-1], path) for path in folder.glob(pattern) if (times := _STAMPED.findall(path.name))]
    # By the time in the name: that of the file changes when it is copied elsewhere and back.
    gone = [path for _, path in sorted(found, reverse=True)[most:]]
    for path in gone:
        path.unlink(missing_ok=True)
    return gone


def restoring(path: Path) -> Path:
    """Return the name of a copy that is being made to replace a database."""
    return path.with_name(f"{path.name}{_RESTORING}{stamp()}-{secrets.token_hex(2)}")


def restored(fresh: Path) -> Path:
    """Return the name of such a copy when it is whole, and about to be put in place."""
    return fresh.with_name(fresh.name.replace(_RESTORING, _RESTORED))


def unfinished_restores(path: Path, kinds: Sequence[str] = (_RESTORING, _RESTORED)) -> list[Path]:
    """Return the copies that were made to replace a database, and did not."""
    starts = tuple(f"{path.name}{kind}" for kind in kinds)
    return sorted(one for one in path.parent.iterdir() if one.name.startswith(starts))


def check_restored(path: Path) -> None:
    """Raise CopyFailed where a restore ended between the database of before and the one from the copy."""
    # Of copies that were not whole yet the database of before was still there.
    if not path.exists() and (left := unfinished_restores(path, [_RESTORED])):
        raise CopyFailed(
            f"there is no database {path}, as a restore was interrupted: run obt-server restore again. The "
            f"copy that was to be there is {left[-1].name}; what was there before has .before-restore- in "
            "its name"
        )


def stamp() -> str:
    """Return the time of now for a file's name; names sort by it."""
    return time.strftime(_STAMP, time.gmtime())


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Keep everybody away from a database that nobody uses.

    Raises:
        DatabaseInUse: a server or a command has it open.
    """
    descriptor = lock(path, shared=False)
    try:
        yield
    finally:
        os.close(descriptor)


def lock(path: Path, *, shared: bool) -> int:
    """Lock a database by a file beside it, until the descriptor that is returned is closed.

    Whoever uses it holds the lock ``shared``; who replaces its file, alone. It is the kernel's: a process
    that dies leaves none.

    Raises:
        DatabaseInUse: somebody holds it in the other way.
    """
    beside = path.with_name(path.name + ".lock")
    descriptor = os.open(beside, descriptors.READ_AND_WRITE | os.O_CREAT, 0o600)
    try:
        give_to_owner(descriptor, path.parent)
        file_lock.lock(descriptor, shared=shared)
    except file_lock.Locked as error:
        os.close(descriptor)
        raise DatabaseInUse(
            f"{path} is in use: stop the server first (systemctl stop obt-server)"
            if not shared
            else f"{path} is being replaced by obt-server restore; start again when that has ended"
        ) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def give_to_owner(file: int | Path, folder: Path) -> None:
    """Have root's file belong to the folder's owner: the service's user must be able to open it later."""
    owners.give(file, owners.owner_and_group(folder.stat()))
