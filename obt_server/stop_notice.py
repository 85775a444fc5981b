"""Between the signal to stop and the end: proxies are told first, and what was asked is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

import structlog

log = structlog.get_logger(__name__)

ANSWERED_WITHIN_S: Final = 5.0
"""For requests that were in progress when the notice ended."""
_LOOK_EVERY_S: Final = 0.05


class StopNotice:
    """The time that a server goes on for when it was told to stop, so that proxies send nothing more.

    Args:
        seconds: how long; 0 for none.
        withdraw: makes ``/readyz`` say no.
        stop: called when the time is over.
    """

    def __init__(self, seconds: float, withdraw: Callable[[], None], stop: Callable[[], None]) -> None:
        self._seconds = seconds
        self._withdraw = withdraw
        self._stop = stop
        self._timer: asyncio.TimerHandle | None = None
        # whether all of the time has passed; a second signal cuts it short
        self.over = False

    def begin(self) -> bool:
        """Begin it. Return False where there is none, or where it has begun before."""
        if self._seconds <= 0 or self._timer is not None:
            return False
        self._withdraw()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._end)
        log.info("server.stop_noticed", seconds=self._seconds)
        return True

    def _end(self) -> None:
        self.over = True
        self._stop()


async def answered(connections: Iterable[Any], forced: Callable[[], bool]) -> None:
    """Return when each request's answer has begun, after ``ANSWERED_WITHIN_S``, or when ``forced`` says so.

    An answer that has begun and goes on is a stream: what makes it ends it when the agents leave.

    Args:
        connections: uvicorn's, which change meanwhile.
        forced: whether nothing is to be waited for any more.
    """
    until = asyncio.get_running_loop().time() + ANSWERED_WITHIN_S
    while not forced() and any(_waits(one) for one in connections):
        if asyncio.get_running_loop().time() >= until:
            log.warning("server.requests_cut", requests=sum(_waits(one) for one in connections))
            return
        await asyncio.sleep(_LOOK_EVERY_S)


def _waits(connection: Any) -> bool:
    # A WebSocket has no such exchange, a connection that is new or was only looked at has none yet.
    cycle = getattr(connection, "cycle", None)
    return cycle is not None and not cycle.response_started
