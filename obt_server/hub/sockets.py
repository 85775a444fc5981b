"""What the hub needs of a WebSocket, whoever serves it."""

from __future__ import annotations

from typing import Protocol


class SocketClosed(Exception):
    """The socket has ended; ``code`` is the peer's close code, or 1006."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"{code} {reason}".strip())
        self.code = code
        self.reason = reason


class BinaryFrame(Exception):
    """The peer sent a binary frame."""


class HubSocket(Protocol):
    """One accepted WebSocket of subprotocol ``obt.v1``: text frames, no compression, no pong timeout."""

    async def receive(self) -> str | bytes:
        """The next text frame.

        Raises:
            SocketClosed: there will be none.
            BinaryFrame: it was not text.
        """

    async def send(self, frame: bytes) -> None:
        """Send UTF-8 text as one frame; waits while the transport's buffer is full.

        Raises:
            SocketClosed: it cannot be sent any more.
        """

    async def close(self, code: int, reason: str) -> None:
        """Start the closing handshake. Closing a closed socket does nothing."""

    def abort(self) -> None:
        """Drop the connection without a handshake, where the server can; for a peer that does not read."""
