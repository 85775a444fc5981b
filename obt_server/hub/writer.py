"""The one gate for writes to a socket: control first, requests as fast as they arrive at the agent."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Final

from obt_agent.errors import LinkLost
from obt_agent.protocol import limits
from obt_agent.protocol.send_window import SendWindow
from obt_server.hub.budget import WaitingBudget
from obt_server.hub.signal import Signal
from obt_server.hub.sockets import HubSocket, SocketClosed

_SMALL_BYTES: Final = 1 << 10
"""Of a request that goes like control: it delays nobody, and its sender waits for nothing else."""


class Backlog(Exception):
    """More than 1 MiB of control output waits: the peer does not read."""


class FrameWriter:
    """Queues frames for one socket; ``run`` sends them.

    Control goes in with ``post`` at once, before requests that wait, and is bounded by
    ``MAX_CONTROL_BACKLOG_BYTES``. Requests wait in ``put`` while more than ``request_backlog_bytes`` are
    queued, so that callers feel a slow link, and large ones in the queue while so much is on its way to the
    agent that what comes behind it would be late.

    Args:
        socket: where frames go.
        budget: of all that waits in this process.
        make_mark: makes the request that the agent answers at once; ``mark_answered`` is called then.
        request_backlog_bytes: requests that may be queued.
    """

    def __init__(
        self,
        socket: HubSocket,
        budget: WaitingBudget,
        make_mark: Callable[[], bytes],
        *,
        request_backlog_bytes: int = 128 << 10,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = socket
        self._budget = budget
        self._make_mark = make_mark
        self._control: deque[bytes] = deque()
        # by id: who cancels one that is still here takes it back; small ones pass those that take long
        self._small: dict[int, bytes] = {}
        self._large: dict[int, bytes] = {}
        # a frame counts until the socket has taken it, not until it left the queue
        self._queued_bytes = 0
        self._request_backlog = request_backlog_bytes
        # what may be on its way: a proxy between may take megabytes at once, and carry them for minutes
        self.window = SendWindow(self._loop.time(), least_s=0.0)
        # wakes the writing task when there may be something to send, and others when something was sent
        self._news = Signal()
        self._closed = False
        # the loop's time; the session says that it lives when this is long ago
        self.last_sent = self._loop.time()

    def post(self, frame: bytes) -> None:
        """Queue a control frame; after the end of the session it is dropped.

        Raises:
            Backlog: too much waits.
        """
        if self._closed:
            return
        if self._queued_bytes + len(frame) > limits.MAX_CONTROL_BACKLOG_BYTES + self._request_backlog:
            raise Backlog
        self._control.append(frame)
        self._queued(frame)

    async def put(self, request_id: int, frame: bytes) -> None:
        """Queue a request's frame when there is room.

        Raises:
            LinkLost: the session ended.
        """
        while not self._closed and self._queued_bytes > self._request_backlog:
            await self._news.wait()
        if self._closed:
            raise LinkLost("The agent's session ended before the request was sent.")
        (self._small if len(frame) <= _SMALL_BYTES else self._large)[request_id] = frame
        self._queued(frame)

    def take_back(self, request_id: int) -> bool:
        """Take a request back; False when it has gone out."""
        frame = self._small.pop(request_id, None) or self._large.pop(request_id, None)
        if frame is not None:
            self._gone(len(frame))
        return frame is not None

    def _queued(self, frame: bytes) -> None:
        self._count(len(frame))
        self._news.wake()

    def _count(self, size: int) -> None:
        self._queued_bytes += size
        self._budget.change(size)

    def _gone(self, size: int) -> None:
        self._count(-size)
        self._news.wake()

    def mark_answered(self) -> None:
        """What was sent before the last mark has arrived."""
        self.window.arrived(self._loop.time(), 0)
        self._news.wake()

    def check_marks(self) -> None:
        """Called now and then: an agent that answers no mark is measured no more."""
        if self.window.unanswered_for(self._loop.time()) > limits.PING_UNANSWERED_S:
            self.window.give_up()
            self._news.wake()

    async def flush(self) -> None:
        """Wait until nothing is queued, or nothing goes out any more."""
        while not self._closed and self._queued_bytes:
            await self._news.wait()

    async def run(self) -> None:
        """Send what is queued until the socket ends. A frame counts until the socket has taken it."""
        with contextlib.suppress(SocketClosed):
            while not self._closed:
                frame = await self._next()
                await self._socket.send(frame)
                self.last_sent = self._loop.time()
                self.window.sent(len(frame))
                if not self._closed:  # else close() counted it
                    self._gone(len(frame))

    async def _next(self) -> bytes:
        """Wait for the frame that goes next; marks go in between, behind what is to be measured."""
        while True:
            wait_s = self.window.take_mark(self._loop.time(), 0)
            if wait_s == 0.0:
                await self._socket.send(self._make_mark())
            if self._control:
                return self._control.popleft()
            if self._small:
                return self._small.pop(next(iter(self._small)))
            if self._large and self.window.open:
                return self._large.pop(next(iter(self._large)))
            if not wait_s:
                await self._news.wait()
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._news.wait()

    def close(self) -> None:
        """Nothing goes out from now on; those who wait learn it. The writing task has ended, or ends now."""
        self._closed = True
        self._control.clear()
        self._small.clear()
        self._large.clear()
        self._count(-self._queued_bytes)
        self._news.wake()
