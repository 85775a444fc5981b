"""Credit: how many more bytes a receiver takes. Pure.

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
