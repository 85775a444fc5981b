"""One database: opened, brought to the current schema; a thread or some write, others read beside them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, ParamSpec, TypeVar

import structlog
from sqlalchemy import URL, Engine
from sqlalchemy.orm import Session

from obt_server.store import copies, postgresql, sqlite
from obt_server.store.address import parse
from obt_server.store.counters import DatabaseCounters
from obt_server.store.postgresql import Availability, PostgresTransaction
from obt_server.store.schema import bring_up_to_date
from obt_server.store.tables import SCHEMA_VERSION
from obt_server.store.transactions import Rows, Statement, Transactions

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from obt_server.store.lookups import Lookups

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
D = TypeVar("D", bound="DataclassInstance")


READERS: Final = 2
"""Threads that read. More would contend for the interpreter's lock: rows are made into objects under it."""
AGENT_SHARE: Final = 0.25
"""Of the writer's time, for one agent."""
AGENT_WRITES: Final = 2
"""Of all agents, in the writer's queue: one runs, the other spares the thread a wait for the loop."""
MAX_PAUSE_S: Final = 5.0
"""Before an agent's next write: a slow disk must not look to it like a server that is dead."""
AT_ONCE: Final = 200
"""Rows of one statement, and of one transaction of a list of models: others wait for some milliseconds."""


