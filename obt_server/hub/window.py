"""The receiver's side of credit: what was granted, what came, and when to grant again. Pure."""

from __future__ import annotations

from obt_agent.errors import ProtocolError


class ReceiveWindow:
    """One balance (a stream's, or the link's) as the server keeps it.

    Our balance is never below the sender's, for a grant counts here before it arrives there. A sender may
    overdraw once, with one frame; a balance that was overdrawn by more than ``max_frame_bytes`` before a
    frame came shows a sender that ignores credit.

    Args:
        window_bytes: what the sender starts with, and how much may be outstanding.
        max_frame_bytes: the largest frame.
    """

    __slots__ = ("_balance", "_returned", "_threshold", "_tolerance")

    def __init__(self, window_bytes: int, max_frame_bytes: int) -> None:
        self._balance = window_bytes
        self._threshold = max(1, window_bytes // 4)
        self._tolerance = -max_frame_bytes
        self._returned = 0

    def charge(self, size: int) -> None:
        """A frame of ``size`` bytes came.

        Raises:
            ProtocolError: the sender ignores credit.
        """
        if self._balance < self._tolerance:
            raise ProtocolError(f"{-self._balance} bytes came beyond the credit that was granted.")
        self._balance -= size

    def consume(self, size: int) -> int:
        """``size`` bytes left our memory; returns what to grant now (0: wait until it is worth a frame)."""
        self._returned += size
        if self._returned < self._threshold:
            return 0
        grant, self._returned = self._returned, 0
        self._balance += grant
        return grant
