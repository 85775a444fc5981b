"""What one of several server processes does by itself."""

from __future__ import annotations

from obt_server.hub import AgentHub, AgentRecord, HubSettings, HubSocket, StoredCredential
from obt_server.hub.counters import LinkCounters
from obt_server.hub.directory import AgentDirectory
from obt_server.hub.events import EventBus


class LocalSide:
    """The part of a hub that is about this process alone.

    Args:
        local: the agents whose sockets this process has.
    """

    def __init__(self, local: AgentHub) -> None:
        self._local = local

    @property
    def settings(self) -> HubSettings:
        """Its numbers."""
        return self._local.settings

    @property
    def events(self) -> EventBus:
        """What happens to agents and jobs, here and elsewhere."""
        return self._local.events

    @property
    def directory(self) -> AgentDirectory:
        """The records of all enrolled agents."""
        return self._local.directory

    def check_capacity(self) -> None:
        """See ``AgentHub.check_capacity``."""
        self._local.check_capacity()

    def check_dials(self, agent_id: str) -> None:
        """See ``AgentHub.check_dials``."""
        self._local.check_dials(agent_id)

    async def serve(self, socket: HubSocket, credential: StoredCredential) -> None:
        """See ``AgentHub.serve``."""
        await self._local.serve(socket, credential)

    async def find(self, id_or_name: str) -> AgentRecord:
        """See ``AgentHub.find``."""
        return await self._local.find(id_or_name)

    async def enforce_credentials(self) -> None:
        """See ``AgentHub.enforce_credentials``: each process does it for its own agents."""
        await self._local.enforce_credentials()

    async def store_last_seen(self) -> None:
        """See ``AgentHub.store_last_seen``."""
        await self._local.store_last_seen()

    @property
    def counters(self) -> LinkCounters:
        """What became of the sockets of this process."""
        return self._local.counters

    @property
    def waiting_bytes(self) -> int:
        """What waits in this process."""
        return self._local.waiting_bytes

    @property
    def draining(self) -> bool:
        """Whether this process stops."""
        return self._local.draining
