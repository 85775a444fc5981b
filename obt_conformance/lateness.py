"""How late this process itself is: what a busy machine adds to every time that the kit measures."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

# How often it looks.
_EVERY_S = 0.1
# The other side runs on the same busy machine, and several of its turns may be late for one of the kit's.
_ALLOWANCE = 5.0


class Lateness:
    """Watches the event loop for as long as ``run`` does."""

    def __init__(self) -> None:
        # Seconds by which a timer of this process was late, at worst.
        self.worst_s = 0.0
        self._parts: list[Lateness] = []

    @property
    def allowance_s(self) -> float:
        """What a time of the protocol may be exceeded by for it."""
        return _ALLOWANCE * self.worst_s

    @contextlib.contextmanager
    def part(self) -> Iterator[Lateness]:
        """The lateness while the context lasts, by itself."""
        part = Lateness()
        self._parts.append(part)
        try:
            yield part
        finally:
            self._parts.remove(part)

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _EVERY_S
            await asyncio.sleep(_EVERY_S)
            for one in (self, *self._parts):
                one.worst_s = max(one.worst_s, loop.time() - due)
