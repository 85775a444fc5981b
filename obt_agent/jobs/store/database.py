"""Jobs in SQLite. Synchronous: one thread uses it (see ``JobStore``).

Each public method that writes is one transaction, durable when it returns (WAL, ``synchronous=FULL``). A
process that ends in the middle of one leaves the store as it was before it.
"""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from obt_agent.errors import ConfigError
from obt_agent.jobs.store import salvage, sqlite_errors
from obt_agent.jobs.store.rows import FinalText, NewJob, StoredJob
from obt_agent.jobs.store.schema import MIGRATIONS, VERSION
from obt_agent.protocol.errors import WireError
from obt_agent.protocol.jobs import JobState

log = structlog.get_logger(__name__)

# Marks of cancelled jobs that never started; the oldest goes first: a server cannot fill the disk.
MAX_CANCEL_MARKS: Final = 4096

_COLUMNS: Final = (
    "job_id, kind, state, model, params, fingerprint, not_after, accepted_at, started_at, finished_at, "
    "starts, error, encoding, bytes, sha256, coalesce(length(result), 0), acknowledged, conflict, attempts"
)
_OPEN: Final = "state IN ('accepted', 'queued', 'running')"
_WAITING: Final = f"NOT {_OPEN} AND acknowledged = 0"


class JobDatabase:
    """The store itself.

    Args:
        path: of the database file. A damaged one is set aside and a new one begun.

    Raises:
        ConfigError: it was written by a later version of the agent.
        StorageFailed: it cannot be opened: no room, no right, a failing disk, another program holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Where a damaged store lies now; None when it was sound.
        self.set_aside: Path | None = None
        # What of it was carried over.
        self.salvaged = salvage.Salvaged()
        with sqlite_errors.translated():
            try:
                self._db = self._opened()
            except sqlite3.DatabaseError as error:
                # A full or failing disk is no damage: setting the store aside would lose what is sound.
                if not isinstance(sqlite_errors.of(error), sqlite_errors.StoreDamaged):
                    raise
                self._db = self._begun_anew(str(error))
            try:
                self.store_id = self._read_store_id()
            # Whoever asked gets no object that could be closed.
            except BaseException:
                self._db.close()
                raise

    def _opened(self) -> sqlite3.Connection:
        return _connected(self.path)

    def _begun_anew(self, reason: str) -> sqlite3.Connection:
        """Set the file aside, and go on with another that holds what was sound in it.

        The new one takes the old one's name when it is complete: a death before that begins again.
        """
        new = self.path.with_name(f"{self.path.name}.new")
        salvage.remove(new)
        aside = salvage.set_aside(self.path)
        try:
            new.touch(mode=0o600)
            with contextlib.closing(_connected(new)) as db:
                self.salvaged = salvage.salvage(aside, db)
            salvage.replace(self.path, new)
        except BaseException:
            salvage.remove(aside)
            salvage.remove(new)
            raise
        self.set_aside = aside
        salvage.remove_oldest(self.path)
        log.error(
            "store.damaged",
            reason=reason,
            set_aside=aside.name,
            jobs_saved=self.salvaged.jobs,
            results_saved=self.salvaged.results,
            unreadable=self.salvaged.unreadable,
            what_now="a new store goes on with what was saved; its id tells the server that the rest is lost",
        )
        return self._opened()

    def _read_store_id(self) -> str:
        row = self._db.execute("SELECT value FROM meta WHERE key = 'store_id'").fetchone()
        if row is not None:
            return str(row[0])
        store_id = str(uuid.uuid4())
        with self._transaction():
            self._db.execute("INSERT INTO meta VALUES ('store_id', ?)", (store_id,))
        return store_id

    @sqlite_errors.translated()
    def close(self) -> None:
        """Close the file; nothing is lost without it."""
        self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """One transaction: all of it or nothing."""
        with sqlite_errors.translated():
            # With the write lock from the start: one that reads first may fail at its first write.
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # SQLite rolls back by itself after some errors, such as a full disk.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    # reading

    def get(self, job_id: str) -> StoredJob | None:
        """One job, if it is stored."""
        found = self._select("job_id = ?", (job_id,))
        return found[0] if found else None

    def open_jobs(self) -> list[StoredJob]:
        """Jobs without a final, in the order of acceptance."""
        return self._select(_OPEN)

    def waiting(self) -> list[StoredJob]:
        """Jobs whose final the server has not acknowledged, in the order in which they ended."""
        return self._select(_WAITING, order="finished_at, seq")

    def unsettled(self) -> list[StoredJob]:
        """Open and waiting jobs, oldest first."""
        return self._select(f"{_OPEN} OR ({_WAITING})")

    @sqlite_errors.translated()
    def result(self, job_id: str) -> FinalText | None:
        """The stored result of a finished job; None once it is acknowledged."""
        row = self._db.execute(
            "SELECT bytes, sha256, encoding, result FROM jobs WHERE job_id = ? AND result IS NOT NULL",
            (job_id,),
        ).fetchone()
        return None if row is None else FinalText(*row)

    @sqlite_errors.translated()
    def records(self, job_id: str) -> list[bytes]:
        """What was stored of a job while it ran, in order."""
        rows = self._db.execute("SELECT body FROM records WHERE job_id = ? ORDER BY n", (job_id,))
        return [bytes(row[0]) for row in rows]

    @sqlite_errors.translated()
    def used_bytes(self) -> int:
        """Bytes of the database that hold something."""
        pages, free, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    @sqlite_errors.translated()
    def reserved_bytes(self, without: str = "") -> int:
        """Bytes reserved for results of open jobs, one job left out if it is named."""
        sql = f"SELECT coalesce(sum(reserve_bytes), 0) FROM jobs WHERE {_OPEN} AND job_id != ?"  # noqa: S608 - constants
        return int(self._db.execute(sql, (without,)).fetchone()[0])

    @sqlite_errors.translated()
    def _select(self, where: str, values: Sequence[Any] = (), order: str = "seq") -> list[StoredJob]:
        sql = f"SELECT {_COLUMNS} FROM jobs WHERE {where} ORDER BY {order}"  # noqa: S608 - constants of this module
        return [_job(row) for row in self._db.execute(sql, values)]

    # writing

    def accept(self, job: NewJob, now: float) -> None:
        """Store a job in state ``accepted``.

        Raises:
            StorageFailed: it cannot be written.
        """
        with self._transaction():
            self._insert(job, "accepted", job.reserve_bytes, now)

    def accept_cancelled(self, job: NewJob, final: FinalText, now: float) -> StoredJob:
        """Store a job that was cancelled before it was started, with its final, in the place of the mark.

        Return it as stored: an earlier one of this id stays as it is.
        """
        with self._transaction():
            # The mark makes way, in the same transaction: in between, a third start would run.
            self._db.execute("DELETE FROM jobs WHERE job_id = ? AND kind IS NULL", (job.job_id,))
            if not self._select("job_id = ?", (job.job_id,)):
                self._insert(job, "accepted", 0, now)
                self._write_final(job.job_id, "cancelled", final, None, now)
            return self._select("job_id = ?", (job.job_id,))[0]

    def restore(self, job: StoredJob) -> None:
        """Store an open job again that was lost with a damaged store. One that is there stays as it is."""
        with self._transaction():
            if not self._select("job_id = ?", (job.job_id,)):
                self._insert(job, "running", 0, job.accepted_at)
                self._db.execute(
                    "UPDATE jobs SET started_at = ?, starts = ? WHERE job_id = ?",
                    (job.started_at, job.starts, job.job_id),
                )

    def _insert(
        self, job: NewJob | StoredJob, state: JobState, reserve_bytes: int, accepted_at: float
    ) -> None:
        shared = ("job_id", "kind", "model", "params", "fingerprint", "not_after")
        values = {name: getattr(job, name) for name in shared}
        values |= {"state": state, "accepted_at": accepted_at, "reserve_bytes": reserve_bytes}
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        sql = f"INSERT INTO jobs ({names}) VALUES ({marks})"  # noqa: S608 - names of this function
        self._db.execute(sql, tuple(values.values()))

    def mark_cancelled(self, job_id: str, now: float) -> None:
        """Remember that a job nobody started was cancelled."""
        with self._transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO jobs (job_id, state, params, accepted_at, finished_at, acknowledged)"
                " VALUES (?, 'cancelled', x'', ?, ?, 1)",
                (job_id, now, now),
            )
            self._db.execute(
                "DELETE FROM jobs WHERE kind IS NULL AND seq NOT IN"
                " (SELECT seq FROM jobs WHERE kind IS NULL ORDER BY seq DESC LIMIT ?)",
                (MAX_CANCEL_MARKS,),
            )

    def queue(self, job_id: str) -> bool:
        """From ``accepted`` to ``queued``."""
        return self._update("state = 'queued'", "job_id = ? AND state = 'accepted'", (job_id,))

    def start(self, job_id: str, now: float) -> bool:
        """To ``running``, from any state that is not terminal; counts the starts."""
        return self._update(
            "state = 'running', starts = starts + 1, started_at = coalesce(started_at, ?)",
            f"job_id = ? AND {_OPEN}",
            (now, job_id),
        )

    def add_record(self, job_id: str, body: bytes) -> None:
        """Keep something of a running job; durable when this returns."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO records SELECT ?, coalesce(max(n) + 1, 0), ? FROM records WHERE job_id = ?",
                (job_id, body, job_id),
            )

    def finish(
        self, job_id: str, state: JobState, final: FinalText, error: WireError | None, now: float
    ) -> bool:
        """Store the final of a job, with its result; False when it has one already (the first one stands)."""
        with self._transaction():
            done = self._write_final(job_id, state, final, error, now)
            self._db.execute("DELETE FROM records WHERE job_id = ?", (job_id,))
        return done

    def _write_final(
        self, job_id: str, state: JobState, final: FinalText, error: WireError | None, now: float
    ) -> bool:
        wire = None if error is None else msgspec.json.encode(error).decode()
        values = (state, now, wire, final.encoding, final.size, final.sha256, final.stored, job_id)
        what = (
            "state = ?, finished_at = ?, error = ?, encoding = ?, bytes = ?, sha256 = ?, result = ?, "
            "reserve_bytes = 0"
        )
        sql = f"UPDATE jobs SET {what} WHERE job_id = ? AND {_OPEN}"  # noqa: S608 - constants of this module
        return self._db.execute(sql, values).rowcount == 1

    def acknowledge(self, job_id: str, sha256: str, server_time: float | None, *, conflict: bool) -> bool:
        """Turn a finished job into its tombstone: the server has this result, or keeps another one.

        In a conflict the result stays beside the tombstone until that expires. ``server_time`` is Unix
        seconds by the server's clock, if it told it. False when the stored result is another one.
        """
        return self._update(
            "acknowledged = 1, acknowledged_at = ?, conflict = ?, params = x'',"
            " result = CASE WHEN ? THEN result ELSE NULL END",
            f"job_id = ? AND sha256 = ? AND {_WAITING}",
            (server_time, conflict, conflict, job_id, sha256),
        )

    def failed_upload(self, job_id: str) -> None:
        """Count an attempt at sending the final that failed."""
        self._update("attempts = attempts + 1", "job_id = ?", (job_id,))

    def expire(self, server_time: float, now: float, keep_s: float) -> int:
        """Drop tombstones that are older than ``keep_s`` seconds by both clocks; return how many.

        A tombstone keeps a repeated start from running again, so that one clock that is wrong once must not
        remove it. Its age by this machine's clock (``now``) counts from the first call that finds it, its age
        by the server's from the acknowledgement, or from that call where the time was not known then.
        """
        with self._transaction():
            self._db.execute(
                "UPDATE jobs SET acknowledged_at = coalesce(acknowledged_at, ?),"
                " local_since = coalesce(local_since, ?) WHERE acknowledged = 1",
                (server_time, now),
            )
            return self._db.execute(
                "DELETE FROM jobs WHERE acknowledged = 1 AND acknowledged_at <= ? AND local_since <= ?",
                (server_time - keep_s, now - keep_s),
            ).rowcount

    def drop(self, job_id: str) -> bool:
        """Forget a finished job's result without the server, as the owner decided; its tombstone stays."""
        return self._update(
            "acknowledged = 1, result = NULL, params = x''", f"job_id = ? AND {_WAITING}", (job_id,)
        )

    def _update(self, what: str, where: str, values: Sequence[Any]) -> bool:
        with self._transaction():
            sql = f"UPDATE jobs SET {what} WHERE {where}"  # noqa: S608 - constants of this module
            return self._db.execute(sql, values).rowcount == 1


