"""``/healthz`` and ``/readyz``: whether the process serves, and whether it can do its work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

log = structlog.get_logger(__name__)

PATHS: Final = frozenset({"/healthz", "/readyz"})
"""Open to everybody, under any name of the server: they say one word, and probes ask by address."""
ASKED_EVERY_S: Final = 1.0
"""Of the database, however many ask: strangers may, and must not make it work."""
DATABASE_WITHIN_S: Final = 5.0


class Readiness:
    """Whether the server can do its work: the database answers, and the server is not about to stop.

    Migrations are done before anything is served, so that a database that answers has the current schema.

    Args:
        draining: whether the server is about to stop.
        ask_database: returns when the database has answered.
    """

    def __init__(self, draining: Callable[[], bool], ask_database: Callable[[], Awaitable[object]]) -> None:
        self._draining = draining
        self._ask_database = ask_database
        self._withdrawn = False
        # the last answer of the database, and until when it holds
        self._answered, self._until = False, 0.0
        # one look at a time; who comes meanwhile gets its outcome
        self._looking = asyncio.Lock()

    def withdraw(self) -> None:
        """Say no from now on, while everything is still served: proxies are to look elsewhere."""
        self._withdrawn = True

    async def check(self) -> bool:
        """Return whether requests can be served."""
        if self._withdrawn or self._draining():
            return False
        async with self._looking:
            if time.monotonic() >= self._until:
                self._answered = await self._database_answers()
                self._until = time.monotonic() + ASKED_EVERY_S
        return self._answered

    async def _database_answers(self) -> bool:
        try:
            async with asyncio.timeout(DATABASE_WITHIN_S):
                await self._ask_database()
        # Whatever the database says (a full disk, a file that is gone), the answer here is the same; the log
        # has the reason.
        except Exception as error:  # noqa: BLE001 - see above
            log.warning("readiness.failed", error=repr(error))
            return False
        return True


def routes(readiness: Readiness) -> APIRouter:
    """Return the routes. They are gated by nothing, and tell nothing but one word."""
    router = APIRouter(tags=["operation"], default_response_class=PlainTextResponse)

    @router.get("/healthz", summary="Whether the process serves")
    async def healthz() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @router.get(
        "/readyz",
        summary="Whether the database answers and the server is not about to stop",
        responses={503: {"description": "Not now.", "content": {"text/plain": {}}}},
    )
    async def readyz() -> PlainTextResponse:
        ready = await readiness.check()
        return PlainTextResponse("ok\n" if ready else "not ready\n", 200 if ready else 503)

    return router