class Database:
    """SQLAlchemy on threads of its own, so that the event loop never waits for a disk or a network.

    Everything that ``run`` did is committed, and synchronised to disk, when it returns. On SQLite one thread
    writes; on PostgreSQL some do, each transaction as if it were alone, and repeated where the database
    refuses it. Reads have other threads, and see what was committed before they began: none waits for a
    write.

    Args:
        engine: of SQLite (``sqlite_engine``) or PostgreSQL; tables are made where missing.
        path: the SQLite file, where it is one.
        lock: the descriptor of the file's lock, which this closes at the end.
        upgrade: whether tables of an older release are brought up to date.

    Raises:
        SchemaTooNew: a newer release wrote the database.
        SchemaTooOld: an older one did, and ``upgrade`` is false.
        DatabaseUnavailable: PostgreSQL does not answer.
    """

    def __init__(
        self, engine: Engine, *, path: Path | None = None, lock: int = -1, upgrade: bool = True
    ) -> None:
        self._engine = engine
        self._postgresql = engine.dialect.name == "postgresql"
        # One thread: SQLite takes one writer at a time, and a queue here is fair where its lock is not.
        writers, readers = (postgresql.WRITERS, postgresql.READERS) if self._postgresql else (1, READERS)
        self._reading = postgresql.reading(engine) if self._postgresql else sqlite.reading(engine)
        self._writer = ThreadPoolExecutor(writers, thread_name_prefix="obt-store")
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="obt-read")
        # for what must not wait behind others' work; a thread and a connection begin with the first of it
        self._apart = ThreadPoolExecutor(1, thread_name_prefix="obt-beat")
        # by agent: held while a write of it is queued or runs, and for a pause that keeps it to its share; so
        # the writer's queue holds one write of each agent at most. Weak: a lock that nobody holds goes.
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        # what agents make it write, a few at a time: an operator's write waits for no more than these
        self._for_agents = asyncio.Semaphore(max(AGENT_WRITES, writers - 1))
        # transactions that wait or run on PostgreSQL, to be given up when their time is over
        self._open: set[PostgresTransaction[Any]] = set()
        self._availability = Availability()
        self._lookups = self._new_lookups() if self._postgresql else None
        self._closed = False
        self.path = path
        # keeps the file in its place until this is closed
        self._lock = lock
        self.counters = DatabaseCounters()
        # of the counters and ``_open``, which several threads change
        self._counting = threading.Lock()
        # On the caller's thread, before anything is served: half a schema must never answer. The version that
        # was found; None where the tables were made.
        try:
            self.found_schema = postgresql.answered(bring_up_to_date, engine, upgrade=upgrade)
        except BaseException:
            engine.dispose()
            raise

    @classmethod
    def open(cls, where: str | Path, *, upgrade: bool = False) -> Database:
        """Open (or make) the tables at an address: a file, ``sqlite:///FILE`` or ``postgresql+psycopg://...``.

        An SQLite file of an older schema is always brought up to date: it is copied before. Nobody copies
        PostgreSQL's by the way, so that ``upgrade`` must allow it.

        Raises:
            ConfigError: it is no address.
            SchemaTooOld: PostgreSQL has tables of an older release, and ``upgrade`` is false.
            DatabaseUnavailable: PostgreSQL does not answer.
            SchemaTooNew, CopyFailed, DatabaseInUse, OSError: see ``sqlite``.
        """
        found = parse(where)
        if isinstance(found, URL):
            return cls(postgresql.postgresql_engine(found), upgrade=upgrade)
        return cls.sqlite(found)

    @classmethod
    def sqlite(cls, path: Path) -> Database:
        """Open (or make) an SQLite file that nobody but its owner reads.

        One of an older schema is copied beside itself before it is brought up to date.

        Raises:
            SchemaTooNew: a newer release wrote it.
            CopyFailed: it must be copied, and there is no room; or a restore was interrupted.
            DatabaseInUse: it is being replaced by a backup.
            OSError: the folder cannot be made or written.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Before the file is looked at, so that a restore cannot take it away in between.
        lock = copies.lock(path, shared=True)
        try:
            copies.check_restored(path)
            with contextlib.suppress(FileExistsError):
                # Made before SQLite opens it, which would make it readable as the umask says: it holds hashes
                # of secrets.
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            copies.before_migration(path, SCHEMA_VERSION)
            return cls(sqlite.sqlite_engine(f"sqlite:///{path}"), path=path, lock=lock)
        except BaseException:
            os.close(lock)
            raise

    async def run(self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work(session, ...)`` in a transaction on the writer's thread."""
        # A caller that is cancelled leaves the work in the thread: it is committed or undone as a whole.
        job = self._counted(self._engine, work, *args, **kwargs)
        return await asyncio.wrap_future(self._submit(self._writer, job))

    def run_later(
        self, work: Callable[Concatenate[Session, P], object], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Run ``work(session, ...)`` as ``run`` does, for nobody who waits: what fails is logged."""
        job = self._counted(self._engine, work, *args, **kwargs)
        self._submit(self._writer, job).add_done_callback(_log_failure)

    async def read(self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work(session, ...)``, which changes nothing, on a reader's thread."""
        job = self._counted(self._reading, work, *args, **kwargs)
        return await asyncio.wrap_future(self._submit(self._readers, job))

    async def look_up(self, statement: Statement, **parameters: str) -> Rows:
        """Return the rows of one statement, which sees what was committed before; see ``Lookups``."""
        if self._lookups is not None:
            return await self._lookups.rows(statement, parameters)
        return await self.read(_rows, statement, parameters)

    def _new_lookups(self) -> Lookups:
        # Only here: the driver is there where PostgreSQL is used, and not elsewhere.
        from obt_server.store.lookups import Lookups  # noqa: PLC0415

        return Lookups(self._engine, self._availability, self._count_lookup)

    def _count_lookup(self, seconds: float, undone: int) -> None:
        with self._counting:
            self.counters.reads += 1
            self.counters.read_seconds += seconds
            self.counters.undone += undone

    async def run_apart(
        self, within_s: float, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``work(session, ...)`` behind no other work, and on PostgreSQL for ``within_s`` at most.

        Each statement sees there what was committed before it (READ COMMITTED): the work itself locks what
        must not change meanwhile. On SQLite it runs as with ``run``.
        """
        if not self._postgresql:
            return await self.run(work, *args, **kwargs)
        job = self._counted(postgresql.locking(self._engine), work, *args, **kwargs)
        return await asyncio.wrap_future(self._submit(self._apart, job, within_s))

    async def run_for(
        self, agent_id: str, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``work(session, ...)`` as ``run`` does, for an agent and at its expense.

        One write of an agent waits at a time, and after each the agent's next one waits until this was no
        more than ``AGENT_SHARE`` of the time since. The answer does not wait for that.
        """
        loop = asyncio.get_running_loop()
        # Held by this variable until the handle below holds it: the dictionary alone keeps no lock.
        turn = self._turns.setdefault(agent_id, asyncio.Lock())
        took = 0.0
        job = self._counted(self._engine, work, *args, **kwargs)

        def timed() -> T:
            nonlocal took
            began = time.monotonic()
            try:
                return job.run()
            finally:
                took = time.monotonic() - began

        await turn.acquire()
        try:
            # Taken after the own turn: an agent that waits for itself keeps no place from others.
            async with self._for_agents:
                return await asyncio.wrap_future(self._submit(self._writer, _QueuedWork(timed, job.open)))
        finally:
            # the handle keeps the lock alive; released by the loop, whoever waits goes on
            loop.call_later(min(took * (1 / AGENT_SHARE - 1), MAX_PAUSE_S), turn.release)

    def _counted(
        self, engine: Engine, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> _QueuedWork[T]:
        """Return what a thread runs: the work as a transaction, which is counted."""
        counters = self.counters

        def on_session(session: Session) -> T:
            return work(session, *args, **kwargs)

        given_up = PostgresTransaction(engine, on_session, self._availability) if self._postgresql else None

        def run() -> T:
            began, undone = time.monotonic(), 1
            try:
                found = _transact(engine, on_session) if given_up is None else given_up.run()
                undone = 0
                return found
            finally:
                took = time.monotonic() - began
                with self._counting:
                    counters.undone += undone
                    if engine is self._reading:
                        counters.reads += 1
                        counters.read_seconds += took
                    else:
                        counters.writes += 1
                        counters.write_seconds += took

        return _QueuedWork(run, given_up)

    def _submit(
        self, threads: ThreadPoolExecutor, job: _QueuedWork[T], within_s: float | None = None
    ) -> Future[T]:
        with self._counting:
            self.counters.waiting += 1
            if job.open is not None:
                self._open.add(job.open)
        submitted = threads.submit(job.run)
        # Also where it is cancelled before its turn, and never runs.
        submitted.add_done_callback(self._leave)
        if job.open is not None:
            self._bound(submitted, job.open, postgresql.TRANSACTION_S if within_s is None else within_s)
        return submitted

    def _bound(self, submitted: Future[Any], transaction: PostgresTransaction[Any], within_s: float) -> None:
        """Have it given up when its time is over: a database that hangs ends nothing itself."""
        loop = asyncio.get_running_loop()
        handle = loop.call_later(within_s, transaction.abandon)

        def ended(_: Future[Any]) -> None:
            with self._counting:
                self._open.discard(transaction)
            # The loop may be closed by now: what it was to call is gone with it.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(handle.cancel)

        submitted.add_done_callback(ended)

    def _abandon_all(self) -> None:
        with self._counting:
            left = list(self._open)
        for transaction in left:
            transaction.abandon()

    def _leave(self, _done: Future[Any]) -> None:
        with self._counting:
            self.counters.waiting -= 1

    def close(self) -> None:
        """Finish what runs and close. Closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        # A database that hangs must not keep the process: what is still open then is given up.
        giving_up = threading.Timer(postgresql.TRANSACTION_S, self._abandon_all)
        giving_up.daemon = True
        if self._postgresql:
            giving_up.start()
        # Waited for: a write that was answered as stored must be on the disk when the process ends.
        for threads in (self._writer, self._readers, self._apart):
            threads.shutdown(wait=True)
        giving_up.cancel()
        if self._lookups is not None:
            self._lookups.close()
        self._engine.dispose()
        if self._lock >= 0:
            os.close(self._lock)


@dataclasses.dataclass(frozen=True)
class _QueuedWork(Generic[T]):
    """What a thread runs; ``open`` is its transaction where it can be given up."""

    run: Callable[[], T]
    open: PostgresTransaction[T] | None


def _log_failure(done: Future[Any]) -> None:
    error = done.exception()
    if error is not None:
        log.warning("database.not_written", error=str(error))


def _rows(db: Session, statement: Statement, parameters: Mapping[str, str]) -> Rows:
    return [tuple(row) for row in db.execute(statement, parameters)]


def _transact(engine: Engine, work: Callable[[Session], T]) -> T:
    # Rows are read after the commit, to be answered: expired ones would be loaded again, outside any
    # transaction.
    with Session(engine, expire_on_commit=False) as session, session.begin():
        return work(session)


class Stored:
    """Base of what is kept in a database.

    Args:
        database: where.
    """

    def __init__(self, database: Transactions) -> None:
        # writes go to its one thread in the order in which they are given
        self._db = database


S = TypeVar("S", bound=Stored)


def transaction(
    work: Callable[Concatenate[Session, P], T],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Return a method that runs ``work(session, ...)`` as one transaction on the writer's thread."""

    @functools.wraps(work)
    async def method(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._db.run(work, *args, **kwargs)

    return method


def query(
    work: Callable[Concatenate[Session, P], T],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Return a method that runs ``work(session, ...)``, which only reads, beside the writer."""

    @functools.wraps(work)
    async def method(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._db.read(work, *args, **kwargs)

    return method


def from_row(kind: type[D], row: object, **other: object) -> D:
    """Return a dataclass whose fields are the row's columns of the same names, but for ``other``."""
    # By the dataclass's names: a column that it lacks (a hash, for instance) never leaves this package.
    return kind(**{name: getattr(row, name) for name in _names(kind) if name not in other}, **other)


@functools.cache
def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))
