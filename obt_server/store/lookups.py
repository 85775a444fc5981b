"""Single statements that only read, on PostgreSQL, in the event loop.

A thread takes the interpreter's lock anew at each step of a statement, beside a loop that is at work: the
same question costs several times as much there. What is asked for each call across processes is asked here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import psycopg
import structlog
from sqlalchemy import Engine

from obt_server.store.column_types import check_text
from obt_server.store.postgresql import (
    NO_ANSWER,
    Availability,
    DatabaseUnavailable,
    connect_arguments,
    is_away_state,
)
from obt_server.store.transactions import Rows, Statement

log = structlog.get_logger(__name__)

WITHIN_S: Final = 5.0
"""For one statement. Whoever asks may give up before; the connection of one that takes longer is ended."""

Count = Callable[[float, int], None]
"""Called after each statement: the seconds that it took, and 1 where it was undone, else 0."""


class Lookups:
    """Asks on a connection of its own, one statement after the other.

    Args:
        engine: of the database, which says how to connect and what a statement is in SQL.
        availability: of the database, which transactions share.
        count: told of each statement.
    """

    def __init__(self, engine: Engine, availability: Availability, count: Count) -> None:
        self._engine = engine
        self._availability = availability
        self._count = count
        self._connection: psycopg.AsyncConnection | None = None
        # whoever has it asks; the others wait
        self._turn = asyncio.Lock()
        # by statement, which are few and live as long as the program
        self._texts: dict[Statement, str] = {}
        self._asking: set[asyncio.Task[Rows]] = set()
        self._closed = False

    async def rows(self, statement: Statement, parameters: Mapping[str, Any]) -> Rows:
        """Return the rows of a statement, with values as the driver gives them.

        Raises:
            DatabaseUnavailable: the database does not answer, or not in time.
        """
        self._availability.check()
        for value in parameters.values():
            check_text(value)
        # A task of its own: the driver would keep a caller that gives up until the database has heard of it,
        # which one that hangs never does.
        asking = asyncio.create_task(self._in_turn(statement, parameters), name="look up")
        self._asking.add(asking)
        asking.add_done_callback(self._asked)
        return await asyncio.shield(asking)

    def close(self) -> None:
        """End the connection; what is asked at this moment fails."""
        self._closed = True
        if self._asking:
            self._shut()
        elif self._connection is not None:
            self._connection.pgconn.finish()

    def _asked(self, asking: asyncio.Task[Rows]) -> None:
        self._asking.discard(asking)
        # Whoever asked may be gone, and nobody else looks at it.
        if not asking.cancelled():
            asking.exception()

    async def _in_turn(self, statement: Statement, parameters: Mapping[str, Any]) -> Rows:
        async with self._turn:
            self._availability.check()
            began, undone = time.monotonic(), 1
            try:
                found = await self._answer(statement, parameters, began)
                undone = 0
                return found
            finally:
                self._count(time.monotonic() - began, undone)

    async def _answer(self, statement: Statement, parameters: Mapping[str, Any], began: float) -> Rows:
        kept = self._connection is not None
        try:
            try:
                found = await self._ask(statement, parameters)
            except psycopg.OperationalError:
                # One that ended since it was used last, by a restart of the database for instance.
                if not kept or self._connection is not None or time.monotonic() - began > WITHIN_S / 2:
                    raise
                found = await self._ask(statement, parameters)
        except psycopg.Error as error:
            if not _is_away(error):
                raise
            if self._connection is None:
                self._availability.found_away(began)
            log.warning("database.unavailable", error=" ".join(str(error).split()))
            raise DatabaseUnavailable(NO_ANSWER, retry_after_ms=1000) from error
        self._availability.answered()
        return found

    async def _ask(self, statement: Statement, parameters: Mapping[str, Any]) -> Rows:
        connection = await self._connected()
        ending = asyncio.get_running_loop().call_later(WITHIN_S, self._shut)
        try:
            cursor = await connection.execute(self._text(statement), parameters, prepare=True, binary=True)
            return await cursor.fetchall()
        finally:
            ending.cancel()
            if connection.closed:
                self._connection = None

    async def _connected(self) -> psycopg.AsyncConnection:
        if self._closed:
            raise psycopg.OperationalError("the database is closed")
        if self._connection is None:
            arguments = connect_arguments(self._engine)
            self._connection = await psycopg.AsyncConnection.connect(autocommit=True, **arguments)
            self._shut_if_closed()
        return self._connection

    def _shut_if_closed(self) -> None:
        """Closed while the connection was made: nobody else would end it."""
        if self._closed:
            self._shut()

    def _text(self, statement: Statement) -> str:
        known = self._texts.get(statement)
        if known is None:
            known = self._texts[statement] = str(statement.compile(dialect=self._engine.dialect))
        return known

    def _shut(self) -> None:
        """Have what is asked now fail at once: the driver's own way to cancel waits for the database."""
        if self._connection is not None:
            with contextlib.suppress(OSError, psycopg.Error):
                # A descriptor of our own; the family does not matter for shutting it down.
                own = socket.fromfd(self._connection.fileno(), socket.AF_INET, socket.SOCK_STREAM)
                with own:
                    own.shutdown(socket.SHUT_RDWR)


def _is_away(error: psycopg.Error) -> bool:
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError)
    return is_away_state(error.sqlstate)
