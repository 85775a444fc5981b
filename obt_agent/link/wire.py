"""One WebSocket: the only module that knows the library, and of it the sans-I/O part alone.

The library parses and serializes; this module moves the bytes. Frames are written synchronously (the session
owns the order), all inbound bytes are counted where they arrive, and every wait for the server is bounded.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, cast

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus, NegotiationError
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from obt_agent import __version__
from obt_agent.identity.secret import Secret
from obt_agent.link import tls
from obt_agent.link.bearer import bearer
from obt_agent.link.disconnect import (
    DialFailed,
    DisconnectReason,
    NextDial,
    dial_failed,
    of_status,
    origin,
    retry_after_s,
)
from obt_agent.protocol.limits import (
    MAX_CONTROL_BACKLOG_BYTES,
    MAX_FRAGMENTS,
    MAX_FRAME_BYTES,
    MAX_UNREAD_BYTES,
    PARSED_AT_ONCE_BYTES,
    SUBPROTOCOL,
    Close,
)
from obt_agent.system.sockets import unacknowledged_bytes

USER_AGENT: Final = f"obt-agent/{__version__}"

_QUIET: Final = logging.Logger("websockets.quiet", logging.CRITICAL + 1)  # noqa: LOG001 - outside the tree, so that no setting wakes it
"""The library's debug log shows headers, and with them the credential."""

_BROKEN: Final = 1006
_INVALID_TEXT: Final = 1007
"""RFC 6455, section 7.4.1: the connection ended without a close frame; text that is not UTF-8."""

_DATA: Final = frozenset({Opcode.TEXT, Opcode.BINARY, Opcode.CONT})


