"""Who watches, and when the next sample is due."""

from __future__ import annotations

import asyncio
from typing import Self

from obt_agent.hardware.samples import Sample

# A sample that comes this share of an interval after the last one is on time.
_EARLY = 0.9


class SampleStream:
    """The samples of one who watches: the newest each time; slower readers miss some, and are told how many.

    ``interval_s`` is what was granted. ``missed`` counts intervals that passed with no sample taken up.
    """

    def __init__(self, interval_s: float, *, reason: str) -> None:
        self.interval_s = interval_s
        self.reason = reason
        self.missed = 0
        # The sample that waits to be taken; a newer one takes its place.
        self._newest: Sample | None = None
        # When the last sample that was kept, and the last one that was taken up, were read.
        self._offered_ns: int | None = None
        self._taken_ns: int | None = None
        self._ended = False
        # Set when there is a sample, or the end.
        self._wake = asyncio.Event()

    def offer(self, sample: Sample) -> None:
        """A new sample is there; it is left out when it comes before the next is due."""
        due = (
            self._offered_ns is None or sample.t_mono_ns - self._offered_ns >= self.interval_s * _EARLY * 1e9
        )
        if due:
            self._offered_ns = sample.t_mono_ns
            self._newest = sample
            self._wake.set()

    def end(self) -> None:
        """No more samples come."""
        self._ended = True
        self._wake.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sample:
        while self._newest is None:
            if self._ended:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        sample, self._newest = self._newest, None
        if self._taken_ns is not None:
            passed = (sample.t_mono_ns - self._taken_ns) / 1e9 / self.interval_s
            self.missed += max(0, round(passed) - 1)
        self._taken_ns = sample.t_mono_ns
        return sample


class Ticks:
    """Times at which to sample, on a fixed grid.

    Late work moves no later tick; ticks that it covers are missed, and counted. Times are seconds of one
    monotonic clock.
    """

    def __init__(self) -> None:
        self.missed = 0
        # The tick before, from which the next ones count; None before the first.
        self._last: float | None = None

    def next_after(self, now: float, interval_s: float) -> float:
        """When the next tick is due; call it once per tick, after the work of the last."""
        if self._last is None:
            self._last = now
            return now
        due = self._last + interval_s
        # Made up for by no burst: the next tick is the first one of the grid that is still to come.
        if due < now:
            skipped = int((now - due) / interval_s) + 1
            self.missed += skipped
            due += skipped * interval_s
        self._last = due
        return due

    def restart(self, now: float) -> None:
        """The interval changed: count from now on."""
        self._last = now
