"""The ASGI server: uvicorn, set as the protocol needs it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from obt_agent.protocol import limits
from obt_server.app import Server
from obt_server.rest.socket import ABORT_EXTENSION


class AbortableProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSockets, with a way to drop a connection whose peer does not read.

    ASGI has none, and a close frame would wait behind what the peer does not take.
    """

    def handle_connect(self, event: Any) -> None:
        """Put the way into the scope before the application sees it."""
        super().handle_connect(event)
        if hasattr(self, "scope"):
            self.scope["extensions"] = {
                **(self.scope.get("extensions") or {}),
                ABORT_EXTENSION: {"abort": self.transport.abort},
            }


class DrainingServer(uvicorn.Server):
    """Says goodbye to agents before uvicorn closes their sockets."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self._obt = server
        self.listening = asyncio.Event()

    @property
    def port(self) -> int:
        """The port that it listens on, once ``listening`` is set."""
        name: tuple[str, int] = self.servers[0].sockets[0].getsockname()
        return name[1]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, and say so."""
        await super().startup(sockets)
        if self.started:
            self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """SIGINT and SIGTERM stop the server in order, a second one at once.

        uvicorn's own way raises them again afterwards, so that a stop as asked for would look like a death.
        """
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM) if _in_main_thread() else ()
        for one in signals:
            loop.add_signal_handler(one, self.handle_exit, one, None)
        try:
            yield
        finally:
            for one in signals:
                loop.remove_signal_handler(one)

    async def serve_without_signals(self) -> None:
        """Serve until ``should_exit`` is set; signals are the caller's."""
        await self._serve()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then close as uvicorn does."""
        await self._obt.hub.drain()
        await super().shutdown(sockets)


def configure(
    server: Server,
    *,
    host: str,
    port: int,
    cert: Path | None = None,
    key: Path | None = None,
    behind_proxy: str | None = None,
) -> DrainingServer:
    """A server for the application, not yet listening.

    Args:
        server: the application.
        host: address to listen on.
        port: port; 0 for any.
        cert: PEM file of the certificate chain.
        key: PEM file of its key.
        behind_proxy: addresses of proxies whose ``X-Forwarded-*`` are believed; None: nobody's.
    """
    config = uvicorn.Config(
        server.app,
        host=host,
        port=port,
        ws=AbortableProtocol,
        ws_max_size=limits.MAX_FRAME_BYTES,
        ws_ping_interval=None,
        ws_ping_timeout=None,
        ws_per_message_deflate=False,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=behind_proxy is not None,
        forwarded_allow_ips=behind_proxy,
        ssl_certfile=cert,
        ssl_keyfile=key,
        timeout_graceful_shutdown=5,
        lifespan="on",
    )
    return DrainingServer(config, server)


def _in_main_thread() -> bool:
    """Only there can a program be told of signals."""
    return threading.current_thread() is threading.main_thread()
