"""A beat at regular times that notices when this process was stopped between two of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from obt_agent.system import clocks

log = structlog.get_logger(__name__)

_BEATS: Final = 2
"""In the time between two signs of life: silence is noticed that much more exactly."""


class Pulse:
    """Calls ``beat`` again and again, and ``late`` first where nothing ran for longer than between two.

    Args:
        every_s: between two signs of life, in seconds.
        beat: called with whether it is time for a sign of life.
        late: called with the seconds for which nothing ran.
    """

    def __init__(self, every_s: float, beat: Callable[[bool], None], late: Callable[[float], None]) -> None:
        self._every_s = every_s / _BEATS
        self._beat = beat
        self._late = late
        # when the clock was looked at last
        self._seen_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._seen_at = _now()
        self._task = asyncio.create_task(self._run(), name="bus pulse")

    def check(self) -> None:
        """Look now whether a beat is late: what just came may be older than the next beat."""
        now = _now()
        gap_s = now - self._seen_at
        self._seen_at = now
        if gap_s > 2 * self._every_s:
            self._late(gap_s)

    async def _run(self) -> None:
        count = 0
        while True:
            await asyncio.sleep(self._every_s)
            self.check()
            count += 1
            try:
                self._beat(count % _BEATS == 0)
            except Exception:
                # Without beats every exchange of this process would end, here and elsewhere.
                log.exception("exchange.beat_failed")

    async def close(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def _now() -> float:
    """Loop time, and the time for which the machine slept, or was suspended by its host: others waited."""
    return asyncio.get_running_loop().time() + clocks.slept_s()
