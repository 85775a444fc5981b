"""How late this process itself is: what a busy machine adds to every time that the kit measures."""

from __future__ import annotations

import asyncio

# How often it looks.
_EVERY_S = 0.1
# The other side runs on the same busy machine, and several of its turns may be late for one of the kit's.
_ALLOWANCE = 5.0


class Lateness:
    """Watches the event loop for as long as ``run`` does."""

    def __init__(self) -> None:
        # Seconds by which a timer of this process was late, at worst.
        self.worst_s = 0.0

    @property
    def allowance_s(self) -> float:
        """What a time of the protocol may be exceeded by for it."""
        return _ALLOWANCE * self.worst_s

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _EVERY_S
            await asyncio.sleep(_EVERY_S)
            self.worst_s = max(self.worst_s, loop.time() - due)
