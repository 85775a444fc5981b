"""A server at the wire: real sockets, real TLS, and an answer to the upgrade that the test chooses."""

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import trustme
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from obt_agent.config.schema import ServerConfig
from obt_agent.doctor import run_checks
from obt_agent.link.timings import LinkTimings

CHECK_GROUPS = "config|state|agent|store|server|ollama|hardware|service"


def check_names() -> set[str]:
    """The names of all checks that stand in the doctor's code."""
    code = "".join(file.read_text() for file in Path(run_checks.__file__).parent.glob("*.py"))
    return set(re.findall(rf'"((?:{CHECK_GROUPS})\.[a-z_]+)"', code))


SHORT = LinkTimings(resolve_s=5, connect_s=5, proxy_s=5, tls_s=5, upgrade_s=5)


@dataclass
class Server:
    """Answers upgrades with ``status`` and the headers ``date`` and ``name``; keeps what it is shown."""

    status: int = 101
    date: str | None = None
    name: str | None = "test-server/1"
    url: str = ""
    heard: list[str | bytes] = field(default_factory=list)
    shown: list[str | None] = field(default_factory=list)

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        self.shown.append(request.headers.get("Authorization"))
        if self.status == HTTPStatus.SWITCHING_PROTOCOLS:
            return None
        return connection.respond(HTTPStatus(self.status), "no\n")

    def finish(self, connection: ServerConnection, request: Request, response: Response) -> Response:
        for header, value in (("Date", self.date), ("Server", self.name)):
            if value is not None:
                del response.headers[header]
                response.headers[header] = value
        return response

    async def serve(self, connection: ServerConnection) -> None:
        async for frame in connection:
            self.heard.append(frame)


@asynccontextmanager
async def running(server: Server, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """The server, on a free port of this machine."""
    async with serve(
        server.serve,
        "127.0.0.1",
        0,
        ssl=tls,
        subprotocols=["obt.v1"],  # type: ignore[list-item] # a NewType of str
        process_request=server.answer,
        process_response=server.finish,
        compression=None,
    ) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        server.url = f"{'wss' if tls else 'ws'}://localhost:{port}/api/v1/agents/connect"
        yield server


def tls_context(ca: trustme.CA, name: str = "localhost", **options: object) -> ssl.SSLContext:
    """A server's context with a certificate for the name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name, **options).configure_cert(context)  # type: ignore[arg-type] # options of several types
    return context


def settings(server: Server | str, tls: dict[str, Any] | None = None, *, proxy: str = "none") -> ServerConfig:
    """How to dial it."""
    url = server if isinstance(server, str) else server.url
    return ServerConfig(url=url, proxy=proxy, allow_insecure=True, **(tls or {}))
