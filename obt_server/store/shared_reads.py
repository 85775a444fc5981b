"""Reads of one thing that many ask for in the same moment: one of them asks the database for all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

V = TypeVar("V")


class SharedReads(Generic[V]):
    """Shares a read among those who ask in the same pass of the event loop.

    Each is answered from a read that began after it asked, as if it had been alone: what was committed before
    is in the answer.

    Args:
        read: asks the database for a key, at a time in Unix seconds.
    """

    def __init__(self, read: Callable[[str, float], Coroutine[Any, Any, V]]) -> None:
        self._read = read
        # by key: a read that has not begun
        self._next: dict[str, asyncio.Task[V]] = {}

    async def get(self, key: str, at: float) -> V:
        """Return what is read of a key at the time of the first who asks; raise what the read raises."""
        task = self._next.get(key)
        if task is None:
            task = self._next[key] = asyncio.create_task(self._begin(key, at), name="shared read")
        # One who leaves must not take the answer from the others.
        return await asyncio.shield(task)

    async def _begin(self, key: str, at: float) -> V:
        # Everybody who is ready to ask in this pass has asked after it.
        await asyncio.sleep(0)
        del self._next[key]
        return await self._read(key, at)
