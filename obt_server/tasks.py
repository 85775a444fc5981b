"""Tasks: work that is done again and again, and tasks that end with what started them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

import structlog

from obt_agent.errors import StorageFailed

log = structlog.get_logger(__name__)


async def end_tasks(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks, and wait until they have ended."""
    found = list(tasks)
    for task in found:
        task.cancel()
    await asyncio.gather(*found, return_exceptions=True)


def every(seconds: float, work: Callable[[], Awaitable[None]], name: str) -> asyncio.Task[None]:
    """Return a task that waits so long and does the work, until it is cancelled."""

    async def repeat() -> None:
        while True:
            # After the work and not from its start: a slow database is not asked again while it answers.
            await asyncio.sleep(seconds)
            try:
                await work()
            # A database that is away for an hour must not fill the log with tracebacks.
            except StorageFailed as error:
                log.warning("periodic_task.failed", task=name, error=error.message)
            # A full disk for a minute must not end the enforcement of revocations for good.
            except Exception:
                log.exception("periodic_task.failed", task=name)

    return asyncio.create_task(repeat(), name=name)


class Tasks:
    """Runs work until it ends, or until all of it is ended.

    Args:
        name: of what it belongs to, for the tasks' names.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        # kept here, so that none is collected as garbage
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run something; what fails in a way that nobody foresaw is logged."""
        task = asyncio.create_task(work, name=f"{self._name} {name}")
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task.failed", task=task.get_name(), exc_info=error)

    async def close(self) -> None:
        """End all of it."""
        await end_tasks(self._running)
