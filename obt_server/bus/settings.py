"""Numbers of exchanges between server processes. Durations are seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from obt_agent.errors import AgentError
from obt_server.bus.bus import BusUnavailable, NoResponders
from obt_server.bus.frames import OVERHEAD_BYTES, ErrorTypes


class MemoryBudget(Protocol):
    """Counts what waits in this process, whoever makes it wait (``obt_server.hub.budget``)."""

    def change(self, size: int) -> None:
        """Count ``size`` bytes more; less when it is negative."""

    def check(self) -> None:
        """Raise Busy where nothing more may be made to wait."""


Post = Callable[[str, bytes], None]
"""Send a small message of control to a subject, behind those that were posted before; it may be lost."""


@dataclass(frozen=True)
class ExchangeSettings:
    """What exchanges promise and tolerate.

    Args:
        prefix: of the subjects that answers come to; the same in all processes of an installation.
        errors: classes beside those of ``obt_agent.errors`` that arrive as what they were.
        alive_s: how often each side says that an exchange goes on.
        silence_s: how long the other side may say nothing.
        window_bytes: of items, that may wait for a reader; a reader holds that and one message at most.
        piece_bytes: of a message; what is longer goes in pieces.
        max_body_bytes: largest request.
        max_joined_bytes: largest item, or final.
        max_served: requests of others that run here at once.
        close_s: how long ``close`` waits for handlers that were cancelled.
    """

    prefix: str = "obt"
    errors: tuple[type[AgentError], ...] = ()
    alive_s: float = 1.0
    silence_s: float = 4.0
    window_bytes: int = 128 << 10
    piece_bytes: int = 64 << 10
    max_body_bytes: int = 64 << 20
    max_joined_bytes: int = 65 << 20
    max_served: int = 10_000
    close_s: float = 5.0

    def error_types(self) -> ErrorTypes:
        """Return what makes errors of bytes."""
        return ErrorTypes((BusUnavailable, NoResponders, *self.errors))

    def piece_of(self, max_payload: int) -> int:
        """Return the bytes of a piece, on a bus that carries so many in a message."""
        return min(self.piece_bytes, max_payload - OVERHEAD_BYTES)
