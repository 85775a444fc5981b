"""What was stored though nobody heard so: looked for in storage afterwards, and carried out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import structlog

from obt_agent.errors import StorageFailed
from obt_server.storage import NotStored, StorageUnavailable
from obt_server.tasks import end_tasks

log = structlog.get_logger(__name__)

LOOKED_FOR_S: Final = 60.0
"""After the fault; and once in any case after the storage answers again. A database may commit a while after
the connection is lost, but not for so long."""
_MOST: Final = 1_000


class UnheardCommits:
    """Has what was stored by a commit without an answer begun. ``close`` ends the search, and loses nothing.

    What is not found here is begun when somebody repeats the request or cancels it, or by the next engine.

    Args:
        kind: what a run is called in the log and in the task's name.
        again_after_s: the pause between two looks.
        take_up: begins what is stored as running and was not begun, and returns whether there was such; it is
            called again until there was, or nothing more can come. Raises NotStored.
    """

    def __init__(self, kind: str, again_after_s: float, take_up: Callable[[str], Awaitable[bool]]) -> None:
        self._kind = kind
        self._again_after_s = again_after_s
        self._take_up = take_up
        # By run: loop time until which it is looked for.
        self._until: dict[str, float] = {}
        # What looks, while there is something to look for.
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @contextlib.contextmanager
    def watch(self, run_id: str) -> Iterator[None]:
        """Look for a run afterwards where the context ends and nobody knows whether it was stored."""
        try:
            yield
        # Who leaves in the middle does not stop the transaction.
        except (StorageUnavailable, asyncio.CancelledError):
            self._look_for(run_id)
            raise

    async def close(self) -> None:
        """End the search."""
        self._closed = True
        if self._task is not None:
            await end_tasks([self._task])

    def _look_for(self, run_id: str) -> None:
        if self._closed:
            return
        self._until[run_id] = asyncio.get_running_loop().time() + LOOKED_FOR_S
        if len(self._until) > _MOST:
            del self._until[next(iter(self._until))]
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look(), name=f"unheard {self._kind}s")

    async def _look(self) -> None:
        while self._until:
            try:
                for run_id in list(self._until):
                    await self._look_at(run_id)
            except StorageFailed as error:
                log.warning("run.not_looked_for", kind=self._kind, error=error.message)
            if self._until:
                await asyncio.sleep(self._again_after_s)

    async def _look_at(self, run_id: str) -> None:
        # Before the look: what is stored after it is seen by another one.
        began = asyncio.get_running_loop().time()
        try:
            found = await self._take_up(run_id)
        except NotStored:
            found = False
        except StorageFailed:
            raise
        # The term ends, for instance: the next one begins what is stored.
        except Exception:
            log.exception("run.not_taken_up", kind=self._kind, id=run_id)
            found = True
        # What is stored there may be as it was before: the commit may come yet.
        if not found and began < self._until.get(run_id, 0.0):
            return
        self._until.pop(run_id, None)


class Storing:
    """A run's lock, held from the look at an item to its storage: its work and an operator change it at once.

    What a commit without an answer was to change is read anew before the next change.

    Args:
        reload: has the run take over what is stored of it. The lock is held.
    """

    def __init__(self, reload: Callable[[], Awaitable[None]]) -> None:
        self._reload = reload
        self._lock = asyncio.Lock()
        # Whether more may be stored than the run knows of.
        self._stale = False

    async def __aenter__(self) -> None:
        await self._lock.acquire()
        try:
            if self._stale:
                await self._reload()
                self._stale = False
        except BaseException:
            self._lock.release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()

    @contextlib.contextmanager
    def save(self) -> Iterator[None]:
        """Store something; where the context ends and nobody knows whether it was stored, it is looked up."""
        try:
            yield
        except (StorageUnavailable, asyncio.CancelledError):
            self._stale = True
            raise

    async def renew(self, *, anyway: bool = False) -> bool:
        """Take over what is stored where that may differ, or ``anyway``. Return whether it was read."""
        self._stale = self._stale or anyway
        if not self._stale:
            return False
        async with self:
            return True