def _connected(path: Path) -> sqlite3.Connection:
    """Open a database, make sure that it is sound, and bring it to this version."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    try:
        _check_version(db)
        db.execute("PRAGMA journal_mode=WAL")
        # Durable at each commit: a result must survive a power cut.
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA foreign_keys=ON")
        # Of pages in memory: by default 2 MiB, which the process would grow by over days. The system keeps
        # the file's pages anyway.
        db.execute("PRAGMA cache_size=-256")
        _check(db)
        _migrate(db)
    except BaseException:
        db.close()
        raise
    return db


def _check(db: sqlite3.Connection) -> None:
    # Without the contents of the indexes, which the full check compares: that takes much longer.
    found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        error = sqlite3.DatabaseError(f"database disk image is malformed: {found}")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _check_version(db: sqlite3.Connection) -> None:
    """Before anything is written: a store of a later version is left as it is."""
    found = _version(db)
    if found > VERSION:
        raise ConfigError(
            f"The job store was written by a later version of obt-agent (schema {found}, this one knows "
            f"{VERSION}): install that version again, or move the store away."
        )


def _migrate(db: sqlite3.Connection) -> None:
    found = _version(db)
    # Step and version in one transaction: a death in between repeats no step.
    for number in range(found, VERSION):
        db.executescript(f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;")
        if found:
            log.info("store.migrated", version=number + 1)


def _job(row: tuple[Any, ...]) -> StoredJob:
    # By the places of ``_COLUMNS``: what SQLite has no type for.
    fields = list(row)
    fields[4] = bytes(fields[4])
    fields[11] = None if fields[11] is None else msgspec.json.decode(fields[11], type=WireError)
    fields[16], fields[17] = bool(fields[16]), bool(fields[17])
    return StoredJob(*fields)
