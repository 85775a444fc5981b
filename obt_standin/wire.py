"""A streamed answer on its socket: framed as Ollama does, in pieces and with endings as scripted."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from contextvars import ContextVar
from typing import Final

from aiohttp import web

from obt_standin.log import LoggedExchange
from obt_standin.script import Behaviour

# Of the request that this task answers. aiohttp's request has typed keys for such things from 3.14 on.
EXCHANGE: Final[ContextVar[LoggedExchange]] = ContextVar("exchange")
# Pieces between two turns of the event loop.
_YIELD_EVERY: Final = 64
_UNBOUNDED: Final = 1 << 60


class OwnFraming(web.StreamResponse):
    """A response whose chunks are written by ``StreamedBody``, not by aiohttp."""


class StreamedBody:
    """The body of one streamed answer. Headers go out with the first line, as Ollama's do."""

    def __init__(self, request: web.Request, behaviour: Behaviour) -> None:
        self._request = request
        self._behaviour = behaviour
        self._exchange = EXCHANGE.get()
        self.response = OwnFraming(headers={"Content-Type": "application/x-ndjson"})
        # aiohttp then leaves the framing alone, and each line gets a chunk of its own, as with Ollama.
        self.response.content_length = _UNBOUNDED

    async def write(self, lines: list[bytes]) -> None:
        """Write lines, each in a chunk of its own, in one go or in the pieces that the script asks for."""
        framed = b"".join([b"%x\r\n%b\r\n" % (len(line), line) for line in lines])
        await self._begin()
        pieces = self._behaviour.split_bytes
        if pieces is None:
            self._note(b"".join(lines))
            await self.response.write(framed)
        else:
            await self._write_pieces(framed, pieces, b"".join(lines))

    async def write_block(self, framed: bytes) -> None:
        """Write bytes that are framed already; the log does not hold them."""
        await self._begin()
        await self.response.write(framed)

    async def finish(self) -> None:
        """End properly."""
        await self._begin()
        await self.response.write(b"0\r\n\r\n")

    async def cut(self) -> None:
        """Close inside a chunk."""
        await self._begin()
        await self.response.write(b"40\r\n" + b'{"model":"cut')
        self.close()

    def close(self) -> None:
        """Close with no last chunk, as when the server is stopped."""
        self._exchange.ended = "broken_off"
        if self._request.transport is not None:
            self._request.transport.close()

    def reset(self) -> None:
        """Reset the connection."""
        self._exchange.ended = "broken_off"
        reset(self._request)

    async def _begin(self) -> None:
        if not self.response.prepared:
            self._exchange.headers_ns = time.monotonic_ns()
            self._exchange.status = self.response.status
            await self.response.prepare(self._request)

    async def _write_pieces(self, framed: bytes, size: int, data: bytes) -> None:
        for count, start in enumerate(range(0, len(framed), size)):
            # A line counts as written with its last byte.
            if start + size >= len(framed):
                self._note(data)
            await self.response.write(framed[start : start + size])
            if count % _YIELD_EVERY == 0:
                await asyncio.sleep(0)

    def _note(self, data: bytes) -> None:
        self._exchange.writes.append((time.monotonic_ns(), data))


def reset(request: web.Request) -> None:
    """Reset a request's connection, so that the client sees ECONNRESET."""
    transport = request.transport
    if transport is None:
        return
    raw: socket.socket | None = transport.get_extra_info("socket")
    if raw is not None:
        # A linger of no time: closing sends RST and not FIN.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def json_answer(body: bytes) -> web.Response:
    """An answer in one piece, with the content type of Ollama's."""
    return web.Response(body=body, headers={"Content-Type": "application/json; charset=utf-8"})
