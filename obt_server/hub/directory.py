"""Every enrolled agent's record in memory, so that neither a list nor an event reads the database."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol

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
        # moves with every change that an operator makes here; the records are those of ``_read``
        self._changes = 0
        self._read = -1
        # changes that were published before the records are read
        self._published: set[str] = set()
        # of agents that were admitted since the last read began, which may not have seen it
        self._admitted: dict[str, AgentRecord] = {}
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
        self._published.add(agent_id)
        self._events.agent_changed(agent_id)

    def stored(self, record: AgentRecord) -> None:
        """An agent's hello is stored: who asks from now on sees it, without a read.

        A fleet that returns would read all agents for each of them, and agents that dial without end would
        make each operator's request wait for the database.
        """
        self._admitted[record.id] = record
        known = self._records.get(record.id)
        # Enrolled by another process a moment ago, once for each agent: whoever asks next waits for a read.
        if known is None:
            self._changes += 1
        # What was read since its admission is newer: an operator may have changed it.
        elif known.session < record.session:
            self._records[record.id] = record
            if known.name != record.name:
                ordered = sorted(self._records.values(), key=lambda one: (one.name, one.id))
                self._records = {one.id: one for one in ordered}

    def session_changed(self, agent_id: str) -> None:
        """Publish that an agent's session began or ended."""
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
            await self._load()

    async def _load(self) -> None:
        # before the read: what changes meanwhile needs another
        changes, self._admitted = self._changes, {}
        published, self._published = self._published, set()
        records = {record.id: record for record in await self._storage.agents()}
        for agent_id, admitted in self._admitted.items():
            record = records.get(agent_id)
            if record is not None and record.session < admitted.session:
                records[agent_id] = after_hello(
                    record,
                    admitted,
                    session=admitted.session,
                    replica=admitted.replica,
                    at=admitted.last_seen,
                )
        before, known = self._records, self._read >= 0
        self._records, self._read = records, changes
        # Whoever makes the server read, and whoever changed it: pages hear of it.
        for agent_id in before.keys() | records.keys() if known else ():
            if agent_id not in published and _differ(before.get(agent_id), records.get(agent_id)):
                self._events.agent_changed(agent_id)


class HelloFields(Protocol):
    """What an agent says of itself at each hello, and is stored with its record."""

    @property
    def version(self) -> str:
        """The agent's version."""

    @property
    def store_id(self) -> str | None:
        """Which job store it has."""

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What it can do."""

    @property
    def own_labels(self) -> tuple[str, ...]:
        """The labels of its configuration."""


def after_hello(
    record: AgentRecord, said: HelloFields, *, session: int, replica: str | None, at: float | None
) -> AgentRecord:
    """Return an agent's record with what a later hello of it said; the rest, as its name, is operators'.

    Args:
        record: the record so far.
        said: what the hello said; another record tells it as well.
        session: the number of the session that it began.
        replica: the server process that admitted it, where several share the storage.
        at: Unix seconds of the admission.
    """
    return dataclasses.replace(
        record,
        version=said.version,
        session=session,
        store_id=said.store_id,
        capabilities=said.capabilities,
        last_seen=at,
        own_labels=said.own_labels,
        replica=replica,
    )


def _tell_nobody(_agent_id: str) -> None:
    """There is no other process."""


def _differ(before: AgentRecord | None, now: AgentRecord | None) -> bool:
    """Whether more changed than the time that the storage moves every minute for agents that are there."""
    # Most are equal: a copy of each of them, every two seconds, would be a tenth of what a thousand idle
    # agents cost.
    if before is None or now is None or before == now:
        return before != now
    return dataclasses.replace(before, last_seen=now.last_seen) != now
