"""A damaged store: set aside under a name with the time, and what can still be read of it carried over.

Only rows that are whole are carried over: a result must have the sha256 that was stored beside it, parameters
and records must be JSON. Nothing is guessed.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
import structlog

from obt_agent.jobs.store.rows import Encoding, FinalText
from obt_agent.jobs.store.schema import VERSION
from obt_agent.protocol.errors import WireError
from obt_agent.protocol.jobs import TERMINAL_STATES, JobId, JobKind, JobState

log = structlog.get_logger(__name__)

# Damaged stores beside the good one; a failing disk must not fill itself with them. The oldest go first.
KEPT: Final = 5
# Rows that are looked up one by one after a walk that broke off; a damaged counter may name billions.
MAX_LOOKUPS: Final = 200_000
# The WAL holds what was written last; the shared memory beside it is made again.
_SET_ASIDE_SUFFIXES: Final = ("", "-wal")
_SET_ASIDE: Final = re.compile(r"\.damaged-\d{8}T\d{6}Z-[0-9a-f]{6}$")


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What was carried over: jobs (finished ones among them), and rows that could not be read or trusted."""

    jobs: int = 0
    results: int = 0
    unreadable: int = 0


class _SalvagedRow(msgspec.Struct, kw_only=True, frozen=True):
    """A job's row, as it must be to be believed."""

    job_id: JobId
    kind: JobKind | None
    state: JobState
    model: str | None
    params: bytes
    fingerprint: str | None
    not_after: float | None
    accepted_at: float
    started_at: float | None
    finished_at: float | None
    starts: int
    reserve_bytes: int
    error: str | None
    encoding: Encoding
    size: int | None = msgspec.field(name="bytes")
    sha256: str | None
    result: bytes | None
    acknowledged: int
    acknowledged_at: float | None
    # Columns that a store of an earlier version lacks have the defaults of their migrations.
    conflict: int = 0
    attempts: int = 0
    local_since: float | None = None


def set_aside(path: Path) -> Path:
    """Give a database and its WAL a second name, which stays when the first is taken by a good one."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = path.with_name(f"{path.name}.damaged-{stamp}-{uuid.uuid4().hex[:6]}")
    for suffix in _SET_ASIDE_SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            os.link(path.with_name(path.name + suffix), aside.with_name(aside.name + suffix))
    return aside


def replace(path: Path, new: Path) -> None:
    """Put a closed database in the place of a damaged one, whose WAL must not meet it."""
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    new.replace(path)


def remove_oldest(path: Path) -> None:
    """Keep the newest of the stores that were set aside."""
    for old in set_aside_stores(path)[:-KEPT]:
        log.warning("store.damaged_copy_removed", name=old.name, kept=KEPT)
        remove(old)


def remove(path: Path) -> None:
    """Remove a database with what SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def set_aside_stores(path: Path) -> list[Path]:
    """Stores that were set aside in the place of ``path``, oldest first."""
    return sorted(one for one in path.parent.glob(f"{path.name}.damaged-*") if _SET_ASIDE.search(one.name))


def salvage(damaged: Path, into: sqlite3.Connection) -> Salvaged:
    """Copy every sound job of a damaged store, with its records, into a new one.

    Never raises for what is damaged; what cannot be written into the new one is an error of SQLite's.
    """
    try:
        source = sqlite3.connect(f"file:{quote(str(damaged))}?mode=ro", uri=True, isolation_level=None)
    except sqlite3.Error:
        return Salvaged()
    with contextlib.closing(source):
        source.row_factory = sqlite3.Row
        # Text that is no UTF-8 then fails its row, and not the walk.
        source.text_factory = bytes
        if not _readable(source):
            return Salvaged()
        into.execute("BEGIN IMMEDIATE")
        try:
            salvaged = _copy(source, into)
            into.execute("COMMIT")
        except BaseException:
            if into.in_transaction:
                into.execute("ROLLBACK")
            raise
        return salvaged


