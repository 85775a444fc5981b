"""The live series of a running benchmark: numbered samples, kept for whoever comes late."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from obt_agent.benchmark.result import ResourceSample

# Samples that a series keeps (over five hours at two a second); older ones are dropped and counted.
KEPT: Final = 40_000


class LiveSeries:
    """Samples in order, numbered from 0 without holes; ends with the run."""

    def __init__(self, kept: int = KEPT) -> None:
        self._samples: deque[ResourceSample] = deque(maxlen=kept)
        # Number of the next sample; with the deque's length it tells how many were dropped.
        self._next = 0
        self._ended = False
        # Set, and replaced by a new one, at each change: every subscriber waits for the one that it last saw.
        self._changed = asyncio.Event()

    @property
    def samples(self) -> tuple[ResourceSample, ...]:
        """What is kept, oldest first."""
        return tuple(self._samples)

    @property
    def dropped(self) -> int:
        """How many are no longer kept."""
        return self._next - len(self._samples)

    @property
    def next_n(self) -> int:
        """The number of the next sample."""
        return self._next

    def append(self, sample: ResourceSample) -> None:
        """Add a sample, whose ``n`` is ``next_n``."""
        self._samples.append(sample)
        self._next += 1
        self._wake()

    def end(self) -> None:
        """No more samples; subscribers' iterators end when they have given what there is."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def subscribe(self, after: int | None = None) -> AsyncIterator[ResourceSample]:
        """Kept samples numbered above ``after``, then each as it comes; None: new ones only.

        A number that this series has not reached is of the one before the agent was restarted: its reader
        gets all of this one.
        """
        position = self._next if after is None else max(after + 1, 0) if after < self._next else 0
        while True:
            position = max(position, self.dropped)
            while position < self._next:
                yield self._samples[position - self.dropped]
                position = max(position + 1, self.dropped)
            if self._ended:
                return
            await self._changed.wait()
