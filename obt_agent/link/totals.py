"""The link's figures since the process started."""

from __future__ import annotations

from collections.abc import Callable

from obt_agent.link.connection_attempt import ConnectionAttempt
from obt_agent.link.liveness import LoopLag
from obt_agent.protocol.commands import LinkStatistics


class LinkTotals:
    """Sums over the sockets that are gone, to which those of the present one are added.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._admitted_at_s = 0.0
        self._bytes_sent = self._bytes_received = self._frames_sent = self._frames_received = 0
        self._last_disconnect: str | None = None
        self.dials = 0
        self.admissions = 0

    def admitted(self) -> None:
        """A hello was answered."""
        self.admissions += 1
        self._admitted_at_s = self._clock()

    def add(self, attempt: ConnectionAttempt, reason: str) -> None:
        """A socket is gone, for this reason."""
        self._bytes_sent += attempt.wire.written_bytes
        self._bytes_received += attempt.wire.received_bytes
        self._frames_sent += attempt.session.frames_sent
        self._frames_received += attempt.session.frames_received
        self._last_disconnect = reason

    def statistics(self, attempt: ConnectionAttempt | None, lag: LoopLag) -> LinkStatistics:
        """The figures, with those of the present socket."""
        now = LinkTotals(self._clock)
        if attempt is not None:
            now.add(attempt, "")
        admitted = attempt is not None and attempt.session.hello_result is not None
        return LinkStatistics(
            session=attempt.session.number if attempt is not None and admitted else None,
            connected_s=self._clock() - self._admitted_at_s if admitted else 0.0,
            admissions=self.admissions,
            dials=self.dials,
            bytes_sent=self._bytes_sent + now._bytes_sent,
            bytes_received=self._bytes_received + now._bytes_received,
            frames_sent=self._frames_sent + now._frames_sent,
            frames_received=self._frames_received + now._frames_received,
            last_disconnect=self._last_disconnect,
            loop_lag_ms_max=lag.worst_ms,
        )
