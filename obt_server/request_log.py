"""A line of the log for each request; off unless it is switched on."""

from __future__ import annotations

import time
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from obt_agent.printable import printable

log = structlog.get_logger(__name__)

_PATH_CHARS: Final = 300


class RequestLogMiddleware:
    """Logs method, path, status and time of each request when its answer has ended.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, then write the line."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def send_and_look(message: Message) -> None:
            nonlocal status
            # Of a WebSocket that is accepted there is none; one that is refused has one.
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, send_and_look)
        finally:
            client = scope.get("client")
            log.info(
                "request.answered",
                method=scope.get("method", "WebSocket"),
                # Without the query: what people search for is not the log's.
                path=printable(scope["path"], _PATH_CHARS),
                status=status or None,
                address=None if client is None else client[0],
                ms=round((time.monotonic() - began) * 1000, 1),
            )
