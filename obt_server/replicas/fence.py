"""The right to lead, looked at wherever something is begun by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from obt_agent.protocol.jobs import JobStarted
from obt_server.hub import Hub
from obt_server.hub.command_params import NO_PARAMS, CommandParams
from obt_server.hub.storage import Fence, JobRecord
from obt_server.replica_storage import LeaderLease, LeaseLost


class FencedStorage(Protocol):
    """A storage whose writes fail once another lease was given."""

    async def create_job(self, job: JobRecord) -> None:
        """Store a job that is to be started. Raises LeaseLost."""

    async def confirm(self) -> None:
        """Write nothing. Raises LeaseLost."""


class LeaseFence:
    """The right by which a leader begins something; see ``Fence``.

    Args:
        storage: fenced by the lease.
        lease: of the leader; another process makes its own fence of it.
        holds: whether the leader still leads by its own clock; where another process looks, it cannot say.
    """

    def __init__(
        self, storage: FencedStorage, lease: LeaderLease, holds: Callable[[], bool] = lambda: True
    ) -> None:
        self._storage = storage
        self.lease = lease
        self._holds = holds

    async def check(self) -> None:
        """Raise LeaseLost once another one leads."""
        self._check_clock()
        await self._storage.confirm()
        # It may have been stopped meanwhile, for a minute.
        self._check_clock()

    async def create_job(self, job: JobRecord) -> None:
        """Store a job that is to be started. Raises LeaseLost."""
        self._check_clock()
        await self._storage.create_job(job)
        self._check_clock()

    def _check_clock(self) -> None:
        if not self._holds():
            raise LeaseLost("This server process does not lead any more; try again.", retry_after_ms=1000)


def lease_of(fence: Fence | None) -> LeaderLease | None:
    """Return the lease that another process is to look at, where the fence is one of a lease."""
    return fence.lease if isinstance(fence, LeaseFence) else None


class LeasedHub:
    """A hub by which a leader changes nothing at an agent once another one leads.

    All but what is defined here is the hub's own.

    Args:
        hub: the live agents.
        fence: the leader's right.
    """

    def __init__(self, hub: Hub, fence: Fence) -> None:
        self._hub = hub
        self._fence = fence

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hub, name)

    async def start_job(self, agent_id: str, method: str, params: CommandParams) -> JobStarted:
        """Start a job; see ``Hub``. Raises LeaseLost, too."""
        return await self._hub.start_job(agent_id, method, params, fence=self._fence)

    async def call_text(
        self,
        agent_id: str,
        method: str,
        params: CommandParams = NO_PARAMS,
        *,
        timeout_s: float | None = None,
    ) -> bytes:
        """Send a command; see ``Hub``. Raises LeaseLost, too."""
        return await self._hub.call_text(agent_id, method, params, timeout_s=timeout_s, fence=self._fence)
