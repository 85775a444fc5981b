"""The ASGI server: uvicorn, set as the protocol needs it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import threading
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any, Final, cast

import uvicorn

from obt_agent.protocol import limits
from obt_agent.system import open_files, signals
from obt_server.app import Server
from obt_server.connections import (
    DESCRIPTORS_KEPT,
    MAX_CONNECTIONS,
    SWEEP_EVERY_S,
    ConnectionLimits,
    Connections,
)
from obt_server.stop_notice import StopNotice, answered
from obt_server.stranger_turns import StrangerTurns
from obt_server.uvicorn_protocols import BoundedHttp, BoundedWebSocket

ACCEPTED_AT_ONCE: Final = 16
"""Connections, before the others' turn: a burst of a thousand would keep the event loop for 50 ms. uvloop
takes one in each pass."""
WAITING_TO_BE_ACCEPTED: Final = 2048
"""Connections, in the system's queue: all agents of a fleet may come back in the same second."""
TLS_WITHIN_S: Final = 10.0
"""For a TLS handshake; before its end the connection is not counted."""


class DrainingServer(uvicorn.Server):
    """Says goodbye to agents before uvicorn closes their sockets."""

    def __init__(
        self, config: uvicorn.Config, server: Server, connections: Connections, notice_s: float = 0.0
    ) -> None:
        super().__init__(config)
        self._obt = server
        self._notice = StopNotice(notice_s, server.readiness.withdraw, self._stop)
        self.connections = connections
        # Ends what lasts too long; begins when the server listens.
        self._sweeping: asyncio.Task[None] | None = None
        # Set once the port is known and open: the address is printed after that.
        self.listening = asyncio.Event()

    @property
    def port(self) -> int:
        """The port that it listens on, once ``listening`` is set."""
        name: tuple[str, int] = self.servers[0].sockets[0].getsockname()
        return name[1]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Start the application and listen. uvicorn's own way gives a TLS handshake a minute."""
        # The application first: a connection that came before it would be refused for a reason that is over.
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            self.should_exit = True
            return
        config = self.config
        protocol = functools.partial(
            cast("Any", config.http_protocol_class),
            config=config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        try:
            listener = await asyncio.get_running_loop().create_server(
                protocol,
                config.host,
                config.port,
                ssl=config.ssl,
                backlog=ACCEPTED_AT_ONCE,  # of the queue, too; see below
                ssl_handshake_timeout=TLS_WITHIN_S if config.ssl else None,
            )
        # A taken port: what the application began (tasks, the database) must be ended in order.
        except OSError:
            await self.lifespan.shutdown()
            raise
        for one in listener.sockets:
            # The loop gives no way to the socket itself; listening again only sets the length of its queue.
            with socket.socket(fileno=os.dup(one.fileno())) as same:
                same.listen(WAITING_TO_BE_ACCEPTED)
        self.servers = [listener]
        self._sweeping = asyncio.create_task(self._sweep(), name="sweep connections")
        self.started = True
        self.listening.set()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            self.connections.sweep()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """SIGINT and SIGTERM stop the server in order, a second one at once.

        uvicorn's own way raises them again afterwards, so that a stop as asked for would look like a death.
        """
        loop = asyncio.get_running_loop()
        # On the loop, so that the handler runs between two callbacks and never in the middle of one.
        stopping = signals.STOP if _in_main_thread() else ()
        for one in stopping:
            signals.handle(loop, one, self.handle_exit, one, None)
        try:
            yield
        finally:
            for one in stopping:
                signals.unhandle(loop, one)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the notice at the first signal, where there is one; stop at the next."""
        if not self._notice.begin():
            super().handle_exit(sig, frame)

    def _stop(self) -> None:
        self.should_exit = True

    async def serve_without_signals(self) -> None:
        """Serve until ``should_exit`` is set; signals are the caller's."""
        await self._serve()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then close as uvicorn does."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._notice.over:
            # While the agents are still there: most requests are about them.
            for listener in self.servers:
                listener.close()
            await answered(self.server_state.connections, lambda: self.force_exit)
        # Before uvicorn closes sockets: agents are told to come back later, and spread their return.
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
    notice_s: float = 0.0,
) -> DrainingServer:
    """A server for the application, not yet listening.

    Args:
        server: the application.
        host: address to listen on.
        port: port; 0 for any.
        cert: PEM file of the certificate chain.
        key: PEM file of its key.
        behind_proxy: addresses of proxies whose ``X-Forwarded-*`` are believed; None: nobody's.
        notice_s: seconds that it serves on after a signal to stop, while ``/readyz`` says no.
    """
    # A proxy's connections stand for many senders, and are not bounded as one address.
    proxies = [] if behind_proxy is None else [one.strip() for one in behind_proxy.split(",")]
    connections = Connections(ConnectionLimits.of_descriptors(raise_descriptors()), proxies)
    server.exporter.connections = connections.counts
    # uvicorn makes the protocols itself, from a class: what they share stands on a class of this server's
    # own.
    own = {"connections_of_server": connections, "strangers_of_server": StrangerTurns()}
    config = uvicorn.Config(
        server.app,
        http=type("ServerHttp", (BoundedHttp,), own),
        host=host,
        port=port,
        ws=type("ServerWebSocket", (BoundedWebSocket,), own),
        ws_max_size=limits.MAX_FRAME_BYTES,
        # Signs of life are the protocol's (link.alive), which both sides can tell from a stack that answers
        # alone.
        ws_ping_interval=None,
        ws_ping_timeout=None,
        # Frames are short and tokens are live: compression costs more time than it saves, and memory for each
        # agent.
        ws_per_message_deflate=False,
        # The log is the program's own; a line for each request would drown it.
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=behind_proxy is not None,
        forwarded_allow_ips=behind_proxy,
        ssl_certfile=cert,
        ssl_keyfile=key,
        # Streams that are open would be waited for without end.
        timeout_graceful_shutdown=5,
        lifespan="on",
    )
    return DrainingServer(config, server, connections, notice_s)


def _in_main_thread() -> bool:
    """Only there can a program be told of signals."""
    return threading.current_thread() is threading.main_thread()


def raise_descriptors() -> int:
    """Raise the process's soft limit on open files as far as is allowed and useful; return it.

    The common 1,024 is for programs that use ``select``; each agent costs a descriptor.
    """
    return open_files.raise_limit(MAX_CONNECTIONS + DESCRIPTORS_KEPT)
