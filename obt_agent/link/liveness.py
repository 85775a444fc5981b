"""The watchdog of one session: silence, output that does not move, and the event loop's own lag.

Only inbound bytes prove life; and output that the other end's kernel takes nothing of, for as long, proves
that nobody reads. Nothing is decided in a turn in which the event loop itself was late: bytes may lie unread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from obt_agent.link.timings import LinkTimings
from obt_agent.link.wire import Wire
from obt_agent.timer_grid import until_tick

log = structlog.get_logger(__name__)


class LoopLag:
    """How late the event loop runs timers, in milliseconds."""

    def __init__(self) -> None:
        self.last_ms = 0.0
        self.worst_ms = 0.0

    def late(self, seconds: float) -> None:
        """A timer ran this much after its time."""
        self.last_ms = max(seconds, 0.0) * 1000.0
        self.worst_ms = max(self.worst_ms, self.last_ms)


class Watchdog:
    """Watches one wire.

    Args:
        wire: what is watched.
        timings: ``silence_s`` and ``tick_s`` count.
        lag: where the loop's lag is noted.
        on_tick: called at every tick with the loop's time, and whether the loop was late.
    """

    def __init__(
        self, wire: Wire, timings: LinkTimings, lag: LoopLag, on_tick: Callable[[float, bool], None]
    ) -> None:
        self._wire = wire
        self._timings = timings
        self._lag = lag
        self._on_tick = on_tick
        self._loop = asyncio.get_running_loop()
        # The most that the other kernel was seen to have taken, and when that last grew or nothing waited.
        self._taken = wire.taken_bytes
        self._moved_at_s = self._loop.time()
        # Set by a probe: anything that comes after it was sent will do as its answer.
        self._answer_by_s: float | None = None
        self._probed_at_s = 0.0

    async def run(self) -> None:
        """Tick until the wire is dead, then break it."""
        while True:
            due = self._loop.time() + (left_s := until_tick(self._timings.tick_s))
            await asyncio.sleep(left_s)
            now = self._loop.time()
            self._lag.late(now - due)
            # The loop stood still, and not the server: what it sent meanwhile has not been read yet.
            late = now - due > self._timings.tick_s
            if late:
                log.warning("link.loop_lag", late_ms=round((now - due) * 1000))
            elif reason := self._dead(now):
                log.warning("link.dead", reason=reason)
                self._wire.abort(reason)
                return
            self._on_tick(now, late)

    def probe(self) -> None:
        """Something happened that may have cost the connection: ask, and wait only ``probe_s``."""
        self._probed_at_s = self._loop.time()
        self._answer_by_s = self._probed_at_s + self._timings.probe_s
        self._wire.ping(b"probe")

    def _dead(self, now: float) -> str:
        timings = self._timings
        # Bytes, not frames: a large frame on a slow link is alive while it arrives.
        heard_at = self._wire.last_received_s
        if self._answer_by_s is not None:
            if heard_at > self._probed_at_s:
                self._answer_by_s = None
            elif now > self._answer_by_s:
                return f"no answer within {timings.probe_s:g} s after the network changed"
        if now - heard_at > timings.silence_s:
            return f"silent: nothing was received for {timings.silence_s:g} s"
        if self._stuck_for(now) > timings.silence_s:
            return f"stuck: the server took nothing for {timings.silence_s:g} s"
        return ""

    def _stuck_for(self, now: float) -> float:
        taken = self._wire.taken_bytes
        # While nothing waits, a server that takes nothing is not stuck.
        if taken > self._taken or not self._wire.outstanding_bytes:
            self._moved_at_s = now
        self._taken = max(taken, self._taken)
        return now - self._moved_at_s
