"""The store as coroutines: jobs accepted, records, finals, acknowledgements. Nothing here blocks the loop.

Everything that changes the list of unsettled jobs makes ``generation`` grow; a reader can wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import structlog

from obt_agent.config.schema import StorageConfig
from obt_agent.daemon_thread import DaemonThread
from obt_agent.errors import JobConflict, StorageFailed, StorageFull
from obt_agent.jobs.store import sqlite_errors
from obt_agent.jobs.store.database import JobDatabase
from obt_agent.jobs.store.reserved_space import ReservedFile
from obt_agent.jobs.store.rows import FinalText, NewJob, StoredJob
from obt_agent.protocol import limits
from obt_agent.protocol.admission import JobCounts, OutboxCounts
from obt_agent.protocol.errors import WireError
from obt_agent.protocol.jobs import JobState, JobSummary
from obt_agent.struct_types import prepare

log = structlog.get_logger(__name__)

T = TypeVar("T")

DATABASE: Final = "jobs.sqlite"
RESERVED: Final = "jobs.reserve"
DAY_S: Final = 86_400.0
TOMBSTONE_S: Final = limits.TOMBSTONE_DAYS * DAY_S
CLOSE_WITHIN_S: Final = 5.0


class JobStore:
    """Jobs, and the results that the server has not acknowledged.

    Args:
        folder: the agent's state folder; the store's files are made in it, readable by the agent alone.
        config: bounds. A result that waits longer than ``max_age_days`` is named in the log, and kept.
        clock: Unix seconds by this machine's clock.
        database: makes the database from its path.
    """

    def __init__(
        self,
        folder: Path,
        config: StorageConfig | None = None,
        *,
        clock: Callable[[], float] = time.time,
        database: Callable[[Path], JobDatabase] = JobDatabase,
    ) -> None:
        self._folder = folder
        self._config = config or StorageConfig()
        self._clock = clock
        self._make_database = database
        # Disk that is kept free, so that the result of an accepted job can be written on a full disk.
        self._reserved = ReservedFile(folder / RESERVED)
        # Decoded on the thread as well as in the event loop.
        prepare(WireError, JobSummary)
        # Everything that touches the database or the reserved file runs on this thread, in order.
        self._thread = DaemonThread("job-store")
        # None before ``open``, after ``close``, and after damage until the next call opens it again.
        self._db: JobDatabase | None = None
        # Set at each change, and then replaced by a fresh event: it wakes everybody who waits at that moment.
        self._changed = asyncio.Event()
        # When old results were last named in the log (Unix seconds).
        self._warned_at = 0.0
        # Why the last use failed; empty again after a successful write. A read proves nothing: a full disk
        # can be read.
        self._failure = ""
        # That a damaged store was replaced. It stays until the process ends, for its owner to see.
        self._replacement = ""
        # Grows with every change of the list of unsettled jobs.
        self.generation = 0
        # Names the store for the server; another one after damage tells it that jobs may be lost.
        self.store_id = ""
        # How many jobs are open, and finished and not acknowledged.
        self.counts = JobCounts()
        # How many results, and bytes of them, wait for the server.
        self.waiting_counts = OutboxCounts()

    async def open(self) -> None:
        """Open or make the store; a damaged one is set aside, and another goes on with what was sound in it.

        Raises:
            ConfigError: a later version of the agent wrote it.
            StorageFailed: it cannot be opened.
        """
        await self._thread.call(self._open)
        await self._publish_change()

    def _open(self) -> JobDatabase:
        path = self._folder / DATABASE
        try:
            path.touch(mode=0o600)
        except OSError as error:
            raise sqlite_errors.from_os(error, "The agent's job store") from error
        self._db = db = self._make_database(path)
        self.store_id = db.store_id
        if db.set_aside is not None:
            self._replacement = (
                f"The job store was damaged and set aside as {db.set_aside.name}; "
                f"{db.salvaged.jobs} jobs were saved, {db.salvaged.unreadable} could not be read."
            )
        try:
            self._reserved.resize(db.reserved_bytes())
        except StorageFailed as error:
            # Jobs run without the reserve; only on a full disk would their results have to wait for room.
            log.warning("store.reservation_failed", reason=error.message)
        return db

    async def close(self) -> None:
        """Close the store, after the calls that were made before; bounded."""
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self._thread.call(self._close_database)
        except TimeoutError:
            log.error("store.close_timed_out", limit_s=CLOSE_WITHIN_S)  # noqa: TRY400 - the fact is all there is
        finally:
            self._thread.close()

    def _close_database(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(StorageFailed):
                db.close()

    @property
    def problem(self) -> str | None:
        """What the owner should know of the store: why it cannot be used now, or that it was replaced."""
        return self._failure or self._replacement or None

    # Every use of the database goes through one of these three.

    async def _read(self, function: Callable[[JobDatabase], T]) -> T:
        store_id = self.store_id
        try:
            return await self._thread.call(lambda: self._use(function))
        except StorageFailed as error:
            self._failure = error.message
            raise
        finally:
            if self.store_id != store_id:
                self._notify()

    async def _write(self, function: Callable[[JobDatabase], T]) -> T:
        result = await self._read(function)
        self._failure = ""
        return result

    async def _change(self, function: Callable[[JobDatabase], T]) -> T:
        """Write something that alters the list of unsettled jobs, and publish that it changed.

        It is published after a failure and a cancellation too: the write itself may have taken place.
        """
        try:
            return await self._write(function)
        finally:
            await self._publish_change()

    def _use(self, function: Callable[[JobDatabase], T]) -> T:
        """Call a function on the store's thread; a store that is found damaged is replaced first."""
        try:
            try:
                return function(self._db or self._open())
            except sqlite_errors.StoreDamaged:
                self._close_database()
                return function(self._open())
        except OSError as error:
            raise sqlite_errors.from_os(error, "The agent's job store") from error

    async def _publish_change(self) -> None:
        with contextlib.suppress(StorageFailed):  # counted at the next change
            jobs = await self.unsettled()
            waiting = [job for job in jobs if job.terminal]
            self.counts = JobCounts(open=len(jobs) - len(waiting), finished_unacknowledged=len(waiting))
            self.waiting_counts = OutboxCounts(
                entries=len(waiting), bytes=sum(job.stored_bytes for job in waiting)
            )
        self._notify()

    def _notify(self) -> None:
        self.generation += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_changed(self, after_generation: int) -> int:
        """Wait until ``generation`` is above ``after_generation``, and return it."""
        while self.generation <= after_generation:
            await self._changed.wait()
        return self.generation

    # Reading.

    async def get(self, job_id: str) -> StoredJob | None:
        """Return one job."""
        return await self._read(lambda db: db.get(job_id))

    async def open_jobs(self) -> list[StoredJob]:
        """Return the jobs without a final, oldest first."""
        return await self._read(lambda db: db.open_jobs())

    async def waiting(self) -> list[StoredJob]:
        """Return finished jobs that the server has not acknowledged, in the order in which they ended."""
        return await self._read(lambda db: db.waiting())

    async def unsettled(self) -> list[StoredJob]:
        """Return open and waiting jobs, oldest first."""
        return await self._read(lambda db: db.unsettled())

    async def result(self, job_id: str) -> FinalText | None:
        """Return the stored result of a finished job; None when it has none (any more)."""
        return await self._read(lambda db: db.result(job_id))

    async def records(self, job_id: str) -> list[bytes]:
        """Return what was stored of a job while it ran."""
        return await self._read(lambda db: db.records(job_id))

    # Writing.

    async def accept(self, job: NewJob) -> StoredJob | None:
        """Store a new job and reserve disk for its result; durable when this returns None.

        Returns:
            The job as stored, when the same start was made before; the mark (``kind`` is None) of a job that
            was cancelled before it was started: see ``accept_cancelled``. None when it is new.

        Raises:
            JobConflict: the id is taken by a job with other parameters.
            StorageFull: quota or disk have no room for its result.
            StorageFailed: the store cannot be used.
        """
        return await self._change(lambda db: self._accept(db, job))

    def _accept(self, db: JobDatabase, job: NewJob) -> StoredJob | None:
        stored = db.get(job.job_id)
        if stored is not None:
            if stored.kind is None or stored.fingerprint == job.fingerprint:
                return stored
            raise JobConflict(
                f"Job {job.job_id!r} exists with other parameters; choose another job_id.", state=stored.state
            )
        self._check_quota(db, job.reserve_bytes)
        self._reserved.resize(db.reserved_bytes() + job.reserve_bytes)
        try:
            db.accept(job, self._clock())
        except BaseException:
            self._reserved.resize(db.reserved_bytes())
            raise
        return None

    async def accept_cancelled(self, job: NewJob, text: bytes) -> StoredJob:
        """Store a job that was cancelled before it was started, with the result that says so.

        Returns:
            The job as stored. Of two starts at once the first one's result stands.
        """
        return await self._change(lambda db: db.accept_cancelled(job, FinalText.of(text), self._clock()))

    def _check_quota(self, db: JobDatabase, more: int) -> None:
        used = db.used_bytes() + db.reserved_bytes()
        quota = self._config.quota_bytes
        if used + more > quota:
            raise StorageFull(
                f"The agent's store holds {used} of {quota} bytes, and the job's result may need {more}: "
                "acknowledge results that wait, or let the host's owner raise storage.quota_bytes.",
                policy_key="storage.quota_bytes",
                asked=used + more,
                used_bytes=used,
                needed_bytes=more,
            )

    async def cancel(self, job_id: str) -> StoredJob | None:
        """Return the job, for its cancellation.

        When there is none, return None and remember the cancellation: a late start will not run.
        """
        return await self._write(lambda db: self._cancel(db, job_id))

    def _cancel(self, db: JobDatabase, job_id: str) -> StoredJob | None:
        stored = db.get(job_id)
        if stored is None:
            db.mark_cancelled(job_id, self._clock())
        return stored if stored is not None and stored.kind is not None else None

    async def queue(self, job_id: str) -> None:
        """Move a job from ``accepted`` to ``queued``."""
        await self._change(lambda db: db.queue(job_id))

    async def start(self, job_id: str) -> None:
        """Move a job to ``running``, and count the start."""
        await self._change(lambda db: db.start(job_id, self._clock()))

    async def add_record(self, job_id: str, body: bytes) -> None:
        """Keep something of a running job; durable when this returns.

        Raises:
            StorageFull: not even the space reserved for the result was enough.
            StorageFailed: it cannot be written.
        """
        await self._write(lambda db: self._add_record(db, job_id, body))

    def _add_record(self, db: JobDatabase, job_id: str, body: bytes) -> None:
        try:
            db.add_record(job_id, body)
        except StorageFailed:
            # The disk may be full, whatever SQLite calls it: half of the reserve goes to records, and half
            # stays for the final.
            self._reserved.resize(self._reserved.size // 2)
            db.add_record(job_id, body)

    async def finish(self, job_id: str, state: JobState, text: bytes, error: WireError | None = None) -> bool:
        """Store a job's final; return False when it had one before, which stands.

        Raises:
            StorageFailed: it cannot be written; the job is as it was.
        """
        return await self._change(lambda db: self._finish(db, job_id, state, text, error))

    def _finish(
        self, db: JobDatabase, job_id: str, state: JobState, text: bytes, error: WireError | None
    ) -> bool:
        final = FinalText.of(text)
        # This job's share of the reserve is released for its result; the other jobs keep theirs.
        self._reserved.resize(min(self._reserved.size, db.reserved_bytes(without=job_id)))
        try:
            return db.finish(job_id, state, final, error, self._clock())
        except StorageFailed:
            # A result that exists comes before results that do not exist yet.
            self._reserved.resize(0)
            return db.finish(job_id, state, final, error, self._clock())

    async def restore(self, job: StoredJob) -> None:
        """Store an open job again that was lost with a damaged store; its final can be stored then."""
        await self._change(lambda db: db.restore(job))

    async def acknowledge(
        self, job_id: str, sha256: str, server_time: float | None, *, conflict: bool = False
    ) -> bool:
        """Note that the server has the result of this hash, or (``conflict``) keeps another one."""
        return await self._change(lambda db: db.acknowledge(job_id, sha256, server_time, conflict=conflict))

    async def failed_upload(self, job_id: str) -> None:
        """Count an attempt that failed."""
        await self._write(lambda db: db.failed_upload(job_id))

    async def expire(self, server_time: float) -> None:
        """Drop tombstones that are old by the server's clock and by this machine's; name old results."""
        dropped = await self._change(lambda db: db.expire(server_time, self._clock(), TOMBSTONE_S))
        if dropped:
            log.info("store.expired", tombstones=dropped)
        await self._warn_of_old_results()

    async def _warn_of_old_results(self) -> None:
        """Name old results in the log once a day. They are kept: no server has acknowledged them."""
        now = self._clock()
        if now - self._warned_at < DAY_S:
            return
        limit = now - self._config.max_age_days * DAY_S
        old = [job.job_id for job in await self.waiting() if (job.finished_at or now) < limit]
        if old:
            self._warned_at = now
            log.warning("store.old_results", results=len(old), oldest=old[0], days=self._config.max_age_days)
