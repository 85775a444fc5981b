"""Server-sent events: named events with JSON, comments in pauses, and an end when the reader goes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Final

import msgspec
import structlog
from fastapi.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from obt_agent.errors import AgentError
from obt_server.rest.problems import error_object

log = structlog.get_logger(__name__)

KEEP_ALIVE_S: Final = 15.0
_KEEP_ALIVE: Final = b": keep-alive\n\n"
_ON_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")


def event(name: str, data: Any) -> bytes:
    """One event; ``data`` is anything that msgspec encodes."""
    return event_of_text(name, msgspec.json.encode(data))


def event_of_text(name: str, data: bytes, *, event_id: int | None = None) -> bytes:
    """One event of JSON text, as it came from an agent.

    Line ends in it are white space (in JSON's strings they are escaped), and would end the event.
    """
    # A browser sends the last number back when it reconnects (Last-Event-ID).
    identity = b"" if event_id is None else b"id: %d\n" % event_id
    return b"%sevent: %s\ndata: %s\n\n" % (identity, name.encode(), data.translate(_ON_ONE_LINE))


class EventStream(Response):
    """An open answer of events. The reader's going away cancels what makes them.

    An ``AgentError`` among the events ends the stream with an event ``error``, in the shape of REST's errors.
    So does the end of the reader's permission, where ``until_refused`` is set: it returns the refusal.

    Args:
        events: encoded events; closed in any case.
        keep_alive_s: seconds of silence after which a comment is sent.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], *, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        # nginx gathers an answer before it passes it on, unless told otherwise: live events would come in
        # gusts.
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        # The base class has counted an empty body.
        del self.headers["content-length"]
        self._events = events
        self._keep_alive_s = keep_alive_s
        self.until_refused: Callable[[], Awaitable[JSONResponse]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve until the events end, the reader leaves, or is not permitted any more."""
        # The reader is watched beside the events: a page that was closed while nothing happens would be
        # noticed with the next event, and its stream at the agent would run on.
        pump = asyncio.create_task(self._pump(send), name="sse events")
        tasks: list[asyncio.Task[Any]] = [pump, asyncio.create_task(gone(receive), name="sse reader")]
        if self.until_refused is not None:
            tasks.append(asyncio.create_task(_refusal(self.until_refused), name="sse permission"))
        for result in await first_end(*tasks):
            # OSError is a reader that went while something was sent, and nothing to look into.
            if isinstance(result, Exception) and not isinstance(result, OSError):
                log.error("sse.failed", path=scope.get("path"), exc_info=result)
            # Only where the events did not end by themselves: an answer that is complete gets nothing more.
            if isinstance(result, JSONResponse) and pump.cancelled():
                await _end(send, event_of_text("error", bytes(result.body)))

    async def _pump(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with contextlib.aclosing(with_comments(self._events, self._keep_alive_s)) as events:
            async for chunk in events:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await _end(send)


async def _refusal(until_refused: Callable[[], Awaitable[JSONResponse]]) -> JSONResponse:
    return await until_refused()


async def _end(send: Send, last: bytes = b"") -> None:
    await send({"type": "http.response.body", "body": last, "more_body": False})


async def first_end(*tasks: asyncio.Task[Any]) -> list[Any]:
    """Wait until one of the tasks ends, and end the others; return what each returned or raised."""
    try:
        # Each is awaited after its cancellation: the end of what makes an answer (a stream at the agent is
        # cancelled) belongs to the request.
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    return results


async def gone(receive: Receive) -> None:
    """Return when the reader has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def with_comments(events: AsyncIterator[bytes], keep_alive_s: float) -> AsyncGenerator[bytes, None]:
    """The events, comments in their pauses, and an event for the error that ended them."""
    waiting: asyncio.Future[bytes] | None = None
    try:
        while True:
            # One request for the next event, however many pauses pass: cancelling it would end the generator.
            waiting = waiting or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait([waiting], timeout=keep_alive_s)
            if not done:
                yield _KEEP_ALIVE
                continue
            finished, waiting = waiting, None
            try:
                chunk = finished.result()
            except StopAsyncIteration:
                return
            except AgentError as error:
                yield event("error", {"error": error_object(error)})
                return
            yield chunk
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        if hasattr(events, "aclose"):
            await events.aclose()


async def after_first(events: AsyncIterator[bytes], within_s: float) -> AsyncIterator[bytes]:
    """The same events, begun: what fails before the first one is raised here, and becomes a status.

    It waits ``within_s`` for that: a first event that takes longer (a model loads for minutes) does not
    hold up the answer's headers.
    """
    first = asyncio.ensure_future(anext(events))
    try:
        # wait() and not wait_for(): the event that takes longer is still wanted.
        await asyncio.wait([first], timeout=within_s)
        if first.done():
            first.result()
    except StopAsyncIteration:
        pass
    # Also a cancelled request: nobody would ever await the event.
    except BaseException:
        first.cancel()
        raise
    return _resumed(first, events)


async def _resumed(first: asyncio.Future[bytes], events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        try:
            yield await first
        except StopAsyncIteration:
            return
        async for chunk in events:
            yield chunk
    finally:
        # Left before the first event came: what makes it is told, and not forgotten.
        if not first.done():
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
        if hasattr(events, "aclose"):
            await events.aclose()