def _readable(source: sqlite3.Connection) -> bool:
    """Whether it is a database, and of a version that this one knows."""
    try:
        return 1 <= int(source.execute("PRAGMA user_version").fetchone()[0]) <= VERSION
    except sqlite3.DatabaseError as error:
        log.warning("store.nothing_salvaged", reason=str(error))
        return False


def _copy(source: sqlite3.Connection, into: sqlite3.Connection) -> Salvaged:
    jobs = results = unreadable = 0
    for raw in _job_rows(source):
        row = None if raw is None else _sound(raw)
        if row is None:
            unreadable += 1
        elif _insert(into, row):
            jobs += 1
            results += row.state in TERMINAL_STATES and not row.acknowledged
            for n, body in enumerate(_records(source, row)):
                into.execute("INSERT INTO records VALUES (?, ?, ?)", (row.job_id, n, body))
    return Salvaged(jobs, results, unreadable)


def _job_rows(source: sqlite3.Connection) -> Iterator[sqlite3.Row | None]:
    """Every row that a walk or a look-up by number reaches; None for each that neither does."""
    last = 0
    try:
        # Not through an index, which may be what is damaged.
        for row in source.execute("SELECT * FROM jobs NOT INDEXED ORDER BY seq"):
            last = row["seq"]
            yield row
    except sqlite3.DatabaseError:
        for seq in range(last + 1, min(_highest(source, last), last + MAX_LOOKUPS) + 1):
            try:
                found = source.execute("SELECT * FROM jobs NOT INDEXED WHERE seq = ?", (seq,)).fetchone()
            except sqlite3.DatabaseError:
                yield None
            else:
                if found is not None:
                    yield found


def _highest(source: sqlite3.Connection, at_least: int) -> int:
    """The highest number given to a job, as far as it can be known."""
    try:
        row = source.execute("SELECT seq FROM sqlite_sequence WHERE name = 'jobs'").fetchone()
        return max(at_least, int(row[0])) if row is not None else at_least
    except (sqlite3.DatabaseError, ValueError):
        return at_least + 4096


def _sound(raw: sqlite3.Row) -> _SalvagedRow | None:
    """The row, if it can be believed."""
    try:
        row = msgspec.convert({key: _value(key, raw[key]) for key in raw.keys()}, _SalvagedRow)  # noqa: SIM118 - a Row iterates over values
        if row.params:
            msgspec.json.decode(row.params)
        if row.error is not None:
            msgspec.json.decode(row.error, type=WireError)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return row if _result_is_whole(row) else None


def _value(key: str, value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) and key not in ("params", "result") else value


def _result_is_whole(row: _SalvagedRow) -> bool:
    """Only a finished job has a result; one that waits for its server must have the one that was stored."""
    if row.state not in TERMINAL_STATES:
        return row.result is None and row.kind is not None
    if row.result is None:
        return bool(row.acknowledged)
    if row.size is None or row.sha256 is None:
        return False
    return FinalText(row.size, row.sha256, row.encoding, row.result).whole


def _insert(into: sqlite3.Connection, row: _SalvagedRow) -> bool:
    values = {field.encode_name: getattr(row, field.name) for field in msgspec.structs.fields(_SalvagedRow)}
    names = ", ".join(values)
    marks = ", ".join("?" * len(values))
    sql = f"INSERT OR IGNORE INTO jobs ({names}) VALUES ({marks})"  # noqa: S608 - field names of this module
    return into.execute(sql, tuple(values.values())).rowcount == 1


def _records(source: sqlite3.Connection, row: _SalvagedRow) -> list[bytes]:
    """Records of an open job up to the first that is not whole: it goes on before that one."""
    found: list[bytes] = []
    if row.state in TERMINAL_STATES:
        return found
    with contextlib.suppress(sqlite3.DatabaseError, msgspec.MsgspecError):
        for n, body in source.execute(
            "SELECT n, body FROM records WHERE job_id = ? ORDER BY n", (row.job_id,)
        ):
            if n != len(found):
                break
            msgspec.json.decode(body)
            found.append(body)
    return found
