"""Who may use the gateway, and how much at once."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Iterator

from starlette.requests import HTTPConnection, Request

from obt_agent.errors import StorageFailed
from obt_server.auth import InferenceGrant
from obt_server.auth.operators import bearer
from obt_server.connections import recognise
from obt_server.gateway.errors import GatewayRefused
from obt_server.gateway.settings import GatewaySettings
from obt_server.rest.context import Context

_AGAIN_MS = 1_000


class GatewayGate:
    """Checks tokens, and holds each to its share.

    Args:
        context: who asks, and from which pages.
        settings: the bounds.
    """

    def __init__(self, context: Context, settings: GatewaySettings) -> None:
        self._context = context
        self._settings = settings
        # Not even pages that may use the interface: a token in a page is every visitor's.
        self._origin = dataclasses.replace(context.origin, origins=frozenset())
        # requests that are open, by token
        self._open: Counter[str] = Counter()
        self._limits = context.limits
        if self._limits is not None:
            self._limits.count_open(lambda: self._open)
        # bytes of the bodies of all requests that are open
        self._body_bytes = 0

    async def admit(self, connection: HTTPConnection) -> InferenceGrant:
        """Return what the token of a request covers.

        Raises:
            GatewayRefused: it has none that is valid here, or nobody can know while the database is away.
        """
        try:
            return await self._grant(connection)
        except StorageFailed as error:
            raise GatewayRefused(503, error.message, retry_after_ms=_AGAIN_MS) from error

    async def _grant(self, connection: HTTPConnection) -> InferenceGrant:
        # As everywhere: a page of another site gets nothing, and no answer here lets one read it (no CORS).
        refusal = self._origin.check(connection.headers)
        if refusal is not None:
            raise GatewayRefused(refusal.status, refusal.message)
        # Looked for first: a browser that is signed in sends its cookie along, and that must open nothing.
        token = bearer(connection)
        principal = None if token is None else await self._context.authenticate(connection)
        if principal is None:
            raise GatewayRefused(401, "Send an API token of scope inference (Authorization: Bearer ...).")
        if principal.inference is None:
            raise GatewayRefused(
                403,
                "This token is of another scope; make one of scope inference, which can only use models.",
            )
        if not recognise(connection, "client"):
            raise GatewayRefused(
                503, "As many clients are connected as this server takes.", retry_after_ms=_AGAIN_MS * 5
            )
        return principal.inference

    @contextlib.contextmanager
    def turn(self, grant: InferenceGrant) -> Iterator[None]:
        """Around a request: one of those that its token may have open.

        Raises:
            GatewayRefused: it has as many already.
        """
        elsewhere = 0 if self._limits is None else self._limits.open_elsewhere(grant.id)
        if self._open[grant.id] + elsewhere >= self._settings.requests_of_token:
            most = self._settings.requests_of_token
            raise GatewayRefused(
                429, f"{most} requests of this token are open; that is the most.", retry_after_ms=_AGAIN_MS
            )
        self._open[grant.id] += 1
        try:
            yield
        finally:
            self._open[grant.id] -= 1
            # A token that is not used must not be remembered for ever.
            if not self._open[grant.id]:
                del self._open[grant.id]

    @contextlib.asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """A request's body, counted until the request has ended.

        Raises:
            GatewayRefused: it is too long, or all bodies together are.
        """
        held = 0
        try:
            parts = []
            async for part in request.stream():
                held += len(part)
                self._body_bytes += len(part)
                self._check(held)
                parts.append(part)
            yield b"".join(parts)
        finally:
            self._body_bytes -= held

    def _check(self, size: int) -> None:
        most = self._settings.max_body_bytes
        if size > most:
            raise GatewayRefused(413, f"A request may have {most} bytes.")
        if self._body_bytes > self._settings.max_bodies_bytes:
            raise GatewayRefused(
                503, "The server holds as much of requests as it may; try again.", retry_after_ms=_AGAIN_MS
            )

    async def until_refused(self, connection: HTTPConnection) -> GatewayRefused:
        """Return the refusal, once the token of an open request is valid no more."""
        recheck_s = self._context.recheck_s
        while True:
            # Asked again, never remembered: a revoked token ends what it began, whoever revoked it.
            now = asyncio.get_running_loop().time()
            # All open requests at once, so that those of one token share a read.
            await asyncio.sleep(recheck_s - now % recheck_s)
            try:
                await self._grant(connection)
            except GatewayRefused as refused:
                return refused
            # What was let in before goes on while the database is away: nothing says otherwise.
            except StorageFailed:
                continue
