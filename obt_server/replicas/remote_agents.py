"""The live agents of other processes, as they told of them last."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import structlog

from obt_server.hub.presence import Presence
from obt_server.replicas.messages import (
    HELLO,
    PART_TYPES,
    AgentUpdate,
    BeatPart,
    HardwarePart,
    HelloPart,
    ModelsPart,
    ProgressPart,
)

log = structlog.get_logger(__name__)

_DECODED: Final = 5000
"""Agents that are kept decoded: views of all read each once a second at most."""
_ENDED: Final = 100_000

_NOTHING: Final = (
    None,
    BeatPart(None, None, None, None),
    ModelsPart(None, stale=False, running=()),
    HardwarePart((), None),
    ProgressPart(()),
)
_DECODERS: Final = tuple(msgspec.msgpack.Decoder(kind) for kind in PART_TYPES)


class RemoteAgent(msgspec.Struct, gc=False):
    """One agent, encoded: a hundred thousand of them as objects would cost a gigabyte and long collections.

    ``heard_at`` is monotonic seconds.
    """

    replica: str
    session: int
    stamp: int
    heard_at: float
    parts: tuple[bytes, ...]


class RemoteAgents:
    """The agents of all other processes, by id. A session is never replaced by an older one."""

    def __init__(self) -> None:
        self._agents: dict[str, RemoteAgent] = {}
        # the highest session that ended, by agent: what comes late of an older one is none
        self._ended: dict[str, int] = {}
        # what somebody looked at since it changed
        self._decoded: dict[str, Presence] = {}

    def __len__(self) -> int:
        return len(self._agents)

    def __iter__(self) -> Iterator[str]:
        return iter(self._agents)

    def __contains__(self, agent_id: object) -> bool:
        return agent_id in self._agents

    def last_ended(self, agent_id: str) -> int:
        """Return the highest of the agent's sessions elsewhere that ended; -1 where none is known."""
        return self._ended.get(agent_id, -1)

    def get(self, agent_id: str) -> RemoteAgent | None:
        """Return the agent's live session elsewhere."""
        return self._agents.get(agent_id)

    def of(self, replica: str) -> list[str]:
        """Return the agents that a process has."""
        return [agent_id for agent_id, one in self._agents.items() if one.replica == replica]

    def apply(self, replica: str, update: AgentUpdate) -> bool:
        """Take an update; return whether it was newer than what is known."""
        known = self._agents.get(update.agent_id)
        if known is not None and (update.session, update.stamp) <= (known.session, known.stamp):
            return False
        if update.session <= self._ended.get(update.agent_id, -1):
            return False
        begun = known is None or update.session > known.session
        # Changes of a session that nobody told of: its beginning was lost, and comes with the next list.
        if begun and HELLO not in update.parts:
            return False
        # Another release's that cannot be read here is not known here: whoever shows it would fail.
        if begun and _decoded(HELLO, update.parts[HELLO]) is None:
            return False
        old = (b"",) * len(PART_TYPES) if known is None or begun else known.parts
        parts = tuple(update.parts.get(number, before) for number, before in enumerate(old))
        heard_at = time.monotonic() - update.heard_ago_s
        self._agents[update.agent_id] = RemoteAgent(replica, update.session, update.stamp, heard_at, parts)
        self._decoded.pop(update.agent_id, None)
        return True

    def end(self, agent_id: str, session: int) -> bool:
        """A session ended; return whether it is the one that is known."""
        self._ended[agent_id] = max(session, self._ended.get(agent_id, session))
        if len(self._ended) > _ENDED:
            del self._ended[next(iter(self._ended))]
        known = self._agents.get(agent_id)
        if known is None or known.session > session:
            return False
        self._drop(agent_id)
        return True

    def drop_all(self, replica: str, but: frozenset[str] = frozenset()) -> list[str]:
        """Forget the agents of a process, but for some; return which they were."""
        gone = [agent_id for agent_id in self.of(replica) if agent_id not in but]
        for agent_id in gone:
            self._drop(agent_id)
        return gone

    def _drop(self, agent_id: str) -> None:
        del self._agents[agent_id]
        self._decoded.pop(agent_id, None)

    def hello(self, agent_id: str) -> HelloPart | None:
        """Return what an agent said at its admission."""
        known = self._agents.get(agent_id)
        return None if known is None else msgspec.msgpack.decode(known.parts[HELLO], type=HelloPart)

    def presence(self, agent_id: str) -> Presence | None:
        """Return what an agent's session elsewhere has reported."""
        known = self._agents.get(agent_id)
        if known is None:
            return None
        found = self._decoded.get(agent_id)
        if found is None:
            found = _presence(known)
            if len(self._decoded) >= _DECODED:
                self._decoded.clear()
            self._decoded[agent_id] = found
        return found


def _presence(known: RemoteAgent) -> Presence:
    hello, beat, models, hardware, progress = (
        _decoded(number, text) for number, text in enumerate(known.parts)
    )
    return Presence(
        session=known.session,
        instance=hello.instance,
        version=hello.version,
        capabilities=hello.capabilities,
        connected_at=hello.connected_at,
        heartbeat=beat.heartbeat,
        heartbeat_at=beat.heartbeat_at,
        ollama=beat.ollama,
        models=models.models,
        models_stale=models.stale,
        running=models.running,
        inventory_at=hardware.inventory_at,
        gpus=hardware.gpus,
        goodbye=beat.goodbye,
        progress={job.job_id: job for job in progress.jobs},
    )


def _decoded(number: int, text: bytes) -> Any:
    """Return a part; nothing where another release has made it what this one cannot read."""
    if text:
        try:
            return _DECODERS[number].decode(text)
        except msgspec.MsgspecError as error:
            log.warning("replica.part_unreadable", part=number, error=str(error))
    return _NOTHING[number]
