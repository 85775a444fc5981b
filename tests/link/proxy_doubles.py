"""Proxies on real sockets: HTTP CONNECT (RFC 9110, 9.3.6) and SOCKS5 (RFC 1928, 1929), for tests."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import struct
from types import TracebackType
from typing import Self


class ProxyDouble:
    """Connects every client to ``port`` on this machine, whatever host it asked for.

    Attributes:
        asked: the targets that clients asked for, as they wrote them.
        credentials: what clients came with.
    """

    def __init__(self, port: int, *, username: str | None = None, password: str | None = None) -> None:
        self.asked: list[str] = []
        self.credentials: list[str] = []
        self.silent = False
        self.garbage = False
        self._target_port = port
        self._wanted = None if username is None else f"{username}:{password}"
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self.silent:
                await asyncio.Event().wait()
            if self.garbage:
                writer.write(b"\x00\xff what?\r\n\r\n")
                return
            if await self.agree(reader, writer):
                await self._join(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def agree(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Speak the proxy's protocol; whether the client is let through."""
        raise NotImplementedError

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        try:
            await asyncio.gather(_pass(reader, server_writer), _pass(server_reader, writer))
        finally:
            server_writer.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


class HttpProxyDouble(ProxyDouble):
    """Answers 407 without the right credentials."""

    async def agree(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines = head.split("\r\n")
        self.asked.append(lines[0].split()[1])
        given = next((line for line in lines if line.lower().startswith("proxy-authorization:")), "")
        word = given.rpartition(" ")[2]
        credentials = base64.b64decode(word).decode() if word else ""
        self.credentials.append(credentials)
        if self._wanted is not None and credentials != self._wanted:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return False
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return True


class SocksProxyDouble(ProxyDouble):
    """With user name and password (RFC 1929) when wanted."""

    async def agree(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        _, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        if self._wanted is None:
            writer.write(b"\x05\x00")
        elif 2 not in methods:
            writer.write(b"\x05\xff")
            return False
        else:
            writer.write(b"\x05\x02")
            if not await self._check(reader, writer):
                return False
        await self._read_target(reader)
        writer.write(b"\x05\x00\x00\x01" + bytes(6))
        return True

    async def _check(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        _, size = await reader.readexactly(2)
        username = await reader.readexactly(size)
        size = (await reader.readexactly(1))[0]
        password = await reader.readexactly(size)
        self.credentials.append(f"{username.decode()}:{password.decode()}")
        ok = self.credentials[-1] == self._wanted
        writer.write(b"\x01\x00" if ok else b"\x01\x01")
        return ok

    async def _read_target(self, reader: asyncio.StreamReader) -> None:
        *_, kind = await reader.readexactly(4)
        if kind == 3:
            size = (await reader.readexactly(1))[0]
            host = (await reader.readexactly(size)).decode()
        else:
            host = ".".join(str(byte) for byte in await reader.readexactly(4 if kind == 1 else 16))
        (port,) = struct.unpack("!H", await reader.readexactly(2))
        self.asked.append(f"{host}:{port}")
