"""A TCP server that sends exactly the bytes it is told to, for what no HTTP library would send."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tests.recordings import Recording

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(peer: Peer) -> AsyncIterator[str]:
    """Serve each connection with ``peer``; gives the URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await peer(reader, writer)
        finally:
            writer.close()
            tasks.discard(task)
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(meet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """The head and body of one request."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return head + await reader.readexactly(length)


def replying(reply: bytes) -> Peer:
    """A peer that answers every request with the same bytes, then closes."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(reply)
        await writer.drain()

    return peer


def head(status: int = 200, content_type: str | None = "application/x-ndjson", *extra: str) -> bytes:
    """The head of a response."""
    lines = [f"HTTP/1.1 {status} Whatever", *extra]
    if content_type is not None:
        lines.append(f"Content-Type: {content_type}")
    return "\r\n".join([*lines, "", ""]).encode()


def chunked(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """Parts in chunks of HTTP."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + end


def recorded_response(recording: Recording) -> bytes:
    """The bytes of a recorded response, framed as Ollama framed them, broken off where it was."""
    broken = recording.end.startswith("eof-mid-chunked")
    first = head(
        recording.status or 0, recording.content_type, "Transfer-Encoding: chunked", "Connection: close"
    )
    parts = [chunk.encode() for chunk in recording.chunks]
    return first + chunked(*parts, end=b"" if broken else b"0\r\n\r\n")
