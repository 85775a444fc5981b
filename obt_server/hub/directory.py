"""Every enrolled agent's record in memory, so that neither a list nor an event reads the database."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping

from obt_server.hub.events import EventBus
from obt_server.hub.storage import Admission, AgentRecord, HubStorage


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
        # moves with every change that an operator makes here; the records are those of ``_read``
        self._changes = 0
        self._read = -1
        # agents that were admitted since the last read; the sessions read them, and nobody waits for it
        self._admitted: set[str] = set()
        # one read at a time: whoever waits for it finds the records current
        self._reading = asyncio.Lock()
        # told of each change that an operator makes here
        self.on_changed: Callable[[str], None] = _tell_nobody

    @property
    def records(self) -> Mapping[str, AgentRecord]:
        """What was read last, by id, in the storage's order."""
        return self._records

    def changed(self, agent_id: str) -> None:
        """An operator changed a record: the next one who asks waits for a read. Published to listeners."""
        self.changed_elsewhere(agent_id)
        self.on_changed(agent_id)

    def changed_elsewhere(self, agent_id: str) -> None:
        """Do the same for what an operator changed at another process, which tells all others itself."""
        self._changes += 1
        self._events.agent_changed(agent_id)

    def stored(self, admission: Admission, session: int) -> None:
        """An agent's hello is stored: who asks after its answer sees what it said, without a read.

        Its name alone waits for ``admitted``: whether another has it is the storage's to say.
        """
        record = self._records.get(admission.agent_id)
        if record is not None:
            self._records[record.id] = dataclasses.replace(
                record,
                version=admission.version,
                store_id=admission.store_id,
                capabilities=admission.capabilities,
                own_labels=admission.own_labels,
                last_seen=admission.at,
                session=session,
            )

    async def admitted(self, agent_id: str) -> None:
        """Read what an agent's hello stored, with those of others that come meanwhile, and publish it.

        Its session waits for that. Operators who ask in the meantime do not: agents that dial without end
        would make each of their requests wait for the database.
        """
        self._admitted.add(agent_id)
        async with self._reading:
            if agent_id in self._admitted:
                await self._load()
        self._events.agent_changed(agent_id)

    def left(self, agent_id: str) -> None:
        """Publish that an agent's session ended, which its record says nothing of."""
        self._events.agent_changed(agent_id)

    def find(self, id_or_name: str) -> list[AgentRecord]:
        """Return the agent of that id, else those of that name, of what was read last."""
        # An id wins: a machine that takes another's id as its name must not stand before it.
        one = self._records.get(id_or_name)
        if one is not None:
            return [one]
        return [record for record in self._records.values() if record.name == id_or_name]

    async def current(self) -> Mapping[str, AgentRecord]:
        """Return all records, none older than the last change that an operator made in this process."""
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
            if _differ(before.get(agent_id), self._records.get(agent_id)):
                self._events.agent_changed(agent_id)

    async def _load(self) -> None:
        # before the read: what changes meanwhile needs another
        changes, self._admitted = self._changes, set()
        self._records = {record.id: record for record in await self._storage.agents()}
        self._read = changes


def _tell_nobody(_agent_id: str) -> None:
    """There is no other process."""


def _differ(before: AgentRecord | None, now: AgentRecord | None) -> bool:
    """Whether more changed than the time that the storage moves every minute for agents that are there."""
    # Most are equal: a copy of each of them, every two seconds, would be a tenth of what a thousand idle
    # agents cost.
    if before is None or now is None or before == now:
        return before != now
    return dataclasses.replace(before, last_seen=now.last_seen) != now
