"""Credit: how many more bytes a receiver takes. Pure arithmetic of both sides.

The unit is UTF-8 bytes of a whole frame. A frame may go while the balance is positive, and may overdraw it
once; so a receiver holds at most its window and one frame.
"""

from __future__ import annotations

from obt_agent.errors import ProtocolError
from obt_agent.protocol.limits import MAX_BALANCE_BYTES


class Balance:
    """The sender's side: what may still be sent. Never above 4 MiB.

    Args:
        initial_bytes: what the receiver takes before its first grant.
    """

    __slots__ = ("bytes",)

    def __init__(self, initial_bytes: int) -> None:
        self.bytes = min(initial_bytes, MAX_BALANCE_BYTES)

    @property
    def positive(self) -> bool:
        """Whether a frame may go now."""
        return self.bytes > 0

    def grant(self, granted_bytes: int) -> None:
        """The receiver takes this many more bytes (above 0; what goes over 4 MiB is lost)."""
        self.bytes = min(self.bytes + granted_bytes, MAX_BALANCE_BYTES)

    def spend(self, sent_bytes: int) -> None:
        """A frame of this size went out.

        Raises:
            ProtocolError: nothing was left to overdraw.
        """
        if self.bytes <= 0:
            raise ProtocolError("A frame was sent without credit.")
        self.bytes -= sent_bytes


class Window:
    """The receiver's side: keeps the sender's balance near ``window_bytes``.

    Grants are held back until half the window has been consumed: they cost one message for many frames.

    Args:
        window_bytes: what may be under way and unread at once; also the sender's initial balance.
    """

    __slots__ = ("_consumed", "balance_bytes", "window_bytes")

    def __init__(self, window_bytes: int) -> None:
        self.window_bytes = window_bytes
        self.balance_bytes = window_bytes
        self._consumed = 0

    def received(self, frame_bytes: int) -> None:
        """A frame of this size arrived.

        Raises:
            ProtocolError: the sender had nothing left to overdraw.
        """
        if self.balance_bytes <= 0:
            raise ProtocolError("A frame came without credit.")
        self.balance_bytes -= frame_bytes

    def consumed(self, frame_bytes: int) -> int:
        """Bytes of received frames were used up; gives what to grant now (0: nothing yet)."""
        self._consumed += frame_bytes
        if self._consumed * 2 < self.window_bytes:
            return 0
        granted, self._consumed = min(self._consumed, MAX_BALANCE_BYTES - self.balance_bytes), 0
        self.balance_bytes += granted
        return granted
