"""One WebSocket: the only module that knows the library.

What the library does not do, and this does: frames are written synchronously (the session owns the order),
all inbound bytes are counted where they arrive, and every wait for the peer is bounded.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import sys
import termios
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from websockets.asyncio.client import ClientConnection
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from obt_agent.protocol.limits import SUBPROTOCOL, Close

_QUIET: Final = logging.Logger("websockets.quiet", logging.CRITICAL + 1)  # noqa: LOG001 - outside the tree, so that no setting wakes it
"""The library's debug log shows headers, and with them the credential."""

_BROKEN: Final = 1006
_QUEUED_MESSAGES: Final = 64


class WireClosed(Exception):
    """The WebSocket is closed; ``code`` 1006: it broke. ``by_peer``: the peer or the network ended it."""

    def __init__(self, code: int, reason: str, *, by_peer: bool) -> None:
        super().__init__(f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason
        self.by_peer = by_peer


class RawTransport(Protocol):
    """The TCP transport below TLS."""

    def get_write_buffer_size(self) -> int:
        """Bytes not yet taken by the kernel."""


class Wire(ClientConnection):
    """A connection, before and after its upgrade.

    Args:
        socket_url: the WebSocket's URL.
        max_frame_bytes: a larger message closes 1009.
        close_s: how long a closing handshake may take.
    """

    def __init__(self, socket_url: str, *, max_frame_bytes: int, close_s: float) -> None:
        protocol = ClientProtocol(
            parse_uri(socket_url),
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            extensions=None,
            max_size=max_frame_bytes,
            logger=_QUIET,
        )
        super().__init__(
            protocol,
            ping_interval=None,
            ping_timeout=None,
            close_timeout=close_s,
            max_queue=_QUEUED_MESSAGES,
            write_limit=(1, 0),
        )
        self.received_bytes = 0
        self.last_received_s = self.loop.time()
        self.written_bytes = 0
        self.below_tls: RawTransport | None = None
        self.on_flow: Callable[[], None] = _nothing
        self._close_s = close_s
        self._ended_here: tuple[int, str] | None = None
        self._breaking: asyncio.TimerHandle | None = None

    def write(self, frames: Sequence[bytes]) -> None:
        """Write text frames now; what the kernel does not take waits in memory. Dropped once closing."""
        if self.protocol.state is State.OPEN:
            for frame in frames:
                self.protocol.send_text(frame)
            self._flush()

    def probe(self) -> None:
        """Ask for a sign of life: a peer's library answers a ping by itself."""
        if self.protocol.state is State.OPEN:
            self.protocol.send_ping(b"probe")
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self.protocol.data_to_send())
        self.written_bytes += len(data)
        self.transport.write(data)

    @property
    def waiting_bytes(self) -> int:
        """Bytes written and not yet taken by the kernel."""
        below = self.below_tls.get_write_buffer_size() if self.below_tls is not None else 0
        return self.transport.get_write_buffer_size() + below

    @property
    def outstanding_bytes(self) -> int:
        """Bytes written that the other end's kernel has not acknowledged (0 where that cannot be asked)."""
        sock = self.transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return self.waiting_bytes
        try:
            answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:
            return self.waiting_bytes
        return self.waiting_bytes + int.from_bytes(answer, sys.byteorder)

    @property
    def taken_bytes(self) -> int:
        """Bytes that the other end's kernel has acknowledged (below TLS: an estimate that grows with it)."""
        return self.written_bytes - self.outstanding_bytes

    async def read(self) -> str:
        """The next text message.

        Raises:
            WireClosed: there is none.
        """
        try:
            message = await self.recv()
        except ConnectionClosed as closed:
            raise self._why_closed(closed) from closed
        if isinstance(message, str):
            return message
        self.fail(Close.UNSUPPORTED_DATA, "binary frame")
        await self.wait_closed()
        raise WireClosed(Close.UNSUPPORTED_DATA, "binary frame", by_peer=False)

    def _why_closed(self, closed: ConnectionClosed) -> WireClosed:
        if self._ended_here is not None:
            code, reason = self._ended_here
            return WireClosed(code, reason, by_peer=False)
        if closed.rcvd is not None and closed.rcvd_then_sent is not False:
            return WireClosed(closed.rcvd.code, closed.rcvd.reason, by_peer=True)
        if closed.sent is not None:  # the library refused a frame: too large, not UTF-8, no WebSocket
            return WireClosed(closed.sent.code, closed.sent.reason, by_peer=False)
        cause = closed.__cause__
        return WireClosed(_BROKEN, str(cause) if isinstance(cause, OSError) else "", by_peer=True)

    def fail(self, code: int, reason: str) -> None:
        """Close with this code; the connection is broken if the peer does not answer in time."""
        if self.protocol.state is not State.OPEN:
            return
        self._ended_here = (code, reason)
        self.protocol.send_close(code, reason)
        self._flush()
        self._break_later()

    def abort(self, reason: str) -> None:
        """Break the connection now, without a closing handshake."""
        if self._ended_here is None:
            self._ended_here = (_BROKEN, reason)
        if (
            not self.connection_lost_waiter.done()
        ):  # asyncio's transport fails when it is aborted after its end
            self.transport.abort()

    def _break_later(self) -> None:
        if self._breaking is None:
            self._breaking = self.loop.call_later(self._close_s, self.transport.abort)

    # What asyncio and the library call.

    def data_received(self, data: bytes) -> None:
        """Count every byte where it arrives: also one of a message that is not whole yet proves life."""
        self.received_bytes += len(data)
        self.last_received_s = self.loop.time()
        super().data_received(data)
        if self.protocol.state is State.CLOSING:
            self._break_later()  # the other side has so long to end the connection, too

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        super().connection_lost(exc)
        if self._breaking is not None:
            self._breaking.cancel()

    def pause_writing(self) -> None:
        """Output began to wait."""
        super().pause_writing()
        self.on_flow()

    def resume_writing(self) -> None:
        """All output went to the kernel."""
        super().resume_writing()
        self.on_flow()


def _nothing() -> None:
    """Until a session listens."""
