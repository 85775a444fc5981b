"""Tasks: work that is done again and again, and the end of what runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

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
