"""Whose turn it is to send. Pure.

Deficit round robin by bytes (Shreedhar and Varghese, 1995), with one change: a frame is cut while it is
being sent, so that its cost is known only then. A flow sends while its allowance is positive and pays
the debt before its next turn. Over any stretch of time in which two flows both have something to send, their
bytes differ by at most two quanta and two frames.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from obt_agent.protocol.limits import MAX_DATA_FRAME_BYTES

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
        # With nobody else to send there is nobody whom a debt would be unfair to.
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
            # A debt of several quanta is paid over as many rounds.
            self._allowance[flow] += self.quantum_bytes
            self._allowance.move_to_end(flow)
        return None

    def charge(self, flow: F, sent_bytes: int) -> None:
        """The flow whose turn it was sent this many bytes."""
        self._allowance[flow] -= sent_bytes
