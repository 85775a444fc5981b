"""When bytes arrived: a connection of aiohttp that notes the monotonic clock at each read of its socket.

A reader that is busy elsewhere, or waits for credit, takes bytes late. Their arrival is when the event loop
took them from the socket, and that is what a measurement needs.

aiohttp has no public way to see that moment. What is used of its inside is named in
``tests/ollama/test_private_parts.py``, and ``pyproject.toml`` bounds its version.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from functools import partial
from typing import Any

from obt_agent.ollama.http_library import ResponseHandler, aiohttp


class _StampingHandler(ResponseHandler):
    """Notes, for each read of the socket, when it came and where in the body it ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        # Of the latest read of the socket, on the monotonic clock.
        self.read_ns = 0
        # Of the present response: for each read its time, and the length of the body after it.
        self._arrivals: deque[tuple[int, int]] | None = None
        self._body: aiohttp.StreamReader | None = None
        # Length of the body at the latest entry of _arrivals.
        self._noted = 0

    def note(self, arrivals: deque[tuple[int, int]], body: aiohttp.StreamReader) -> None:
        """Begin to note arrivals of a body; what is there of it came with the latest read."""
        self._arrivals, self._body, self._noted = arrivals, body, 0
        self._append()

    def data_received(self, data: bytes) -> None:
        """Stamp, then parse. Empty data means: parse what an earlier read brought and a pause kept."""
        if data:
            self.read_ns = time.monotonic_ns()
        super().data_received(data)
        self._append()

    def resume_reading(self, *args: Any, **options: Any) -> None:
        """Resume what was paused; aiohttp asks with every chunk taken, which costs 0.9 µs a token."""
        # From aiohttp 3.14 on there is an argument, resume_parser.
        if self._reading_paused:
            super().resume_reading(*args, **options)

    def _append(self) -> None:
        if self._body is not None and self._arrivals is not None and self._body.total_bytes > self._noted:
            self._noted = self._body.total_bytes
            self._arrivals.append((self.read_ns, self._noted))


class StampedResponse(aiohttp.ClientResponse):
    """A response that knows when each part of its body arrived."""

    arrivals: deque[tuple[int, int]]

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Read the headers, then begin to note arrivals."""
        self.arrivals = deque()
        protocol: _StampingHandler = connection.protocol
        response = await super().start(connection)
        protocol.note(self.arrivals, self.content)
        return response


class StampingConnector(aiohttp.TCPConnector):
    """Makes connections that note arrivals.

    Args:
        trust: who vouches for an ``https`` address; None: it is not one.
        keep: whether a request may take the connection of the one before; else each has a fresh one.
    """

    def __init__(self, trust: ssl.SSLContext | None = None, *, keep: bool = False) -> None:
        super().__init__(force_close=not keep, limit=0, ttl_dns_cache=10, ssl=trust or True)
        # Connections made so far.
        self.made = 0
        # What the connector makes each connection with.
        self._factory = partial(self._connection)

    def _connection(self) -> ResponseHandler:
        self.made += 1
        return _StampingHandler(self._loop)
