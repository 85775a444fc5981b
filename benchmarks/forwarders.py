"""What people write instead: forwarders without credit, order, limits, stamps or an answer at the end.

Run as a program of its own, so that its CPU can be read from outside::

    python -m benchmarks.forwarders raw|lines|tokens OLLAMA_URL SERVER_URL BODY [uvloop]

``raw`` passes each read on as one frame, undecoded. ``lines`` decodes each line and sends the lines of one
read as one frame. ``tokens`` decodes each line and sends a frame for each: the loop that one writes first.
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import msgspec
from websockets.asyncio.client import ClientConnection, connect


async def raw(read: bytes, socket: ClientConnection, _rest: bytearray) -> None:
    """Bytes in, a text frame out."""
    await socket.send(read, text=True)


async def lines(read: bytes, socket: ClientConnection, rest: bytearray) -> None:
    """Decode each line, encode what one read brought as one message."""
    chunks = [msgspec.json.decode(line) for line in _lines(read, rest)]
    if chunks:
        await socket.send(msgspec.json.encode({"items": chunks}), text=True)


async def tokens(read: bytes, socket: ClientConnection, rest: bytearray) -> None:
    """Decode each line, send a message for each."""
    for line in _lines(read, rest):
        await socket.send(msgspec.json.encode({"chunk": msgspec.json.decode(line)}), text=True)


def _lines(read: bytes, rest: bytearray) -> list[bytes]:
    rest += read
    *whole, last = bytes(rest).split(b"\n")
    rest[:] = last
    return [line for line in whole if line]


async def forward(kind: str, ollama: str, server: str, body: str) -> None:
    """One generation from Ollama to the server."""
    pass_on = {"raw": raw, "lines": lines, "tokens": tokens}[kind]
    async with (
        connect(server, compression=None, ping_interval=None, max_size=None) as socket,
        aiohttp.ClientSession() as http,
        http.post(f"{ollama}/api/generate", data=body) as response,
    ):
        rest = bytearray()
        while read := await response.content.readany():
            await pass_on(read, socket, rest)
        await socket.send("{}")


if __name__ == "__main__":
    work = forward(*sys.argv[1:5])
    if sys.argv[5:] == ["uvloop"]:
        import uvloop

        uvloop.run(work)
    else:
        asyncio.run(work)
