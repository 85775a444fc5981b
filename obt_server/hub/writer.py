"""The one gate for writes to a socket: bounded, in order."""

from __future__ import annotations

import asyncio
from collections import deque

from obt_agent.errors import LinkLost
from obt_agent.protocol import limits
from obt_server.hub.budget import WaitingBudget
from obt_server.hub.sockets import HubSocket, SocketClosed


class Backlog(Exception):
    """More than 1 MiB of control output waits: the peer does not read."""


class FrameWriter:
    """Queues frames for one socket; ``run`` sends them.

    Control goes in with ``post`` at once and is bounded by ``MAX_CONTROL_BACKLOG_BYTES``; requests wait in
    ``put`` while more than ``request_backlog_bytes`` are queued, so that callers feel a slow link.
    """

    def __init__(
        self, socket: HubSocket, budget: WaitingBudget, *, request_backlog_bytes: int = 128 << 10
    ) -> None:
        self._socket = socket
        self._budget = budget
        self._queue: deque[bytes] = deque()
        # a frame counts until the socket has taken it, not until it left the queue
        self._queued_bytes = 0
        self._request_backlog = request_backlog_bytes
        self._filled = asyncio.Event()
        # set while a request may be queued; control frames do not wait for it
        self._space = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._space.set()
        self._closed = False
        # the loop's time; the session says that it lives when this is long ago
        self.last_sent = asyncio.get_running_loop().time()

    def post(self, frame: bytes) -> None:
        """Queue a control frame; after the end of the session it is dropped.

        Raises:
            Backlog: too much waits.
        """
        if self._closed:
            return
        if self._queued_bytes + len(frame) > limits.MAX_CONTROL_BACKLOG_BYTES + self._request_backlog:
            raise Backlog
        self._push(frame)

    async def put(self, frame: bytes) -> None:
        """Queue a request's frame when there is room.

        Raises:
            LinkLost: the session ended.
        """
        while not self._closed and self._queued_bytes > self._request_backlog:
            self._space.clear()
            await self._space.wait()
        if self._closed:
            raise LinkLost("The agent's session ended before the request was sent.")
        self._push(frame)

    def _push(self, frame: bytes) -> None:
        self._queue.append(frame)
        self._count(len(frame))
        self._filled.set()
        self._empty.clear()

    def _count(self, size: int) -> None:
        self._queued_bytes += size
        self._budget.change(size)

    async def flush(self) -> None:
        """Wait until nothing is queued, or nothing goes out any more."""
        await self._empty.wait()

    async def run(self) -> None:
        """Send what is queued until the socket ends. A frame counts until the socket has taken it."""
        loop = asyncio.get_running_loop()
        while True:
            while not self._queue:
                self._filled.clear()
                await self._filled.wait()
            frame = self._queue.popleft()
            try:
                await self._socket.send(frame)
            except SocketClosed:
                return
            self.last_sent = loop.time()
            if self._closed:
                return  # close() counted it
            self._count(-len(frame))
            if self._queued_bytes <= self._request_backlog:
                self._space.set()
            if not self._queue:
                self._empty.set()

    def close(self) -> None:
        """Nothing goes out from now on; those who wait learn it. The writing task has ended, or ends now."""
        self._closed = True
        self._queue.clear()
        self._count(-self._queued_bytes)
        self._space.set()
        self._empty.set()
