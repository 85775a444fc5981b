"""From a client's request to its answer: let in, read, answered, and ended when the client goes."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from obt_agent.errors import AgentError
from obt_server.gateway.errors import OFFLINE_RETRY_MS, Dialect, GatewayRefused, described
from obt_server.gateway.exchange import JSON, AnswerHead, Exchange, Work
from obt_server.gateway.gate import GatewayGate
from obt_server.rest.problems import MOST_RETRY_AFTER_MS
from obt_server.rest.sse import first_end, gone

log = structlog.get_logger(__name__)

_OK: Final = 200
_NO_CREDENTIAL: Final = 401
_UNAVAILABLE: Final = 503


class GatewayAnswer(Response):
    """The answer to one request.

    The status line waits for the first part of the body: what fails before it is an error of HTTP, which
    clients understand, and not a stream that breaks. The client's going away ends the work, and with it the
    generation at the agent.

    Args:
        gate: lets the request in.
        route: the path below the machine, as it is declared.
        dialect: how errors are written.
        work: makes the answer.
        reads: whether the body is read at all.
    """

    def __init__(
        self, gate: GatewayGate, route: str, dialect: Dialect, work: Work, *, reads: bool = True
    ) -> None:
        super().__init__()
        self._gate = gate
        self._route = route
        self._dialect = dialect
        self._work = work
        self._reads = reads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request."""
        request = Request(scope, receive)
        try:
            grant = await self._gate.admit(request)
            with self._gate.turn(grant):
                # What is refused whatever it says (a blob of gigabytes) is refused before it is read.
                async with self._gate.body(request) if self._reads else nothing() as body:
                    address = None if request.client is None else request.client.host
                    exchange = Exchange(self._route, request.path_params, grant, body, address)
                    await self._answer(exchange, request, send)
        # Only what came before the answer: everything later is the answer's own end.
        except GatewayRefused as refused:
            await _send_refusal(send, self._dialect, refused)
        except ClientDisconnect:
            return

    async def _answer(self, exchange: Exchange, request: Request, send: Send) -> None:
        sending = _Sending(self._dialect, exchange, send)
        pump = asyncio.create_task(sending.pump(self._work), name="gateway answer")
        leaving = asyncio.create_task(gone(request.receive), name="gateway reader")
        refusal = asyncio.create_task(self._gate.until_refused(request), name="gateway permission")
        answered, _, refused = await first_end(pump, leaving, refusal)
        outcome = "client_left" if pump.cancelled() else "complete"
        if pump.cancelled() and isinstance(refused, GatewayRefused):
            # The token was revoked in mid-answer.
            with contextlib.suppress(OSError):
                await sending.fail(refused)
        # OSError is a client that went while something was sent, and nothing to look into.
        elif isinstance(answered, Exception) and not isinstance(answered, OSError):
            log.error("gateway.failed", route=exchange.route, exc_info=answered)
            outcome = "failed"
        if exchange.agent_id is not None:
            exchange.note(sending.failed or outcome)


class _Sending:
    """The bytes of one answer.

    Args:
        dialect: how errors are written.
        exchange: what is answered; told of status and times.
        send: ASGI's.
    """

    def __init__(self, dialect: Dialect, exchange: Exchange, send: Send) -> None:
        self._dialect = dialect
        self._exchange = exchange
        self._send = send
        # the kind of the error that ended it
        self.failed = ""

    async def pump(self, work: Work) -> None:
        """Send what the work makes; ASGI's ``send`` waits while the client reads too slowly."""
        try:
            # Closed in any case: what makes the answer then cancels its command at the agent.
            async with contextlib.aclosing(work(self._exchange)) as parts:
                async for part in parts:
                    if isinstance(part, AnswerHead):
                        await self._begin(part)
                    else:
                        await self._send({"type": "http.response.body", "body": part, "more_body": True})
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        except AgentError as error:
            await self.fail(error)

    async def fail(self, error: AgentError) -> None:
        """End with an error: as a status before the head was sent, else in the stream's own form."""
        self.failed = error.kind
        status, message = described(error)
        if not self._exchange.status:
            self._exchange.status = status
            await _send_refusal(self._send, self._dialect, error)
            return
        last = self._dialect.ending(status, message)
        await self._send({"type": "http.response.body", "body": last, "more_body": False})

    async def _begin(self, head: AnswerHead) -> None:
        self._exchange.status, self._exchange.first_at = _OK, time.monotonic()
        await self._send(_start(_OK, head))


@contextlib.asynccontextmanager
async def nothing() -> AsyncIterator[bytes]:
    """No body."""
    yield b""


def _start(status: int, head: AnswerHead, *more: tuple[bytes, bytes]) -> dict[str, Any]:
    # nginx gathers an answer before it passes it on, unless told otherwise: tokens would come in gusts.
    headers = [
        (b"content-type", head.media_type.encode()),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),
    ]
    if head.length is not None:
        headers.append((b"content-length", b"%d" % head.length))
    return {"type": "http.response.start", "status": status, "headers": [*headers, *more]}


async def _send_refusal(send: Send, dialect: Dialect, error: AgentError) -> None:
    status, message = described(error)
    body = dialect.refusal(status, message)
    more = []
    wait_ms = OFFLINE_RETRY_MS if status == _UNAVAILABLE else None
    wait_ms = wait_ms if error.retry_after_ms is None else error.retry_after_ms
    if wait_ms is not None:
        # An agent may have said anything.
        seconds = math.ceil(min(max(wait_ms, 0), MOST_RETRY_AFTER_MS) / 1000)
        more.append((b"retry-after", b"%d" % seconds))
    if status == _NO_CREDENTIAL:
        more.append((b"www-authenticate", b"Bearer"))
    await send(_start(status, AnswerHead(JSON, len(body)), *more))
    await send({"type": "http.response.body", "body": body, "more_body": False})
