"""When bytes arrived: a connection of aiohttp that notes the monotonic clock at each read of its socket.

A reader that is busy elsewhere, or waits for credit, takes bytes late. Their arrival is when the event loop
took them from the socket, and that is what a measurement needs.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler


class _StampingHandler(ResponseHandler):
    """Notes, for each read of the socket, when it came and where in the body it ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.arrivals: deque[tuple[int, int]] | None = None
        self.body: aiohttp.StreamReader | None = None
        self.first_ns = 0

    def data_received(self, data: bytes) -> None:
        """Stamp, then parse."""
        now = time.monotonic_ns()
        super().data_received(data)
        if self.body is None:
            self.first_ns = now  # the read that brings the headers often brings the first bytes
        elif self.arrivals is not None:
            self.arrivals.append((now, self.body.total_bytes))


class StampedResponse(aiohttp.ClientResponse):
    """A response that knows when each part of its body arrived."""

    arrivals: deque[tuple[int, int]]

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Read the headers, then begin to note arrivals."""
        self.arrivals = deque()
        protocol = connection.protocol
        response = await super().start(connection)
        self.arrivals.append((protocol.first_ns, self.content.total_bytes))
        protocol.arrivals = self.arrivals
        protocol.body = self.content
        return response


class StampingConnector(aiohttp.TCPConnector):
    """Makes connections that note arrivals, a fresh one for each request."""

    def __init__(self) -> None:
        super().__init__(force_close=True, limit=0, ttl_dns_cache=10)
        self._factory = partial(_connection, loop=self._loop)


def _connection(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    return _StampingHandler(loop)
