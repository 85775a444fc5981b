"""Which machines are there, since when others are away, and which rollouts wait for them."""

from __future__ import annotations

import asyncio

from obt_server.hub import AgentHub


class Machines:
    """Machines as rollouts see them.

    Args:
        hub: who is there.
    """

    def __init__(self, hub: AgentHub) -> None:
        self._hub = hub
        # Loop time of this process's start: before it, nobody can have been here.
        self._began = asyncio.get_running_loop().time()
        # Of machines that were here and went, loop time of that; of those who are here, nothing.
        self._left: dict[str, float] = {}
        self._here: set[str] = set(hub.online())
        # By machine: rollouts that have something for it when it comes.
        self._waiting: dict[str, set[str]] = {}

    def unknown(self, agent_id: str) -> bool:
        """Whether nobody of that id is enrolled (any more)."""
        return agent_id not in self._hub.directory.records

    def online(self, agent_id: str) -> bool:
        """Whether the machine can be asked now."""
        return self._hub.presence(agent_id) is not None

    def away_s(self, agent_id: str) -> float:
        """For how many seconds a machine is away, as far as this process has seen."""
        return asyncio.get_running_loop().time() - self._left.get(agent_id, self._began)

    def when_back(self, agent_id: str, rollout_id: str) -> None:
        """Have a rollout look again when the machine is here."""
        self._waiting.setdefault(agent_id, set()).add(rollout_id)

    def note(self, agent_id: str) -> tuple[bool, set[str]]:
        """Something of a machine changed; return whether it came or went, and who waited for it to come."""
        here = self.online(agent_id)
        if here == (agent_id in self._here):
            return False, set()
        if here:
            self._here.add(agent_id)
            self._left.pop(agent_id, None)
            return True, self._waiting.pop(agent_id, set())
        self._here.discard(agent_id)
        self._left[agent_id] = asyncio.get_running_loop().time()
        return True, set()
