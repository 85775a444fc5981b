"""PostgreSQL: the engine with its bounds, and transactions that are repeated, or given up in time.

Each write is SERIALIZABLE: its outcome is one that transactions one after the other could have had. Where
the database cannot promise that, it refuses one of those that met, and this repeats it as a whole; so what
runs in a transaction changes nothing but the database.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Concatenate, Final, Generic, ParamSpec, TypeVar

import structlog
from sqlalchemy import URL, Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.orm import Session
from tenacity import (
    RetryCallState,
    Retrying,
    stop_after_attempt,
    stop_after_delay,
    stop_all,
    wait_chain,
    wait_random,
    wait_random_exponential,
)

from obt_server.storage import StorageUnavailable
from obt_server.store.address import shown

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

WRITERS: Final = 4
"""Transactions that write at once, in one process: each waits for the network and for a disk elsewhere."""
READERS: Final = 4
CONNECT_S: Final = 5
"""For a new connection, sign-in included."""
POOL_WAIT_S: Final = 5
"""For a connection of the pool. It has one for each thread: nobody waits unless something is wrong."""
LOCK_S: Final = 5
"""For a row that another transaction holds."""
STATEMENT_S: Final = 15
"""For one statement. The database ends it."""
IDLE_S: Final = 15
"""Between two statements of a transaction. The database ends one whose process hangs: it holds locks."""
TRANSACTION_S: Final = 20
"""For a transaction with its repeats and its wait for a thread, also where the database itself hangs."""
AWAY_S: Final = 1
"""For which nobody else asks a database that could not be reached."""
REPEATED_S: Final = 10
"""For which a transaction is repeated, or once."""
# Jitter parts those that met; the longest pause is 0.25 s.
_PAUSES: Final = wait_chain(
    *[wait_random_exponential(multiplier=0.004, max=0.25)] * 10,
    # Whoever lost so often is not to wait longer still than those who come now.
    wait_random(max=0.01),
)
REPEATED_AFTER_DUPLICATE: Final = 3
"""Times that a key which is there already is tried again. Of two that insert it at once the second finds it
then; longer than that it is a fault of the program."""

_CONFLICTS: Final = frozenset({"40001", "40P01"})  # serialization failure, deadlock
_DUPLICATE: Final = "23505"
# Classes of SQLSTATE: connection, resources, intervention (a shutdown, a statement's deadline), system.
_AWAY: Final = ("08", "53", "57", "58")
# A server that is a standby now; a lock that was not free in time.
_NOT_NOW: Final = frozenset({"25006", "55P03"})


class DatabaseUnavailable(StorageUnavailable):
    """The database does not answer, or not in time. Nothing was acknowledged; agents send again."""


def postgresql_engine(url: URL) -> Engine:
    """An engine whose transactions are SERIALIZABLE, and whose waits all have an end."""
    return create_engine(
        url,
        isolation_level="SERIALIZABLE",
        # One more for what runs apart from the others.
        pool_size=WRITERS + READERS + 1,
        max_overflow=0,
        pool_timeout=POOL_WAIT_S,
        hide_parameters=True,  # an error that is logged must not hold hashes of secrets, nor results
        connect_args=_bounds(),
    )


def _bounds() -> dict[str, str | int]:
    """What libpq is told of each connection, so that all its waits have an end."""
    bounds = {
        "statement_timeout": STATEMENT_S * 1000,
        "lock_timeout": LOCK_S * 1000,
        "idle_in_transaction_session_timeout": IDLE_S * 1000,
    }
    return {
        "application_name": "obt-server",
        "connect_timeout": CONNECT_S,
        "options": " ".join(f"-c {name}={value}" for name, value in bounds.items()),
        # A machine that is gone says nothing: the kernel asks, and gives up.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": STATEMENT_S * 1000,
    }


def connect_arguments(engine: Engine) -> dict[str, Any]:
    """Return what the driver is called with for a connection like those of an engine."""
    _, arguments = engine.dialect.create_connect_args(engine.url)
    # SQLAlchemy's own types, for values of its own.
    arguments.pop("context", None)
    return {**arguments, **_bounds()}


def reading(engine: Engine) -> Engine:
    """The same engine for those that only read: one snapshot each, which no writer holds up or undoes."""
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def locking(engine: Engine) -> Engine:
    """The same engine for those that lock what must not change: each statement sees what is committed."""
    return engine.execution_options(isolation_level="READ COMMITTED")


class Availability:
    """Whether to ask the database at all: whoever waited while one found it away is answered at once."""

    def __init__(self) -> None:
        # until when, and when it answered last, by the monotonic clock
        self._away_until = 0.0
        self._answered_at = 0.0

    def check(self) -> None:
        """Raise DatabaseUnavailable where it was away a moment ago."""
        if time.monotonic() < self._away_until:
            raise DatabaseUnavailable(NO_ANSWER, retry_after_ms=1000)

    def found_away(self, began: float) -> None:
        """Somebody could not reach it who began to ask at that time. What others found since counts more."""
        if began > self._answered_at:
            self._away_until = time.monotonic() + AWAY_S

    def answered(self) -> None:
        """Somebody's transaction is committed."""
        self._answered_at = time.monotonic()
        self._away_until = 0.0


