"""What a hub asks and tells of the sessions that other server processes have."""

from __future__ import annotations

from typing import Final, Protocol

from obt_server.hub.storage import Admission


class OtherReplicas(Protocol):
    """The other processes, as the admission of agents sees them."""

    @property
    def own_id(self) -> str | None:
        """What this process stores with each session that it has; None where it is the only one."""

    async def in_use(self, agent_id: str, instance: str) -> bool:
        """Whether a live process of the agent other than ``instance`` is connected elsewhere."""

    def admitted(self, admission: Admission, session: int) -> None:
        """An agent was admitted here. Must be quick and not raise."""

    def left(self, agent_id: str, session: int) -> None:
        """A session ended here. Must be quick and not raise."""


class _Alone:
    """There are no others."""

    own_id: Final = None

    async def in_use(self, agent_id: str, instance: str) -> bool:
        del agent_id, instance
        return False

    def admitted(self, admission: Admission, session: int) -> None:
        """Nobody to tell."""

    def left(self, agent_id: str, session: int) -> None:
        """Nobody to tell."""


ALONE: Final[OtherReplicas] = _Alone()
