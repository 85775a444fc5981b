"""Whose turn it is, and how much may go in one frame. Pure; time is passed in.

Deficit round robin by bytes (Shreedhar and Varghese, 1995), with one change: a frame is cut while it is
being sent, so that its cost is known only then. A flow sends while its allowance is positive and pays
the debt before its next turn. Over any stretch of time in which two flows both have something to send, their
bytes differ by at most two quanta and two frames.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from obt_agent.protocol.limits import FRAME_DURATION_S, MAX_DATA_FRAME_BYTES, MIN_DATA_FRAME_BYTES

F = TypeVar("F", bound=Hashable)


class FairRing(Generic[F]):
    """Flows that have something to send, in the order of their turns.

    Args:
        quantum_bytes: what each flow may send in a round.
    """

    def __init__(self, quantum_bytes: int = MAX_DATA_FRAME_BYTES) -> None:
        self.quantum_bytes = quantum_bytes
        # What each may still send before the turn passes on; the first has the turn.
        self._allowance: OrderedDict[F, int] = OrderedDict()
        # Of flows that left while they owed: leaving must not pay.
        self._debts: dict[F, int] = {}

    def __len__(self) -> int:
        return len(self._allowance)

    def __contains__(self, flow: object) -> bool:
        return flow in self._allowance

    def add(self, flow: F) -> None:
        """The flow has something to send; it joins at the end, with the debt that it left with."""
        if flow not in self._allowance:
            self._allowance[flow] = self.quantum_bytes + self._debts.pop(flow, 0)

    def remove(self, flow: F) -> None:
        """The flow has nothing to send, or may not. A debt is kept while others have something to send."""
        allowance = self._allowance.pop(flow, 0)
        if not self._allowance:
            self._debts.clear()
        elif allowance < 0:
            self._debts[flow] = allowance

    def forget(self, flow: F) -> None:
        """The flow has ended."""
        self.remove(flow)
        self._debts.pop(flow, None)

    def turn(self) -> F | None:
        """Whose turn it is; None when no flow has anything to send."""
        while self._allowance:
            flow = next(iter(self._allowance))
            if self._allowance[flow] > 0:
                return flow
            self._allowance[flow] += self.quantum_bytes
            self._allowance.move_to_end(flow)
        return None

    def charge(self, flow: F, sent_bytes: int) -> None:
        """The flow whose turn it was sent this many bytes."""
        self._allowance[flow] -= sent_bytes


_WEIGHT: Final = 0.5
"""Of the newest measurement: half, so that a link that has become slow is known after two frames."""


class RateEstimator:
    """How much goes in one frame: what the link carries in 250 ms, 1 to 32 KiB.

    The rate is measured only while the link is the bottleneck: from the moment when output began to wait
    until the wait was over. A link that never makes output wait is taken as fast.
    """

    __slots__ = ("_since", "_waiting", "bytes_per_second")

    def __init__(self) -> None:
        # None until output had to wait once: such a link counts as fast.
        self.bytes_per_second: float | None = None
        # When output began to wait, and how much of it there was.
        self._since = 0.0
        self._waiting = 0

    @property
    def frame_bytes(self) -> int:
        """Most bytes for the next frame."""
        if self.bytes_per_second is None:
            return MAX_DATA_FRAME_BYTES
        fair = int(self.bytes_per_second * FRAME_DURATION_S)
        return max(MIN_DATA_FRAME_BYTES, min(fair, MAX_DATA_FRAME_BYTES))

    def waits(self, now_s: float, waiting_bytes: int) -> None:
        """Output began to wait, with this many bytes not yet taken by the kernel."""
        self._since = now_s
        self._waiting = waiting_bytes

    def flows(self, now_s: float, waiting_bytes: int = 0) -> None:
        """The wait is over; this many bytes are still not taken."""
        taken, elapsed = self._waiting - waiting_bytes, now_s - self._since
        if taken <= 0:
            return
        rate = taken / max(elapsed, 1e-6)
        known = self.bytes_per_second
        self.bytes_per_second = rate if known is None else known + (rate - known) * _WEIGHT