class PostgresTransaction(Generic[T]):
    """Work on a database, which a thread runs and another may give up.

    Args:
        engine: of the database.
        work: what to do with an open session; run again as a whole where the database refuses it.
        availability: of the database, which transactions share.
    """

    def __init__(self, engine: Engine, work: Callable[[Session], T], availability: Availability) -> None:
        self._engine = engine
        self._availability = availability
        self._work = work
        # of the next two, which are written by the thread that works and by the one that gives up
        self._guard = threading.Lock()
        self._abandoned = False
        # a descriptor of our own for the socket of the connection in use: the driver may close its own
        # meanwhile
        self._socket: socket.socket | None = None
        # whether COMMIT was on its way when an error came, so that nobody knows whether it happened
        self._committing = False

    def run(self) -> T:
        """Return what the work returns, when it is committed. Blocks for some ``TRANSACTION_S`` at most.

        Raises:
            DatabaseUnavailable: the database does not answer, or too many write the same.
        """
        retrying = Retrying(
            retry=self._worth_a_repeat,
            # Once in any case: what took so long may be the machine.
            stop=stop_all(stop_after_delay(REPEATED_S), stop_after_attempt(2)),
            wait=_PAUSES,
            reraise=True,
        )
        self._availability.check()
        began = time.monotonic()
        try:
            done = retrying(self._once)
        except (DBAPIError, NoConnectionFree) as error:
            if not is_away(error):
                raise
            if _unreachable(error):
                self._availability.found_away(began)
            log.warning("database.unavailable", error=reason(error))
            raise DatabaseUnavailable(self._message(error), retry_after_ms=1000) from error
        self._availability.answered()
        return done

    def abandon(self) -> None:
        """Give up: the thread that works fails at once, wherever it waits for the database."""
        with self._guard:
            self._abandoned = True
            if self._socket is not None:
                # Seen by the thread as the end of the connection. The server undoes what is not committed.
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _once(self) -> T:
        self._committing = False
        self._check()
        try:
            # Rows are read after the commit, to be answered: expired ones would be loaded again.
            with Session(self._engine, expire_on_commit=False) as session, session.begin():
                self._watch(session.connection())
                done = self._work(session)
                session.flush()
                self._check()
                self._committing = True
            return done
        finally:
            self._unwatch()

    def _check(self) -> None:
        if self._abandoned:
            raise DatabaseUnavailable(NO_ANSWER, retry_after_ms=1000)

    def _watch(self, connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        # The family does not matter for shutting it down.
        own = socket.fromfd(driver.fileno(), socket.AF_INET, socket.SOCK_STREAM)
        with self._guard:
            self._socket = own
        self._check()

    def _unwatch(self) -> None:
        with self._guard:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _worth_a_repeat(self, state: RetryCallState) -> bool:
        error = None if state.outcome is None else state.outcome.exception()
        if self._abandoned or not isinstance(error, DBAPIError):
            return False
        known = sqlstate(error)
        if known == _DUPLICATE:
            return state.attempt_number <= REPEATED_AFTER_DUPLICATE
        # A connection of the pool that ended since it was used last, by a restart of the database for
        # instance; the pool drops all others of its age.
        ended = error.connection_invalidated and not self._committing and state.attempt_number == 1
        return known in _CONFLICTS or ended

    def _message(self, error: DBAPIError | NoConnectionFree) -> str:
        # Without the driver's words, which name hosts: agents and browsers read this. The log has them.
        if isinstance(error, DBAPIError) and sqlstate(error) in _CONFLICTS:
            return f"Others changed the same in the database for {REPEATED_S} s; try again."
        if self._committing:
            return "The database ended the connection during a commit, which may have happened; try again."
        return NO_ANSWER


NO_ANSWER: Final = "The server's database does not answer now; try again."


def is_away(error: DBAPIError | NoConnectionFree) -> bool:
    """Whether the database is not to be used now; else the program did what it should not."""
    if isinstance(error, NoConnectionFree) or error.connection_invalidated:
        return True
    known = sqlstate(error)
    if known is None:
        # Before there is a connection, there is no number: refused, no such host, a wrong password.
        return isinstance(error, OperationalError)
    return is_away_state(known)


def is_away_state(known: str) -> bool:
    """Whether an SQLSTATE says that the database is not to be used now."""
    return known in _CONFLICTS | _NOT_NOW or known.startswith(_AWAY)


def _unreachable(error: DBAPIError | NoConnectionFree) -> bool:
    return isinstance(error, NoConnectionFree) or error.connection_invalidated or sqlstate(error) is None


def answered(
    ask: Callable[Concatenate[Engine, P], T], engine: Engine, *args: P.args, **kwargs: P.kwargs
) -> T:
    """Return what is asked at a start. Raise DatabaseUnavailable with the reason: a person reads it there."""
    try:
        return ask(engine, *args, **kwargs)
    except DBAPIError as error:
        if engine.dialect.name != "postgresql" or not is_away(error):
            raise
        where = shown(engine.url)
        raise DatabaseUnavailable(f"The database {where} does not answer: {reason(error)}") from error


def sqlstate(error: DBAPIError) -> str | None:
    """Return the five characters by which PostgreSQL says what went wrong; None where it said nothing."""
    found: str | None = getattr(error.orig, "sqlstate", None)
    return found


def reason(error: DBAPIError | NoConnectionFree) -> str:
    """Return the driver's words for it, in one line, without the statement and its parameters."""
    words = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(words).split())
