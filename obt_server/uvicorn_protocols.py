"""uvicorn's protocols, each with a place among the server's connections and bounds on what a peer costs."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from obt_agent.protocol import limits
from obt_agent.protocol.rates import TokenBucket
from obt_server.connections import EXTENSION, Connections, Phase
from obt_server.rest.socket import ABORT_EXTENSION
from obt_server.stranger_turns import StrangerTurns

MAX_PONG_BACKLOG_BYTES: Final = 64 << 10
"""Unsent bytes beyond which pings are answered later, and the newest alone (RFC 6455, 5.5.3)."""
PINGS_PER_S: Final = 10.0
"""Of one peer; bursts of ten times that. An honest one sends one every few seconds."""
_PARSING_S: Final = 0.0005
"""For one peer's messages, before the others' turn."""
_CLOSE_READ_S: Final = 2.0
"""For what a peer still sends after it was refused."""
_INVALID_TEXT: Final = 1007
"""RFC 6455, section 7.4.1: text that is not UTF-8."""


class BoundedHttp(H11Protocol):
    """uvicorn's HTTP, with a place among the server's connections."""

    connections_of_server: Connections
    strangers_of_server: StrangerTurns

    def connection_made(self, transport: Any) -> None:
        """Take a stranger's place."""
        super().connection_made(transport)
        self.connection = self.connections_of_server.opened(transport)
        self.connection.state = self._state
        # What a stranger sent, until its turn; it is not read on meanwhile.
        self._unread = b""

    def data_received(self, data: bytes) -> None:
        """Read on; of a stranger, when it is its turn."""
        if self.connection.kind != "stranger" and not self._unread:
            super().data_received(data)
            return
        if not self._unread:
            self.transport.pause_reading()
            self.strangers_of_server.add(self)
        # An answer that ends meanwhile lets the transport read on.
        self._unread += data

    def take_turn(self) -> None:
        """Read what waits."""
        data, self._unread = self._unread, b""
        if not self.transport.is_closing():
            # Before the data: its parser pauses where it must.
            self.transport.resume_reading()
            super().data_received(data)

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
        self.connection.state = self._state
        # A burst is allowed: a peer behind a slow link may get rid of its pings at once.
        self._pings = TokenBucket(PINGS_PER_S, PINGS_PER_S * 10, self.loop.time())
        # the newest pong that waits until the peer has read
        self._pong = b""
        # What was received, and how much of it is parsed; nothing is read while there is a rest.
        self._received, self._parsed = b"", 0

    def _state(self) -> tuple[Phase, object]:
        # Who does not read a refusal is still upgrading, which has a deadline.
        is_open = self.handshake_complete and self.initial_response is None
        return ("open" if is_open else "upgrade"), self

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
        # The end of the connection is read like anything else, and must not overtake what came before it. A
        # message that was the last of what came can wait while reading goes on: most are taken before the
        # next comes, and to stop and begin again costs two calls of the system.
        pause = bool(self._received)
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
            # An upgrade that was refused has its answer, too; uvicorn would log an error for each.
            self.handshake_complete = True
            self._parse()

    def shutdown(self) -> None:
        """Close, as the server stops. An upgrade that is still looked at is answered here.

        Its application must not answer a second time: uvicorn's answer of its own, 500, would end in a
        traceback there.
        """
        if not self.handshake_complete and not self.close_sent:
            answer = self.conn.reject(HTTPStatus.SERVICE_UNAVAILABLE, "The server is stopping.\n")
            self.conn.send_response(answer)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.handshake_complete = self.close_sent = self.disconnected = True
        super().shutdown()

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
        # uvicorn would stop reading here; ``_read_on_or_pause`` does where something has to wait.
        paused, self.read_paused = self.read_paused, True
        super().send_receive_event_to_app()
        self.read_paused = paused

    def handle_parser_exception(self) -> None:
        """Say why the connection ends, then read on, and throw away what still comes of what is refused.

        uvicorn closes at once. Where bytes were unread the system then resets the connection, and a proxy
        that sees the reset drops the close frame that came before it: the peer would not learn why.
        """
        output, sent = self.conn.data_to_send(), self.conn.close_sent
        # Called again for each further piece.
        if self.close_sent or sent is None:
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": sent.code, "reason": sent.reason})
        self.transport.write(b"".join(output))
        self.close_sent = True
        # Without the end of output yet: a proxy that sees it ends both sides, with bytes unread at its own.
        self.close_timer = self.loop.call_later(_CLOSE_READ_S, self.transport.close)

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
