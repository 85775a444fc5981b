"""What one replica alone does, for as long as it leads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import structlog

from obt_agent.errors import AgentError
from obt_server.replica_storage import LeaderLease
from obt_server.replicas.membership import Membership
from obt_server.tasks import end_tasks

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 0.25
"""Between two looks at the clock: a lease runs out without an event where the database is away."""
AGAIN_AFTER_S: Final = 1.0
"""After a term that could not begin, by a fault of the storage for instance."""

Led = Callable[[LeaderLease], AbstractAsyncContextManager[None]]
"""What is done in a term: begun when the context is entered, ended with it."""


class Leadership:
    """Runs something while this replica leads, once for each lease.

    Args:
        membership: who leads.
        led: what runs.
    """

    def __init__(self, membership: Membership, led: Led) -> None:
        self._membership = membership
        self._led = led
        # Set when something of the membership changed.
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to lead whenever the membership says so."""
        self._membership.observe(self._changed.set)
        self._task = asyncio.create_task(self._run(), name="leadership")

    async def close(self) -> None:
        """End what runs; return when it has ended."""
        if self._task is not None:
            await end_tasks([self._task])

    async def _run(self) -> None:
        while True:
            await self._until(lambda: self._membership.leading)
            lease = self._membership.lease
            if lease is None:
                continue
            term = asyncio.create_task(self._term(lease), name=f"term {lease.epoch}")
            over = asyncio.create_task(self._until_over(lease), name="end of the term")
            try:
                # Whatever it is at: also where it still begins, and waits for the database.
                await asyncio.wait([term, over], return_when=asyncio.FIRST_COMPLETED)
                failed = term.done()
            finally:
                # The next term begins when this one has ended: they share no engine, but the event loop.
                await end_tasks([term, over])
            if failed:
                await asyncio.sleep(AGAIN_AFTER_S)

    async def _until_over(self, lease: LeaderLease) -> None:
        await self._until(lambda: self._membership.lease != lease)

    async def _term(self, lease: LeaderLease) -> None:
        log.info("leader.begins", replica=lease.holder, epoch=lease.epoch)
        try:
            async with self._led(lease):
                await asyncio.get_running_loop().create_future()
        # The lease was lost, or the database is away: another term begins when this replica leads again.
        except AgentError as error:
            log.warning("leader.failed", epoch=lease.epoch, error=error.message)
        # A fault of the program must not leave the fleet without a leader that looks like one.
        except Exception:
            log.exception("leader.failed", epoch=lease.epoch)
        finally:
            log.info("leader.ends", replica=lease.holder, epoch=lease.epoch)

    async def _until(self, wanted: Callable[[], bool]) -> None:
        while not wanted():
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._changed.wait()
