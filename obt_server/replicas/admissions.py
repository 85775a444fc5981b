"""Admission of agents where several processes admit them."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import msgspec
import structlog

from obt_agent.errors import AgentError, StorageFailed
from obt_server.bus import Exchanges
from obt_server.hub import AgentHub, HubStorage
from obt_server.hub.storage import Admission
from obt_server.replica_storage import ReplicaStorage
from obt_server.replicas.messages import ALIVE, Probe, ToAgent
from obt_server.replicas.own_agents import OwnAgents
from obt_server.replicas.presence_exchange import PresenceExchange
from obt_server.replicas.remote_agents import RemoteAgents
from obt_server.replicas.subjects import Subjects
from obt_server.tasks import Tasks

log = structlog.get_logger(__name__)

PROBE_MARGIN_S: Final = 1.0
"""Beyond the time that the other process gives its agent for a sign of life."""
ENDS_AGAIN_S: Final = 1.0
"""Until ends that could not be stored are tried again."""

_encode: Final = msgspec.msgpack.Encoder().encode


class FleetStorage(HubStorage, ReplicaStorage, Protocol):
    """What the hub of one of several processes needs of storage."""


class FleetAdmissions:
    """What the hub of this process asks and tells of sessions elsewhere.

    Args:
        own_id: this process.
        hub: its hub.
        storage: says who has an agent.
        own: the agents of this process.
        remote: those of others.
        presence: how others are told.
    """

    def __init__(
        self,
        own_id: str,
        hub: AgentHub,
        storage: FleetStorage,
        *,
        own: OwnAgents,
        remote: RemoteAgents,
        presence: PresenceExchange,
    ) -> None:
        self.own_id: str | None = own_id
        self._presence = presence
        self._hub = hub
        self._storage = storage
        self._own = own
        self._remote = remote
        # by agent: sessions whose end is not stored yet; one write at a time takes them all
        self._ended: dict[str, int] = {}
        self._storing = False
        self._tasks = Tasks("admissions")

    def begin(self, exchanges: Exchanges, subjects: Subjects) -> None:
        """The ways to others are there; called before the first admission."""
        self._exchanges, self._subjects = exchanges, subjects

    async def close(self) -> None:
        """Store nothing more: that this process has left says the same of all its agents."""
        await self._tasks.close()

    async def in_use(self, agent_id: str, instance: str) -> bool:
        """Whether a live process of the agent other than ``instance`` is connected elsewhere.

        Raises:
            StorageFailed: the database does not say who has it.
        """
        place = await self._place_elsewhere(agent_id, instance)
        if place is None:
            return False
        replica, session = place
        within_s = self._hub.settings.probe_s + PROBE_MARGIN_S
        body = _encode(ToAgent(agent_id, session, Probe(instance)))
        try:
            subject = self._subjects.replica(replica, "agents")
            said = await self._exchanges.call(subject, body, timeout_s=within_s)
        # Nobody there, or nobody who answers: an agent must not be kept out by a process that is dead.
        except AgentError as error:
            log.info("replica.probe_unanswered", agent=agent_id, error=error.message)
            return False
        return said == ALIVE

    async def _place_elsewhere(self, agent_id: str, instance: str) -> tuple[str, int] | None:
        """The process that is to be asked, and for which session; None where there is none."""
        told = self._remote.get(agent_id)
        if told is not None:
            hello = self._remote.hello(agent_id)
            # A redial of the same process replaces its old session wherever that is.
            if hello is not None and hello.instance == instance:
                return None
            return told.replica, told.session
        owner = await self._storage.owner(agent_id)
        if owner is None or owner.replica is None:
            return None
        if owner.replica == self.own_id or self._presence.gone(owner.replica):
            return None
        return owner.replica, owner.session

    def admitted(self, admission: Admission, session: int) -> None:
        """An agent was admitted here: others reach it, and hear of it, from now on."""
        presence = self._hub.presence(admission.agent_id)
        if presence is not None:
            self._own.admitted(admission, session, presence)
            self._presence.came(admission.agent_id)
        # A later one elsewhere may have been told of before this session was there to be ended.
        later = self._remote.get(admission.agent_id)
        if later is not None:
            self._hub.end_older(admission.agent_id, later.session)

    def left(self, agent_id: str, session: int) -> None:
        """A session ended here."""
        self._presence.left(agent_id, session)
        # A process that stops leaves as a whole.
        if not self._hub.draining:
            self._note_end(agent_id, session)
            if not self._storing:
                self._storing = True
                self._tasks.start(self._store_ends(), "store ends")

    async def _store_ends(self) -> None:
        said = False
        try:
            while self._ended:
                ended, self._ended = self._ended, {}
                try:
                    await self._storage.left(ended)
                # Others would take these agents for connected where they do not hear this process.
                except StorageFailed as error:
                    for agent_id, session in ended.items():
                        self._note_end(agent_id, session)
                    if not said:
                        log.warning("agents.not_left", error=error.message, agents=len(ended))
                    said = True
                    await asyncio.sleep(ENDS_AGAIN_S)
        finally:
            self._storing = False

    def _note_end(self, agent_id: str, session: int) -> None:
        # An older one may end after the newer one that replaced it.
        self._ended[agent_id] = max(session, self._ended.get(agent_id, session))
