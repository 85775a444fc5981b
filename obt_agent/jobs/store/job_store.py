"""The store as coroutines: jobs accepted, records, finals, acknowledgements. Blocks nothing.

Everything that changes the list of unsettled jobs makes ``generation`` grow; a reader can wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import structlog

from obt_agent.daemon_thread import DaemonThread
from obt_agent.errors import JobConflict, StorageFailed, StorageFull
from obt_agent.jobs.store import sqlite_errors
from obt_agent.jobs.store.database import JobDatabase
from obt_agent.jobs.store.reserved_space import ReservedFile
from obt_agent.jobs.store.rows import FinalText, NewJob, StoredJob
from obt_agent.protocol import limits
from obt_agent.protocol.admission import JobCounts, OutboxCounts
from obt_agent.protocol.errors import WireError
from obt_agent.protocol.jobs import JobState

log = structlog.get_logger(__name__)

T = TypeVar("T")

DATABASE: Final = "jobs.sqlite"
BALLAST: Final = "jobs.reserve"
DAY_S: Final = 86_400.0
CLOSE_WITHIN_S: Final = 5.0


@dataclass(frozen=True)
class JobStoreSettings:
    """Bounds of the store.

    ``quota_bytes`` bounds database and reservations together; a result that waits longer than
    ``max_age_days`` for its server is named in the log once a day, and kept.
    """

    quota_bytes: int = 1 << 30
    max_age_days: float = 30.0
    tombstone_days: float = float(limits.TOMBSTONE_DAYS)


class JobStore:
    """Jobs and what is left to tell the server.

    Args:
        folder: the agent's state folder; the store's files are made in it, readable by the agent alone.
        settings: bounds.
        clock: Unix seconds by this machine's clock.
        database: makes the database from its path.
    """

    def __init__(
        self,
        folder: Path,
        settings: JobStoreSettings | None = None,
        *,
        clock: Callable[[], float] = time.time,
        database: Callable[[Path], JobDatabase] = JobDatabase,
    ) -> None:
        self._folder = folder
        self._settings = settings or JobStoreSettings()
        self._clock = clock
        self._open_database = database
        self._ballast = ReservedFile(folder / BALLAST)
        self._thread = DaemonThread("job-store")
        self._db: JobDatabase | None = None
        self._changed = asyncio.Event()
        self._counts = JobCounts()
        self._waiting = OutboxCounts()
        self._said_old_at = 0.0
        self._failing = ""
        self._replaced = ""
        self.generation = 0
        self.store_id = ""

    async def open(self) -> None:
        """Open or make the store; a damaged one is set aside, and another goes on with what was sound in it.

        Raises:
            ConfigError: a later version of the agent wrote it.
            StorageFailed: it cannot be opened.
        """
        await self._thread.call(self._open)
        await self._count()

    def _open(self) -> JobDatabase:
        path = self._folder / DATABASE
        try:
            path.touch(mode=0o600)
        except OSError as error:
            raise sqlite_errors.from_os(error, "The agent's job store") from error
        self._db = db = self._open_database(path)
        self.store_id = db.store_id
        if db.set_aside is not None:
            self._replaced = (
                f"The job store was damaged and set aside as {db.set_aside.name}; "
                f"{db.salvaged.jobs} jobs were saved, {db.salvaged.unreadable} could not be read."
            )
        try:
            self._ballast.resize(db.reserved_bytes())
        except StorageFailed as error:
            log.warning("outbox.reservation_lost", reason=error.message)
        return db

    def _guarded(self, function: Callable[[JobDatabase], T]) -> T:
        """On the store's thread: errors are the project's, and a store that is found damaged is replaced.

        What met the damage is done once more, in the store that took its place.
        """
        try:
            return _used(function, self._db or self._open())
        except sqlite_errors.StoreDamaged:
            self._close_database()
            return _used(function, self._open())

    async def _reading(self, function: Callable[[JobDatabase], T]) -> T:
        told = self.store_id
        try:
            return await self._thread.call(lambda: self._guarded(function))
        except StorageFailed as error:
            self._failing = error.message
            raise
        finally:
            if self.store_id != told:
                self._tell()

    async def _writing(self, function: Callable[[JobDatabase], T]) -> T:
        result = await self._reading(function)
        self._failing = ""
        return result

    @property
    def problem(self) -> str | None:
        """What the owner should know of the store: why it cannot be used now, or that it was replaced."""
        return self._failing or self._replaced or None

    async def close(self) -> None:
        """Close the store, after what was asked of it before; bounded."""
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self._thread.call(self._close_database)
        except TimeoutError:
            log.error("outbox.does_not_close", within_s=CLOSE_WITHIN_S)  # noqa: TRY400 - the fact is all there is
        finally:
            self._thread.close()

    def _close_database(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(StorageFailed):
                db.close()

    # what is known

    async def get(self, job_id: str) -> StoredJob | None:
        """One job."""
        return await self._reading(lambda db: db.get(job_id))

    async def open_jobs(self) -> list[StoredJob]:
        """Jobs without a final, oldest first."""
        return await self._reading(lambda db: db.open_jobs())

    async def waiting(self) -> list[StoredJob]:
        """Finished jobs that the server has not acknowledged, in the order in which they ended."""
        return await self._reading(lambda db: db.waiting())

    async def unsettled(self) -> list[StoredJob]:
        """Open and waiting jobs, oldest first."""
        return await self._reading(lambda db: db.unsettled())

    async def result(self, job_id: str) -> FinalText | None:
        """The stored result of a finished job; None when it has none (any more)."""
        return await self._reading(lambda db: db.result(job_id))

    async def records(self, job_id: str) -> list[bytes]:
        """What was stored of a job while it ran."""
        return await self._reading(lambda db: db.records(job_id))

    @property
    def counts(self) -> JobCounts:
        """Open jobs, and finished ones not acknowledged."""
        return self._counts

    @property
    def waiting_counts(self) -> OutboxCounts:
        """Entries and bytes that wait for the server."""
        return self._waiting

    async def wait_changed(self, after_generation: int) -> int:
        """Wait until ``generation`` is above ``after_generation``; gives it."""
        while self.generation <= after_generation:
            await self._changed.wait()
        return self.generation

    # what changes it

    async def accept(self, job: NewJob) -> StoredJob | None:
        """Store a new job and reserve disk for its result; durable when this returns None.

        Returns:
            The job as stored, when the same start was made before, or when it was cancelled before it was
            started (then it ends so, and its final waits for the server). None when it is new.

        Raises:
            JobConflict: the id is taken by a job with other parameters.
            StorageFull: quota or disk have no room for its result.
            StorageFailed: the store cannot be used.
        """
        return await self._changing(lambda db: self._accept(db, job))

    def _accept(self, db: JobDatabase, job: NewJob) -> StoredJob | None:
        stored = db.get(job.job_id)
        if stored is not None and stored.kind is None:
            db.accept_cancelled(job, FinalText.of(job.withdrawn), self._clock())
            return db.get(job.job_id)
        if stored is not None:
            if stored.fingerprint == job.fingerprint:
                return stored
            raise JobConflict(
                f"Job {job.job_id!r} exists with other parameters; choose another job_id.", state=stored.state
            )
        self._check_quota(db, job.reserve_bytes)
        self._ballast.resize(db.reserved_bytes() + job.reserve_bytes)
        try:
            db.accept(job, self._clock())
        except BaseException:
            self._ballast.resize(db.reserved_bytes())
            raise
        return None

    def _check_quota(self, db: JobDatabase, more: int) -> None:
        used = db.used_bytes() + db.reserved_bytes()
        quota = self._settings.quota_bytes
        if used + more > quota:
            raise StorageFull(
                f"The agent's store holds {used} of {quota} bytes, and the job's result may need {more}: "
                "acknowledge results that wait, or let the host's owner raise storage.quota_bytes.",
                policy_key="storage.quota_bytes",
                used_bytes=used,
                needed_bytes=more,
            )

    async def cancel(self, job_id: str) -> StoredJob | None:
        """The job, for its cancellation; when there is none, remember that: a late start will not run."""
        return await self._writing(lambda db: self._cancel(db, job_id))

    def _cancel(self, db: JobDatabase, job_id: str) -> StoredJob | None:
        stored = db.get(job_id)
        if stored is None:
            db.mark_cancelled(job_id, self._clock())
        return stored if stored is not None and stored.kind is not None else None

    async def queue(self, job_id: str) -> None:
        """From ``accepted`` to ``queued``."""
        await self._changing(lambda db: db.queue(job_id))

    async def start(self, job_id: str) -> None:
        """To ``running``; counts the starts."""
        await self._changing(lambda db: db.start(job_id, self._clock()))

    async def add_record(self, job_id: str, body: bytes) -> None:
        """Keep something of a running job; durable when this returns.

        Raises:
            StorageFull: not even the room reserved for the result was enough.
            StorageFailed: it cannot be written.
        """
        await self._writing(lambda db: self._add_record(db, job_id, body))

    def _add_record(self, db: JobDatabase, job_id: str, body: bytes) -> None:
        try:
            db.add_record(job_id, body)
        except StorageFailed:  # an error of the disk may be its being full
            self._ballast.resize(self._ballast.size // 2)
            db.add_record(job_id, body)

    async def finish(self, job_id: str, state: JobState, text: bytes, error: WireError | None = None) -> bool:
        """Store a job's final; False when it had one before, which stands.

        Raises:
            StorageFailed: it cannot be written; the job is as it was.
        """
        return await self._changing(lambda db: self._finish(db, job_id, state, text, error))

    def _finish(
        self, db: JobDatabase, job_id: str, state: JobState, text: bytes, error: WireError | None
    ) -> bool:
        final = FinalText.of(text)
        self._ballast.resize(self._others_reserve(db, job_id))
        try:
            return db.finish(job_id, state, final, error, self._clock())
        except StorageFailed:
            self._ballast.resize(0)
            return db.finish(job_id, state, final, error, self._clock())

    async def restore(self, job: StoredJob) -> None:
        """Store an open job again that a damaged store took with it; its final can be stored then."""
        await self._changing(lambda db: db.restore(job))

    def _others_reserve(self, db: JobDatabase, job_id: str) -> int:
        return min(self._ballast.size, db.reserved_bytes(without=job_id))

    async def acknowledge(
        self, job_id: str, sha256: str, server_time: float | None, *, conflict: bool = False
    ) -> bool:
        """The server has the result of this hash, or (``conflict``) keeps another one."""
        return await self._changing(lambda db: db.acknowledge(job_id, sha256, server_time, conflict=conflict))

    async def failed_upload(self, job_id: str) -> None:
        """Count an attempt that failed."""
        await self._writing(lambda db: db.failed_upload(job_id))

    async def drop(self, job_id: str) -> bool:
        """Forget a result that waits: the owner's decision, never the agent's."""
        return await self._changing(lambda db: db.drop(job_id))

    async def expire(self, server_time: float) -> None:
        """Drop tombstones that are old by the server's time, and name results that wait too long."""
        keep_s = self._settings.tombstone_days * DAY_S
        dropped = await self._changing(lambda db: db.expire(server_time, keep_s))
        if dropped:
            log.info("outbox.expired", tombstones=dropped)
        await self._say_old()

    async def _say_old(self) -> None:
        """Age is said, never acted upon: what no server acknowledged is kept."""
        now = self._clock()
        if now - self._said_old_at < DAY_S:
            return
        limit = now - self._settings.max_age_days * DAY_S
        old = [job.job_id for job in await self.waiting() if (job.finished_at or now) < limit]
        if old:
            self._said_old_at = now
            log.warning("outbox.old", results=len(old), oldest=old[0], days=self._settings.max_age_days)

    async def _changing(self, function: Callable[[JobDatabase], T]) -> T:
        try:
            return await self._writing(function)
        finally:
            await self._count()

    async def _count(self) -> None:
        """The news goes out even when the store cannot be read: what was written is written."""
        with contextlib.suppress(StorageFailed):
            await self._tally()
        self._tell()

    def _tell(self) -> None:
        """Wake everybody who waits for a change."""
        self.generation += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def _tally(self) -> None:
        jobs = await self.unsettled()
        waiting = [job for job in jobs if job.terminal]
        self._counts = JobCounts(open=len(jobs) - len(waiting), finished_unacknowledged=len(waiting))
        self._waiting = OutboxCounts(entries=len(waiting), bytes=sum(job.stored_bytes for job in waiting))


def _used(function: Callable[[JobDatabase], T], db: JobDatabase) -> T:
    try:
        return function(db)
    except OSError as error:
        raise sqlite_errors.from_os(error, "The agent's job store") from error
