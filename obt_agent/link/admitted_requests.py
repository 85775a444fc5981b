"""The server's requests that have no final yet: the one place that admits and forgets them."""

from __future__ import annotations

from typing import Final

from obt_agent.errors import Busy, ProtocolError
from obt_agent.protocol import limits
from obt_agent.protocol.byte_budget import ByteBudget, Reservation
from obt_agent.protocol.envelope import Request, RequestId
from obt_agent.protocol.methods import METHODS

# Requests that are taken beside a full agent, because they free it (``cancel``) or end soon.
_EXEMPT: Final = frozenset(method.name for method in METHODS.values() if method.exempt)
_BUSY_RETRY_MS: Final = 1000


class AdmittedRequests:
    """Requests by id.

    Args:
        budget: what may wait in the process; a request holds its frame in it, and a large answer.
    """

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._held: dict[RequestId, Reservation] = {}
        # Those of them that are exempt from the bound on the others, and have one of their own.
        self._exempt: set[RequestId] = set()

    def __contains__(self, request_id: RequestId) -> bool:
        """Whether it has no final. Whoever answers another id is too late, and is ignored."""
        return request_id in self._held

    def admit(self, request: Request, size: int) -> None:
        """Take a request of ``size`` bytes in.

        Raises:
            ProtocolError: one of that id has no final yet.
            Busy: there are too many, or too large ones.
        """
        if request.id in self._held:
            raise ProtocolError("A request with this id is in flight; the first one goes on.")
        exempt = request.method in _EXEMPT
        most = limits.MAX_EXEMPT_IN_FLIGHT if exempt else limits.MAX_IN_FLIGHT
        present = len(self._exempt) if exempt else len(self._held) - len(self._exempt)
        if present >= most:
            raise Busy(f"{most} requests are in flight; wait for one to end.", retry_after_ms=_BUSY_RETRY_MS)
        held = Reservation(self._budget)
        held.grow(size)
        self._held[request.id] = held
        if exempt:
            self._exempt.add(request.id)

    def grow(self, request_id: RequestId, size: int) -> None:
        """Hold ``size`` more bytes for a request. Raises as ``ByteBudget.take``."""
        self._held[request_id].grow(size)

    def release(self, request_id: RequestId) -> None:
        """Forget a request that has its final."""
        self._held.pop(request_id).release()
        self._exempt.discard(request_id)

    def clear(self) -> None:
        """Forget all of them."""
        for held in self._held.values():
            held.release()
        self._held.clear()
        self._exempt.clear()
