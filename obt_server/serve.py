"""The ASGI server: uvicorn, set as the protocol needs it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from obt_agent.protocol import limits
from obt_agent.protocol.rates import TokenBucket
from obt_agent.system import open_files, signals
from obt_server.app import Server
from obt_server.connections import (
    DESCRIPTORS_KEPT,
    EXTENSION,
    MAX_CONNECTIONS,
    SWEEP_EVERY_S,
    ConnectionLimits,
    Connections,
    Phase,
)
from obt_server.rest.socket import ABORT_EXTENSION

MAX_PONG_BACKLOG_BYTES: Final = 64 << 10
"""Unsent bytes beyond which pings are answered later, and the newest alone (RFC 6455, 5.5.3)."""
PINGS_PER_S: Final = 10.0
"""Of one peer; bursts of ten times that. An honest one sends one every few seconds."""
_PARSING_S: Final = 0.0005
"""For one peer's messages, before the others' turn."""
_INVALID_TEXT: Final = 1007
"""RFC 6455, section 7.4.1: text that is not UTF-8."""
ACCEPTED_AT_ONCE: Final = 16
"""Connections, before the others' turn: a burst of a thousand would keep the event loop for 50 ms."""
WAITING_TO_BE_ACCEPTED: Final = 2048
"""Connections, in the system's queue: all agents of a fleet may come back in the same second."""
TLS_WITHIN_S: Final = 10.0
"""For a TLS handshake; before its end the connection is not counted."""