class WireClosed(Exception):
    """The WebSocket is closed; ``code`` 1006: it broke. ``by_peer``: the server or the network ended it."""

    def __init__(self, code: int, reason: str, *, by_peer: bool) -> None:
        super().__init__(f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason
        self.by_peer = by_peer


class Wire(asyncio.Protocol):
    """A connection, before and after its upgrade.

    Args:
        socket_url: the WebSocket's URL.
        close_s: how long a closing handshake may take.
        below_tls: the TCP transport below TLS, if there is TLS: it buffers, too.
    """

    transport: asyncio.Transport

    def __init__(
        self, socket_url: str, *, close_s: float, below_tls: asyncio.Transport | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._protocol = ClientProtocol(
            parse_uri(socket_url),
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            # No compression: a small frame could stand for a large message, and secrets beside a server's
            # own text could be guessed from sizes.
            extensions=None,
            max_size=MAX_FRAME_BYTES,
            logger=_QUIET,
        )
        self._close_s = close_s
        self._below_tls = below_tls

        # Set when the answer to the upgrade came, or the connection was lost before it.
        self._answered = asyncio.Event()
        # The answer to the upgrade; the doctor reads its headers.
        self.response: Response | None = None

        # Whole messages that nobody has read yet (None: a binary one), and their bytes. Reading from the
        # socket pauses while there are many bytes: a bound by count would be none.
        self._messages: deque[bytes | None] = deque()
        self._unread_bytes = 0
        self._reading_paused = False
        # Fragments of a message whose last one has not come, their count and the opcode of the first. The
        # library bounds only their bytes, and empty ones have none.
        self._fragments = bytearray()
        self._fragment_count = 0
        self._opcode = Opcode.TEXT
        # Wakes ``read`` when a message came or the connection was lost.
        self._news = asyncio.Event()

        # Done when the connection is gone; the error that broke it, if one did.
        self._lost = asyncio.Event()
        self._broken_by: Exception | None = None
        # Why this side ended the connection, if it did: it goes before whatever the library makes of the end.
        self._ended_here: tuple[int, str] | None = None
        # Breaks the connection when the closing handshake takes too long.
        self._breaking: asyncio.TimerHandle | None = None

        # Whether output waits in memory. ``on_flow`` is called when that begins and when it is over.
        self.paused = False
        self.on_flow: Callable[[], None] = _nothing
        # Called with each pong's payload.
        self.on_pong: Callable[[bytes], None] = _nothing

        # Bytes since the connection was made, and the loop's time of the last that came.
        self.received_bytes = 0
        self.written_bytes = 0
        self.last_received_s = self._loop.time()

    # Opening.

    async def upgrade(self, secret: Secret, *, deadline_s: float, user_agent: str = USER_AGENT) -> None:
        """Turn the connection into a WebSocket that speaks ``obt.v1``.

        Raises:
            DialFailed: the server answered otherwise, or not at all.
        """
        request = self._protocol.connect()
        request.headers["Authorization"] = bearer(secret)
        request.headers["User-Agent"] = user_agent
        self._protocol.send_request(request)
        self._flush()
        try:
            async with asyncio.timeout(deadline_s):
                await self._answered.wait()
        except TimeoutError as error:
            message = f"The server took the connection and said nothing for {deadline_s:g} s."
            raise dial_failed("upgrade_timeout", message) from error
        failed = self._protocol.handshake_exc
        if isinstance(failed, InvalidStatus):
            raise DialFailed(_of_response(failed.response)) from failed
        if failed is not None or self.response is None:
            raise DialFailed(self._of_failure(failed)) from failed
        if self._protocol.subprotocol != SUBPROTOCOL:
            message = "The server opened a WebSocket that is not obt.v1."
            raise dial_failed("no_subprotocol", message, NextDial.MAX_BACKOFF)

    def _of_failure(self, error: Exception | None) -> DisconnectReason:
        if isinstance(self._broken_by, ssl.SSLError):
            kind, message = tls.explain(self._broken_by, self._protocol.uri.host)
            return DisconnectReason(kind, message)
        if isinstance(error, NegotiationError):
            message = f"The server's answer to the upgrade is wrong: {error}."
            return DisconnectReason("no_subprotocol", message, NextDial.MAX_BACKOFF)
        if not self.received_bytes:
            hint = ""
            if self._below_tls is not None:
                hint = " If it wants a client certificate, set server.client_cert_file."
            return DisconnectReason(
                "upgrade_cut", f"The server ended the connection without an answer.{hint}"
            )
        return DisconnectReason(
            "upgrade_garbage",
            "What answered is no WebSocket server: check host, port and path of server.url, and whether it "
            "is http:// or https://.",
        )

    # Writing.

    def write(self, frames: Sequence[bytes]) -> None:
        """Write text frames now; what the kernel does not take waits in memory. Dropped once closing."""
        if self._protocol.state is State.OPEN:
            for frame in frames:
                self._protocol.send_text(frame)
            self._flush()

    def ping(self, payload: bytes) -> None:
        """Send a ping: a server's library answers it by itself, and ``on_pong`` gets the payload back."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_ping(payload)
            self._flush()

    def _flush(self) -> None:
        chunks = self._protocol.data_to_send()
        if data := b"".join(chunks):
            self.written_bytes += len(data)
            self.transport.write(data)
        if chunks and not chunks[-1] and not self.transport.is_closing():
            # An empty chunk is the library's mark for the end of output. TLS cannot be half-closed.
            if self.transport.can_write_eof():
                self.transport.write_eof()
            else:
                self.transport.close()

    @property
    def waiting_bytes(self) -> int:
        """Bytes written and not yet taken by the kernel."""
        below = self._below_tls.get_write_buffer_size() if self._below_tls is not None else 0
        return self.transport.get_write_buffer_size() + below

    @property
    def outstanding_bytes(self) -> int:
        """Bytes written that the other end's kernel has not acknowledged (0 where that cannot be asked)."""
        sock = self.transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return self.waiting_bytes
        return self.waiting_bytes + (unacknowledged_bytes(sock) or 0)

    @property
    def taken_bytes(self) -> int:
        """Bytes that the other end's kernel has acknowledged (below TLS: an estimate that grows with it)."""
        return self.written_bytes - self.outstanding_bytes

    # Reading.

    async def read(self) -> bytes:
        """Return the next text message: UTF-8, as it came.

        Raises:
            WireClosed: there is none.
        """
        while not self._messages:
            if self._lost.is_set():
                raise self._why_closed()
            self._news.clear()
            await self._news.wait()
        message = self._messages.popleft()
        self._unread_bytes -= len(message or b"")
        if self._reading_paused and self._unread_bytes <= MAX_UNREAD_BYTES // 4:
            self._reading_paused = False
            self.transport.resume_reading()
        if message is not None:
            return message
        self.fail(Close.UNSUPPORTED_DATA, "binary frame")
        await self._lost.wait()
        raise WireClosed(Close.UNSUPPORTED_DATA, "binary frame", by_peer=False)

    def _why_closed(self) -> WireClosed:
        if self._ended_here is not None:
            code, reason = self._ended_here
            return WireClosed(code, reason, by_peer=False)
        closed = self._protocol.close_exc
        if closed.rcvd is not None and closed.rcvd_then_sent is not False:
            return WireClosed(closed.rcvd.code, closed.rcvd.reason, by_peer=True)
        if closed.sent is not None:  # the library refused a frame: too large, not UTF-8, no WebSocket
            return WireClosed(closed.sent.code, closed.sent.reason, by_peer=False)
        reason = str(self._broken_by) if isinstance(self._broken_by, OSError) else ""
        return WireClosed(_BROKEN, reason, by_peer=True)

    def _take(self, event: object) -> None:
        if isinstance(event, Response):
            self.response = event
            self._answered.set()
        elif isinstance(event, Frame) and event.opcode is Opcode.PONG:
            self.on_pong(bytes(event.data))
        elif isinstance(event, Frame) and event.opcode in _DATA:
            self._take_frame(event)

    def _take_frame(self, frame: Frame) -> None:
        if frame.opcode is not Opcode.CONT:
            self._opcode, self._fragment_count = frame.opcode, 0
        self._fragment_count += 1
        if self._fragment_count > MAX_FRAGMENTS:
            self.abort(f"a frame in more than {MAX_FRAGMENTS} fragments")
            return
        self._fragments += frame.data
        if not frame.fin:
            return
        data = bytes(self._fragments)
        self._fragments.clear()
        if self._opcode is Opcode.TEXT:
            try:
                data.decode()
            except UnicodeDecodeError as error:
                self.fail(_INVALID_TEXT, f"{error.reason} at position {error.start}")
                return
        self._messages.append(data if self._opcode is Opcode.TEXT else None)
        self._unread_bytes += len(data) if self._opcode is Opcode.TEXT else 0
        self._news.set()
        if self._unread_bytes > MAX_UNREAD_BYTES and not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    # Closing.

    def fail(self, code: int, reason: str) -> None:
        """Close with this code; the connection is broken if the server does not answer in time."""
        if self._protocol.state is not State.OPEN:
            return
        self._ended_here = (code, reason)
        self._protocol.send_close(code, reason)
        self._flush()
        self._break_later()

    def abort(self, reason: str) -> None:
        """Break the connection now, without a closing handshake."""
        if self._ended_here is None:
            self._ended_here = (_BROKEN, reason)
        if not self._lost.is_set():  # asyncio's transport fails when it is aborted after its end
            self.transport.abort()

    def _break_later(self) -> None:
        if self._breaking is None:
            self._breaking = self._loop.call_later(self._close_s, self.transport.abort)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there, with TLS if it is to have it."""
        self.transport = cast("asyncio.Transport", transport)
        # Nothing waits above the kernel unnoticed: control overtakes whatever is not written yet.
        self.transport.set_write_buffer_limits(high=1, low=0)

    def data_received(self, data: bytes) -> None:
        """Count every byte where it arrives: also one of a message that is not whole yet proves life."""
        self.received_bytes += len(data)
        self.last_received_s = self._loop.time()
        for start in range(0, len(data), PARSED_AT_ONCE_BYTES):
            if self.transport.is_closing():
                return
            self._protocol.receive_data(data[start : start + PARSED_AT_ONCE_BYTES])
            self._step()

    def eof_received(self) -> None:
        """The server ended its output; asyncio then closes the transport."""
        self._protocol.receive_eof()
        self._step()

    def _step(self) -> None:
        """Write what the library answers (pongs, a close frame), and take what came whole."""
        events = self._protocol.events_received()
        if self.waiting_bytes > MAX_CONTROL_BACKLOG_BYTES:
            # A server that pings and never reads must not fill the memory with pongs: they are dropped.
            self._protocol.data_to_send()
            self.fail(Close.TOO_MUCH, "more than 1 MiB of output waits")
        else:
            self._flush()
        if self._protocol.state is State.CLOSING:
            self._break_later()  # the other side has so long to end the connection, too
        for event in events:
            self._take(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._broken_by = exc
        self._protocol.receive_eof()
        if self._breaking is not None:
            self._breaking.cancel()
        self._lost.set()
        self._answered.set()
        self._news.set()

    def pause_writing(self) -> None:
        """Output began to wait."""
        self.paused = True
        self.on_flow()

    def resume_writing(self) -> None:
        """All output went to the kernel."""
        self.paused = False
        self.on_flow()


def _of_response(response: Response) -> DisconnectReason:
    return of_status(
        response.status_code,
        retry_after_s=retry_after_s(response.headers.get("Retry-After"), datetime.now(UTC)),
        location=origin(response.headers.get("Location", "")),
    )


def _nothing(_: bytes = b"") -> None:
    """Until a session listens."""
