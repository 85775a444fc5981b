"""What comes after the end of campaigns: late results, and comparisons with their baselines."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import structlog

from obt_server.storage import NotStored
from obt_server.tasks import end_tasks

log = structlog.get_logger(__name__)


class FollowUps:
    """Runs such work until it ends, or until ``close``; none begins after ``stop``."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    def later(self, work: Coroutine[None, None, None], name: str) -> None:
        """Do something in a task of its own."""
        if self._stopped:
            work.close()
            return
        task = asyncio.create_task(_logged(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Ended before its first step, it would never be awaited.
        task.add_done_callback(lambda _: work.close())

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopped = True

    async def close(self) -> None:
        """End what has not ended."""
        self.stop()
        await end_tasks(self._tasks)


async def _logged(work: Coroutine[None, None, None], name: str) -> None:
    try:
        await work
    except NotStored:
        pass  # the campaign was forgotten meanwhile
    # It is done at the next start: what it had to do is in storage.
    except Exception:
        log.exception("campaign.follow_up_failed", task=name)