class BoundedHttp(H11Protocol):
    """uvicorn's HTTP, with a place among the server's connections."""

    connections_of_server: Connections

    def connection_made(self, transport: Any) -> None:
        """Take a stranger's place."""
        super().connection_made(transport)
        self.connection = self.connections_of_server.opened(transport)
        self.connection.state = self._state

    def _state(self) -> tuple[Phase, object]:
        # The cycle is the request in progress; the last one stays there after its answer.
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            return "head", cycle
        return ("body" if cycle.more_body else "answer"), cycle

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the place."""
        self.connections_of_server.closed(self.transport)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Put the connection into the scope, before the application's task begins."""
        super().handle_events()
        if self.scope is not None:
            # ASGI's way for a server to hand something to its application: whoever runs elsewhere finds
            # nothing there.
            self.scope["extensions"] = {EXTENSION: {"connection": self.connection}}

    def pause_writing(self) -> None:
        """The peer reads too slowly."""
        super().pause_writing()
        self.connection.stalled_at = time.monotonic()

    def resume_writing(self) -> None:
        """The peer has read."""
        super().resume_writing()
        self.connection.stalled_at = None


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSockets, with bounded pongs and fragments, and a way to drop who does not read.

    ASGI has none, and a close frame would wait behind what the peer does not take.
    """

    connections_of_server: Connections

    def connection_made(self, transport: Any) -> None:
        """Keep the place that the connection has since it was HTTP."""
        super().connection_made(transport)
        self.connection = self.connections_of_server.opened(transport)
        self.connection.state = lambda: ("open" if self.handshake_complete else "upgrade", self)
        # A burst is allowed: a peer behind a slow link may get rid of its pings at once.
        self._pings = TokenBucket(PINGS_PER_S, PINGS_PER_S * 10, self.loop.time())
        # the newest pong that waits until the peer has read
        self._pong = b""
        # What was received, and how much of it is parsed; nothing is read while there is a rest.
        self._received, self._parsed = b"", 0

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the place."""
        self.connections_of_server.closed(self.transport)
        super().connection_lost(exc)

    def handle_connect(self, event: Any) -> None:
        """Put abort and connection into the scope before the application sees it."""
        super().handle_connect(event)
        if hasattr(self, "scope"):
            self.scope["extensions"] = {
                **(self.scope.get("extensions") or {}),
                ABORT_EXTENSION: {"abort": self.transport.abort},
                EXTENSION: {"connection": self.connection},
            }

    def data_received(self, data: bytes) -> None:
        """Parse until there is a message for the application; the rest waits until it took that one.

        One read may hold thousands of messages: parsed at once, they would keep everybody else waiting.
        """
        self._received, self._parsed = self._received[self._parsed :] + data, 0
        self._parse()

    def _parse(self) -> None:
        until = time.perf_counter() + _PARSING_S
        # After the own close frame messages are thrown away, and the peer's answer to it is looked for.
        while self._parsed < len(self._received) and (self.queue.empty() or self.close_sent):
            if self.transport.is_closing():
                self._parsed = len(self._received)
            elif time.perf_counter() > until:
                self.loop.call_soon(self._parse)
                break
            else:
                # A few kilobytes at a time: one may hold hundreds of empty fragments.
                start, self._parsed = self._parsed, self._parsed + limits.PARSED_AT_ONCE_BYTES
                super().data_received(self._received[start : self._parsed])
        self._read_on_or_pause()

    def _read_on_or_pause(self) -> None:
        if self._parsed >= len(self._received):
            self._received, self._parsed = b"", 0
        # The end of the connection is read like anything else, and must not overtake what came before it.
        pause = bool(self._received) or not (self.queue.empty() or self.close_sent)
        if pause and not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()
        elif self.read_paused and not pause:
            self.read_paused = False
            self.transport.resume_reading()

    async def receive(self) -> Any:
        """Give the application the next message; then parse what waited behind it."""
        message = await self.queue.get()
        self._parse()
        return message

    async def send(self, message: Any) -> None:
        """Send; after a close frame, parse what waited for the application."""
        await super().send(message)
        if self.close_sent:
            self._parse()

    def handle_cont(self, event: Any) -> None:
        """Take a fragment, unless the frame has more of them than anybody needs."""
        super().handle_cont(event)
        if len(self.frames) >= limits.MAX_FRAGMENTS:
            self.transport.abort()

    def send_receive_event_to_app(self) -> None:
        """Hand on a whole message. Of one that is no UTF-8 uvicorn would write a traceback, each time."""
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = []
                self.conn.send_close(_INVALID_TEXT)
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def handle_ping(self) -> None:
        """Answer, unless the peer sends pings faster than anybody needs, or does not read the answers."""
        # Taken out of the library in any case: what stays there would be sent with the next frame.
        pong = b"".join(self.conn.data_to_send())
        if self._pings.take(self.loop.time()) > 0:
            self.transport.abort()
        # Only the newest is kept: a peer that does not read must not fill memory with answers to its pings.
        elif self.transport.get_write_buffer_size() > MAX_PONG_BACKLOG_BYTES:
            self._pong = pong
        else:
            self.transport.write(pong)

    def pause_writing(self) -> None:
        """The peer reads too slowly."""
        super().pause_writing()
        self.connection.stalled_at = time.monotonic()

    def resume_writing(self) -> None:
        """The peer has read: the pong that waited goes out."""
        super().resume_writing()
        self.connection.stalled_at = None
        pong, self._pong = self._pong, b""
        # Nothing may follow a close frame.
        if pong and not self.close_sent:
            self.transport.write(pong)


class DrainingServer(uvicorn.Server):
    """Says goodbye to agents before uvicorn closes their sockets."""

    def __init__(self, config: uvicorn.Config, server: Server, connections: Connections) -> None:
        super().__init__(config)
        self._obt = server
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

    async def serve_without_signals(self) -> None:
        """Serve until ``should_exit`` is set; signals are the caller's."""
        await self._serve()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then close as uvicorn does."""
        if self._sweeping is not None:
            self._sweeping.cancel()
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
    # A proxy's connections stand for many senders, and are not bounded as one address.
    proxies = [] if behind_proxy is None else [one.strip() for one in behind_proxy.split(",")]
    connections = Connections(ConnectionLimits.of_descriptors(raise_descriptors()), proxies)
    server.exporter.connections = connections.counts
    # uvicorn makes the protocols itself, from a class: what they share stands on a class of this server's
    # own.
    own = {"connections_of_server": connections}
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
    return DrainingServer(config, server, connections)


def _in_main_thread() -> bool:
    """Only there can a program be told of signals."""
    return threading.current_thread() is threading.main_thread()


def raise_descriptors() -> int:
    """Raise the process's soft limit on open files as far as is allowed and useful; return it.

    The common 1,024 is for programs that use ``select``; each agent costs a descriptor.
    """
    return open_files.raise_limit(MAX_CONNECTIONS + DESCRIPTORS_KEPT)
