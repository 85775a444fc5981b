"""Agents of processes that cannot be heard, as the database has them: who has an agent is stored there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from obt_server.hub.presence import Presence
from obt_server.hub.storage import AgentRecord
from obt_server.replicas.remote_agents import RemoteAgents


class RecordedAgents:
    """The agents of processes that run and do not tell of them.

    A process that starts while the bus is away, and one whose agents moved meanwhile, would show them as
    offline otherwise. What a process tells itself comes first.

    Args:
        own_id: this process.
        remote: what others told.
        alive: whether a process runs, by its beats in the database.
        heard: whether a process has told of all its agents, and tells of what changes.
    """

    def __init__(
        self, own_id: str, remote: RemoteAgents, alive: Callable[[str], bool], heard: Callable[[str], bool]
    ) -> None:
        self._own_id = own_id
        self._remote = remote
        self._alive = alive
        self._heard = heard
        self._agents: dict[str, Presence] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._agents)

    def presence(self, agent_id: str) -> Presence | None:
        """Return what is known of an agent's session: its number, and nothing that was reported."""
        return self._agents.get(agent_id)

    def take(self, records: Mapping[str, AgentRecord]) -> frozenset[str]:
        """Take in what is stored now; return the agents that came or went by that."""
        before = self._agents
        replicas = {one.replica for one in records.values()} - {None, self._own_id}
        silent = {one for one in replicas if one is not None and self._alive(one) and not self._heard(one)}
        # Mostly there is none, and nothing to look through.
        self._agents = (
            {one.id: _presence(one) for one in records.values() if one.replica in silent and self._lasts(one)}
            if silent
            else {}
        )
        return frozenset(before.keys() ^ self._agents.keys())

    def ended(self, agent_id: str, session: int) -> None:
        """A session is over, whatever the database says until that is stored."""
        found = self._agents.get(agent_id)
        if found is not None and found.session <= session:
            del self._agents[agent_id]

    def _lasts(self, record: AgentRecord) -> bool:
        return record.id not in self._remote and record.session > self._remote.last_ended(record.id)


def _presence(record: AgentRecord) -> Presence:
    return Presence(
        session=record.session,
        instance="",
        version=record.version,
        capabilities=record.capabilities,
        connected_at=None,
    )
