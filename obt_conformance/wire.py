"""One socket, played by hand: every frame that comes is kept with its time and size; anything can be sent.

Frames stay plain JSON values here: the kit sends what no type of the protocol would let through.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed

from obt_conformance.checks import RuleBroken

JsonObject = dict[str, Any]
NO_ANSWER: Final = object()
"""What a handler gives to leave a request unanswered."""


@dataclass(frozen=True)
class Frame:
    """One frame that came. ``message`` is {} when it was no JSON object; ``at`` is monotonic seconds."""

    at: float
    size: int
    message: JsonObject

    @property
    def method(self) -> str | None:
        """None for answers."""
        found = self.message.get("method")
        return found if isinstance(found, str) else None

    @property
    def id(self) -> Any:
        """None where there is none."""
        return self.message.get("id")

    @property
    def params(self) -> JsonObject:
        """{} where there are none."""
        found = self.message.get("params")
        return found if isinstance(found, dict) else {}

    @property
    def result(self) -> Any:
        """None in errors and requests."""
        return self.message.get("result")

    @property
    def error_code(self) -> int | None:
        """None unless it is an error answer."""
        error = self.message.get("error")
        code = error.get("code") if isinstance(error, dict) else None
        return code if isinstance(code, int) else None

    @property
    def error_message(self) -> str:
        """Empty unless it is an error answer."""
        error = self.message.get("error")
        return str(error.get("message", "")) if isinstance(error, dict) else ""

    @property
    def error_kind(self) -> str | None:
        """The stable word of an error answer."""
        error = self.message.get("error")
        data = error.get("data") if isinstance(error, dict) else None
        return data.get("kind") if isinstance(data, dict) else None

    @property
    def is_request(self) -> bool:
        """Whether it wants an answer."""
        return self.method is not None and "id" in self.message

    @property
    def is_answer(self) -> bool:
        """Whether it is one."""
        return self.method is None and ("result" in self.message or "error" in self.message)


Handler = Callable[[Frame], Awaitable[Any]]


@dataclass(frozen=True)
class Closed:
    """How the socket ended; 1006 without a closing handshake."""

    at: float
    code: int
    reason: str


class RawSocket:
    """One open socket.

    Requests that come are answered by ``handlers`` (by method); what a handler raises as ``Answer`` becomes
    an error, and ``NO_ANSWER`` leaves the request open. Everything that comes is in ``frames``.

    Args:
        socket: the open WebSocket.
        answer_within_s: how long an answer or an expected frame may take.
    """

    def __init__(self, socket: Connection, *, answer_within_s: float) -> None:
        self.socket = socket
        self.answer_within_s = answer_within_s
        self.frames: list[Frame] = []
        self.handlers: dict[str, Handler] = {}
        self.closed: Closed | None = None
        self.on_frame: Callable[[Frame], None] = lambda _: None
        """Told of each frame before anything else is."""
        self.opened_at = time.monotonic()
        self._changed = asyncio.Condition()
        self._ids = itertools.count(1001)  # apart from ids that checks choose
        self._tasks: set[asyncio.Task[None]] = set()
        self._alive: asyncio.Task[None] | None = None
        self._reader = asyncio.create_task(self._read(), name="conformance reader")

    # Sending.

    async def send(self, message: JsonObject | str | bytes) -> int:
        """One frame: an object or text as text, bytes as a binary frame; gives its size in UTF-8 bytes.

        What cannot go out any more is dropped: the caller looks at ``closed``.
        """
        data = json.dumps(message, ensure_ascii=False) if isinstance(message, dict) else message
        with contextlib.suppress(ConnectionClosed):
            await self.socket.send(data)
        return len(data.encode() if isinstance(data, str) else data)

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
        """A fresh id."""
        return next(self._ids)

    def send_alive_every(self, interval_s: float) -> None:
        """Send ``link.alive`` from now on, as a side that has nothing else to say."""

        async def beat() -> None:
            while self.closed is None:
                await self.notify("link.alive")
                await asyncio.sleep(interval_s)

        self.stop_sending_alive()
        self._alive = asyncio.create_task(beat(), name="conformance alive")

    def stop_sending_alive(self) -> None:
        """Be silent."""
        if self._alive is not None:
            self._alive.cancel()
            self._alive = None

    # Receiving.

    def answers(self, request_id: Any) -> list[Frame]:
        """Every answer with this very id (1 and "1" differ)."""
        return [
            frame
            for frame in self.frames
            if frame.is_answer and type(frame.id) is type(request_id) and frame.id == request_id
        ]

    async def answer(self, request_id: Any, otherwise: str) -> Frame:
        """The first answer with this id.

        Raises:
            RuleBroken: with ``otherwise``, when none came.
        """
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
            ready: looked at after each frame.
            otherwise: what is said when it does not become true.
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

    async def quiet_for(self, seconds: float) -> None:
        """Let time pass in which the other side may do what it must not; ends early when the socket does."""
        with contextlib.suppress(RuleBroken):
            await self.until_closed(seconds)

    def how_closed(self) -> str:
        """For results."""
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
        self.on_frame(frame)
        if frame.is_request and frame.method in self.handlers:
            task = asyncio.create_task(self._respond(frame, self.handlers[frame.method]), name="answer")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _respond(self, frame: Frame, handler: Handler) -> None:
        result = await handler(frame)
        if result is NO_ANSWER:
            return
        body = {"error": result.error} if isinstance(result, Error) else {"result": result}
        await self.send({"jsonrpc": "2.0", "id": frame.id, **body})

    async def close(self, code: int = 1000) -> None:
        """Close in order, and end every task."""
        self.stop_sending_alive()
        self.socket.transport.resume_reading() if not self.socket.transport.is_closing() else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await self.socket.close(code)
        self.abort()
        tasks = [self._reader, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def abort(self) -> None:
        """Drop the connection with no word."""
        self.socket.transport.abort()


@dataclass(frozen=True)
class Error:
    """What a handler gives to answer with an error."""

    code: int
    kind: str
    text: str = "refused by the conformance kit"

    @property
    def error(self) -> JsonObject:
        """The error object."""
        return {"code": self.code, "message": self.text, "data": {"kind": self.kind}}
