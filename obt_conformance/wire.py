"""One socket, played by hand: every frame that comes is kept with its time and size; anything can be sent.

Frames stay plain JSON values here: the kit sends what no type of the protocol would let through.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed

from obt_agent.protocol.errors import CODE_OF_KIND
from obt_conformance.checks import RuleBroken, require
from obt_conformance.frames import Closed, Frame, JsonObject

T = TypeVar("T")
# From a request to its result, or the kind of its error; None leaves the request open.
Handler = Callable[[Frame], JsonObject | str | None]


class RawSocket:
    """One open socket. Everything that comes is in ``frames``.

    Args:
        socket: the open WebSocket.
        answer_within_s: how long an answer or an expected frame may take.
    """

    def __init__(self, socket: Connection, *, answer_within_s: float) -> None:
        self.socket = socket
        self.answer_within_s = answer_within_s
        self.frames: list[Frame] = []
        # Answers among them by the text of their ids (1 and "1" differ). A search through all frames for each
        # of a thousand requests would hold up the event loop for longer than the other side bears silence.
        self._answers: dict[str, list[Frame]] = {}
        # Bytes that were sent, by method.
        self.sent_bytes: Counter[str] = Counter()
        # Requests of these methods are answered as they come; all others stay open.
        self.handlers: dict[str, Handler] = {}
        # Called with each frame before anything waits for it, so that credit is counted first.
        self.on_frame: Callable[[Frame], None] = lambda _: None
        # None while the socket is open.
        self.closed: Closed | None = None
        self.opened_at = time.monotonic()
        # Notified after each frame and at the end: every wait of a check is a wait for this.
        self._changed = asyncio.Condition()
        # Apart from the small ids that checks choose themselves.
        self._ids = itertools.count(1001)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._alive: asyncio.Task[None] | None = None
        self.spawn(self._read(), "conformance reader")

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run a coroutine beside the checks; ``close`` cancels it."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Sending.

    async def send(self, message: JsonObject | str | bytes) -> int:
        """Send an object or text as text, bytes as a binary frame; return the size in UTF-8 bytes."""
        data = json.dumps(message, ensure_ascii=False) if isinstance(message, dict) else message
        # What cannot go out any more is dropped: the check goes by ``closed``.
        with contextlib.suppress(ConnectionClosed):
            await self.socket.send(data)
        size = len(data.encode() if isinstance(data, str) else data)
        if isinstance(message, dict) and "method" in message:
            self.sent_bytes[message["method"]] += size
        return size

    async def notify(self, method: str, params: JsonObject | None = None) -> int:
        """A notification."""
        return await self.send({"jsonrpc": "2.0", "method": method, "params": params or {}})

    async def post(self, method: str, params: JsonObject | None = None, request_id: Any = None) -> Any:
        """A request; gives its id and waits for nothing."""
        number = self.next_id() if request_id is None else request_id
        await self.send({"jsonrpc": "2.0", "id": number, "method": method, "params": params or {}})
        return number

    async def ask(self, method: str, params: JsonObject | None = None, request_id: Any = None) -> Frame:
        """A request and its answer.

        Raises:
            RuleBroken: none came in time, or the socket ended.
        """
        return await self.answer(await self.post(method, params, request_id), f"{method} was not answered")

    def next_id(self) -> int:
        """Return a fresh id."""
        return next(self._ids)

    async def ask_ok(self, method: str, params: JsonObject | None = None) -> JsonObject:
        """A request and its result.

        Raises:
            RuleBroken: it was answered with an error, or not at all.
        """
        answer = await self.ask(method, params)
        require(
            answer.error_code is None,
            f"{method} was answered with error {answer.error_code} {answer.error_message}",
        )
        return answer.result

    async def ask_refused(self, kind: str, method: str, params: JsonObject | None = None) -> Frame:
        """A request, and the error of that kind that it is answered with.

        Raises:
            RuleBroken: it was answered otherwise, or not at all.
        """
        answer = await self.ask(method, params)
        require(answer.error_code == CODE_OF_KIND[kind], f"{method} was answered with {answer.message}")
        return answer

    async def error_after(self, text: str, what: str) -> Frame:
        """Send a frame, and return the error that it is answered with, whatever its id.

        Raises:
            RuleBroken: it is answered with none.
        """
        before = len(self.frames)

        def errors() -> list[Frame]:
            return [frame for frame in self.frames[before:] if frame.error_code is not None]

        await self.send(text)
        await self.until(lambda: bool(errors()), f"{what} was not answered with an error")
        return errors()[0]

    async def reply(self, request: Frame, result: JsonObject) -> None:
        """Answer a request with a result."""
        await self.send({"jsonrpc": "2.0", "id": request.id, "result": result})

    async def refuse(self, request: Frame, kind: str, **data: Any) -> None:
        """Answer a request with an error of that kind."""
        error = {"code": CODE_OF_KIND[kind], "message": kind, "data": {"kind": kind, **data}}
        await self.send({"jsonrpc": "2.0", "id": request.id, "error": error})

    def send_alive_every(self, interval_s: float) -> None:
        """Send ``link.alive`` from now on, as a side that has nothing else to say."""

        async def beat() -> None:
            while self.closed is None:
                await self.notify("link.alive")
                await asyncio.sleep(interval_s)

        self.stop_sending_alive()
        self._alive = self.spawn(beat(), "conformance alive")

    def stop_sending_alive(self) -> None:
        """Be silent."""
        if self._alive is not None:
            self._alive.cancel()
            self._alive = None

    def send_pongs_every(self, interval_s: float) -> None:
        """Send pongs that nobody asked for from now on, as a library may while its program hangs."""

        async def beat() -> None:
            while self.closed is None:
                with contextlib.suppress(ConnectionClosed):
                    await self.socket.pong()
                await asyncio.sleep(interval_s)

        self.spawn(beat(), "conformance pongs")

    # Receiving.

    def answers(self, request_id: Any) -> list[Frame]:
        """Every answer with this very id (1 and "1" differ)."""
        return self._answers.get(repr(request_id), [])

    async def answer(self, request_id: Any, otherwise: str = "") -> Frame:
        """The first answer with this id.

        Raises:
            RuleBroken: with ``otherwise``, when none came.
        """
        otherwise = otherwise or f"request {request_id!r:.20} was not answered"
        await self.until(lambda: bool(self.answers(request_id)), otherwise)
        return self.answers(request_id)[0]

    def of(self, method: str) -> list[Frame]:
        """Every request and notification of that method."""
        return [frame for frame in self.frames if frame.method == method]

    async def expect(self, method: str, *, count: int = 1, within_s: float | None = None) -> Frame:
        """The ``count``-th request or notification of that method.

        Raises:
            RuleBroken: it did not come.
        """
        await self.until(lambda: len(self.of(method)) >= count, f"{method} did not come", within_s=within_s)
        return self.of(method)[count - 1]

    async def until(
        self, ready: Callable[[], bool], otherwise: str, *, within_s: float | None = None, open_: bool = True
    ) -> None:
        """Wait until what came made ``ready`` true.

        Args:
            ready: called after each frame.
            otherwise: the text of the failure.
            within_s: how long to wait; the usual time when omitted.
            open_: give up when the socket ends.

        Raises:
            RuleBroken: it did not become true.
        """
        limit = self.answer_within_s if within_s is None else within_s
        try:
            async with asyncio.timeout(limit), self._changed:
                await self._changed.wait_for(lambda: ready() or (open_ and self.closed is not None))
        except TimeoutError:
            raise RuleBroken(f"{otherwise} within {limit:g} s") from None
        if not ready():
            raise RuleBroken(f"{otherwise}: {self.how_closed()}")

    async def until_closed(self, within_s: float | None = None) -> Closed:
        """Wait for the socket's end.

        Raises:
            RuleBroken: it is still open.
        """
        await self.until(
            lambda: self.closed is not None, "the socket was not closed", within_s=within_s, open_=False
        )
        assert self.closed is not None  # noqa: S101 - what was waited for
        return self.closed

    async def closed_with(self, *codes: int, within_s: float | None = None) -> str:
        """Wait for the socket's end; return a text with the close code.

        Raises:
            RuleBroken: it is still open, or was closed with none of ``codes``.
        """
        closed = await self.until_closed(within_s)
        wanted = " or ".join(map(str, codes))
        require(closed.code in codes, f"{self.how_closed()}, not {wanted}")
        return f"closed with {closed.code}"

    async def dropped_between(
        self, least_s: float, most_s: Callable[[], float], *, since: float | None = None
    ) -> str:
        """Wait for the socket's end; return a text with the time that it took.

        Args:
            least_s: how long it lasts at least.
            most_s: how long it lasts at most; asked again at the end, for it may have grown.
            since: monotonic seconds from which both count; now when omitted.

        Raises:
            RuleBroken: it ended earlier, or is still open.
        """
        started = time.monotonic() if since is None else since
        while self.closed is None and (left := started + most_s() - time.monotonic()) > 0:
            await self.quiet_for(left)
        closed = await self.until_closed(0)
        waited = closed.at - started
        require(waited >= least_s, f"closed after {waited:.1f} s already")
        return f"closed with {closed.code} after {waited:.1f} s"

    async def quiet_for(self, seconds: float) -> None:
        """Let time pass in which the other side may do what it must not; ends early when the socket does."""
        with contextlib.suppress(RuleBroken):
            await self.until_closed(seconds)

    def how_closed(self) -> str:
        """Return the socket's end, or that it is open, as a text for results."""
        if self.closed is None:
            return "the socket is open"
        return f"the socket was closed with {self.closed.code} {self.closed.reason}".rstrip()

    def pause_reading(self) -> None:
        """Stop taking anything from the connection, pings included."""
        self.socket.transport.pause_reading()

    async def _read(self) -> None:
        try:
            while True:
                self._take(await self.socket.recv())
                async with self._changed:
                    self._changed.notify_all()
        except ConnectionClosed:
            code, reason = self.socket.close_code, self.socket.close_reason
            self.closed = Closed(time.monotonic(), code or 1006, reason or "")
        async with self._changed:
            self._changed.notify_all()

    def _take(self, data: str | bytes) -> None:
        raw = data.encode() if isinstance(data, str) else data
        try:
            value = json.loads(raw) if isinstance(data, str) else {}
        except (ValueError, RecursionError):
            value = {}
        frame = Frame(time.monotonic(), len(raw), value if isinstance(value, dict) else {})
        self.frames.append(frame)
        if frame.is_answer:
            self._answers.setdefault(repr(frame.id), []).append(frame)
        self.on_frame(frame)
        handler = self.handlers.get(frame.method or "") if frame.is_request else None
        # In a task of its own: the other side may read nothing, and this reader must go on.
        if handler is not None and (result := handler(frame)) is not None:
            answer = self.refuse(frame, result) if isinstance(result, str) else self.reply(frame, result)
            self.spawn(answer, "conformance answer")

    async def close(self, code: int = 1000) -> None:
        """Close in order, and end every task."""
        # A transport whose reading is paused never sees the other side's close.
        if not self.socket.transport.is_closing():
            self.socket.transport.resume_reading()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await self.socket.close(code)
        self.abort()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def abort(self) -> None:
        """Drop the connection with no word."""
        self.socket.transport.abort()
