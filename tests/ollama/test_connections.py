"""Which connections the client makes, which it keeps, and whom it trusts behind ``https``."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from obt_agent.config.schema import OllamaConfig
from obt_agent.errors import OllamaUnavailable
from obt_agent.ollama.client import OllamaClient
from tests.link.authority import Authority
from tests.ollama.raw_server import head, read_request, serving

VERSION = head(200, "application/json", "Content-Length: 15") + b'{"version":"1"}'
GENERATED = head(200, "application/json", "Content-Length: 13") + b'{"done":true}'


class Counting:
    """A peer that answers on as long as it is asked, and notes on which connection each request came."""

    def __init__(self, *, deaf_after: int | None = None) -> None:
        self.requests: list[tuple[int, str]] = []
        self._connections = 0
        self._deaf_after = deaf_after

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        number, answered = self._connections, 0
        while answered != self._deaf_after:
            method, path = (await read_request(reader)).decode().split(" ")[:2]
            self.requests.append((number, f"{method} {path}"))
            writer.write(VERSION if method == "GET" else GENERATED)
            await writer.drain()
            answered += 1
        await read_request(reader)  # takes one more, and says nothing


async def test_lists_share_a_connection_and_everything_else_has_one_of_its_own() -> None:
    peer = Counting()
    async with (
        asyncio.timeout(30),
        serving(peer) as url,
        OllamaClient(OllamaConfig(url=url)) as client,
    ):
        for _ in range(3):
            await client.version()
            await client.call("/api/generate", b"{}")
    assert [number for number, what in peer.requests if what == "GET /api/version"] == [1, 1, 1]
    assert [number for number, what in peer.requests if what == "POST /api/generate"] == [2, 3, 4]


async def test_a_list_asked_for_on_a_connection_that_has_died_is_asked_for_again() -> None:
    peer = Counting(deaf_after=1)
    async with (
        asyncio.timeout(30),
        serving(peer) as url,
        OllamaClient(OllamaConfig(url=url)) as client,
    ):
        assert [await client.version() for _ in range(3)] == ["1"] * 3
    assert peer.requests == [(number, "GET /api/version") for number in (1, 2, 3)]


@asynccontextmanager
async def behind_tls(context: ssl.SSLContext) -> AsyncIterator[str]:
    """The peer behind TLS; gives its ``https`` URL."""

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await Counting()(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()

    server = await asyncio.start_server(meet, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_an_ollama_behind_tls_is_trusted_when_the_system_trusts_its_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority()
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file(tmp_path)))
    async with (
        asyncio.timeout(30),
        behind_tls(authority.server("127.0.0.1")) as url,
        OllamaClient(OllamaConfig(url=url)) as client,
    ):
        assert await client.version() == "1"
        assert await client.call("/api/generate", b"{}") == b'{"done":true}'


async def test_an_ollama_behind_tls_is_not_trusted_when_the_system_does_not_know_its_authority() -> None:
    async with (
        asyncio.timeout(30),
        behind_tls(Authority().server("127.0.0.1")) as url,
        OllamaClient(OllamaConfig(url=url), attempts=1) as client,
    ):
        with pytest.raises(OllamaUnavailable):
            await client.version()
        with pytest.raises(OllamaUnavailable):
            await client.call("/api/generate", b"{}")
