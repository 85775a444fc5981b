"""Waking those who wait, for the memory of a list."""

from __future__ import annotations

import asyncio


class Signal:
    """Wakes everybody who waits at that moment; who waits looks again whether what it waits for is there.

    An ``asyncio.Event`` takes a kilobyte, and each of a thousand agents has several things to wait for.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        # Done or cancelled ones may be among them.
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Wait for the next ``wake``."""
        woken = asyncio.get_running_loop().create_future()
        self._waiting.append(woken)
        try:
            await woken
        finally:
            # Still there only where the wait was cancelled.
            if woken in self._waiting:
                self._waiting.remove(woken)

    def wake(self) -> None:
        """Wake them."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for woken in waiting:
                if not woken.done():
                    woken.set_result(None)
