"""A storage whose writes fail from a certain one on, as those of a leader that lost its lease."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from obt_agent.errors import Busy
from obt_server.storage import ServerStorage

WRITES: Final = frozenset(
    {
        *("create_rollout", "save_rollout", "delete_rollout"),
        *("create_campaign", "save_campaign", "delete_campaign", "save_verdicts"),
        *("note_runs", "change_job"),
    }
)
"""What engines write."""


class LosingStorage:
    """The same storage, for so many more writes.

    Args:
        storage: what is stored.
        writes: how many come through.
    """

    def __init__(self, storage: ServerStorage, writes: int) -> None:
        self._storage = storage
        self._left = writes
        self.lost = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        if name not in WRITES:
            return found

        async def write(*args: Any, **kwargs: Any) -> Any:
            if self._left == 0:
                self.lost.set()
                raise Busy("Another one leads.", retry_after_ms=1000)
            self._left -= 1
            return await found(*args, **kwargs)

        return write
