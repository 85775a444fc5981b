"""Every enrolled agent's record in memory, so that neither a list nor an event reads the database."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping

from obt_server.hub.events import EventBus
from obt_server.hub.storage import AgentRecord, HubStorage


class AgentDirectory:
    """The records of all agents, read when one of them may have changed.

    Args:
        storage: where they are.
        events: where changes are published, of agents too that another process (the command line) changed.
    """

    def __init__(self, storage: HubStorage, events: EventBus) -> None:
        self._storage = storage
        self._events = events
        self._records: dict[str, AgentRecord] = {}
        # moves with every change that this process makes; the records are those of ``_read``
        self._changes = 0
        self._read = -1
        # one read at a time: whoever waits for it finds the records current
        self._reading = asyncio.Lock()

    @property
    def records(self) -> Mapping[str, AgentRecord]:
        """What was read last, by id, in the storage's order."""
        return self._records

    def changed(self, agent_id: str) -> None:
        """A record was stored or deleted: the next one who asks waits for a read. Published to listeners."""
        self._changes += 1
        self._events.agent_changed(agent_id)

    async def current(self) -> Mapping[str, AgentRecord]:
        """Return all records, none older than the last change that this process made."""
        if self._read != self._changes:
            async with self._reading:
                if self._read != self._changes:
                    await self._load()
        return self._records

    async def refresh(self) -> None:
        """Read what other processes may have changed, and publish it."""
        async with self._reading:
            before = self._records
            await self._load()
        for agent_id in before.keys() | self._records.keys():
            if _identity(before.get(agent_id)) != _identity(self._records.get(agent_id)):
                self._events.agent_changed(agent_id)

    async def _load(self) -> None:
        changes = self._changes  # before the read: what changes meanwhile needs another
        self._records = {record.id: record for record in await self._storage.agents()}
        self._read = changes


def _identity(record: AgentRecord | None) -> AgentRecord | None:
    """Without what the storage moves every minute for agents that are there."""
    return None if record is None else dataclasses.replace(record, last_seen=None)
