"""Reads of one thing that many ask for in the same moment: one of them asks the database for all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

V = TypeVar("V")

MAX_KEPT: Final = 4096
"""Answers; with more of them all are asked for anew."""


class SharedReads(Generic[V]):
    """Shares a read among those who ask in the same pass of the event loop.

    Each is answered from a read that began after it asked, as if it had been alone: what was committed before
    is in the answer.

    What was found may be kept for a while: until this process writes something of the kind, or for
    ``valid_s`` where another one does. What was not found is asked for each time, and costs no memory.

    Args:
        read: asks the database for a key, at a time in Unix seconds.
        valid_s: seconds for which an answer that is not None holds.
    """

    def __init__(
        self, read: Callable[[str, float], Coroutine[Any, Any, V | None]], valid_s: float = 0.0
    ) -> None:
        self._read = read
        self._valid_s = valid_s
        # by key: a read that has not begun
        self._next: dict[str, asyncio.Task[V | None]] = {}
        # by key: what was found, and at what time
        self._found: dict[str, tuple[float, V]] = {}
        # moves when what was found counts no more; a read that began before is not kept
        self._generation = 0

    def forget(self) -> None:
        """Ask anew from now on: this process changed what is read."""
        self._generation += 1
        self._found.clear()

    async def get(self, key: str, at: float) -> V | None:
        """Return what is read of a key at the time of the first who asks; raise what the read raises."""
        kept = self._found.get(key)
        if kept is not None:
            if abs(at - kept[0]) < self._valid_s:
                return kept[1]
            del self._found[key]
        task = self._next.get(key)
        if task is None:
            task = self._next[key] = asyncio.create_task(self._begin(key, at), name="shared read")
        # One who leaves must not take the answer from the others.
        return await asyncio.shield(task)

    async def _begin(self, key: str, at: float) -> V | None:
        # Everybody who is ready to ask in this pass has asked after it.
        await asyncio.sleep(0)
        del self._next[key]
        generation = self._generation
        value = await self._read(key, at)
        if value is not None and self._valid_s and generation == self._generation:
            if len(self._found) >= MAX_KEPT:
                self._found.clear()
            self._found[key] = at, value
        return value
