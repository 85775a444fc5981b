"""The agents of this process, as it tells the others of them: what changed since they were told last."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
import structlog

from obt_server.hub.presence import Presence
from obt_server.hub.storage import Admission
from obt_server.replicas.messages import (
    HELLO,
    AgentUpdate,
    BeatPart,
    HardwarePart,
    HelloPart,
    ModelsPart,
    ProgressPart,
)

log = structlog.get_logger(__name__)

PAGE_BYTES: Final = 256 << 10
"""Of updates in one message: a quarter of what NATS takes."""

_encode: Final = msgspec.msgpack.Encoder().encode


class LiveAgents(Protocol):
    """The hub of this process."""

    def presence(self, agent_id: str) -> Presence | None:
        """What a live session has reported."""

    def heard_ago_s(self, agent_id: str) -> float | None:
        """Seconds since it was heard of."""


@dataclass
class _Told:
    """What others know: the session, what it said at first, and of each other part what it was made of."""

    session: int
    hello: HelloPart
    made_of: dict[int, tuple[object, ...]]


class OwnAgents:
    """What is told of the agents of this process.

    Args:
        hub: which they are.
    """

    def __init__(self, hub: LiveAgents) -> None:
        self._hub = hub
        self._told: dict[str, _Told] = {}
        self._stamps = itertools.count(1)

    def __contains__(self, agent_id: object) -> bool:
        return agent_id in self._told

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._told))

    def admitted(self, admission: Admission, session: int, presence: Presence) -> None:
        """Tell of a session from now on."""
        hello = HelloPart(
            instance=presence.instance,
            name=admission.name,
            version=admission.version,
            store_id=admission.store_id,
            capabilities=admission.capabilities,
            own_labels=admission.own_labels,
            at=admission.at,
            connected_at=presence.connected_at or admission.at,
        )
        self._told[admission.agent_id] = _Told(session, hello, {})

    def left(self, agent_id: str, session: int) -> bool:
        """Tell no more of a session; return whether others were told of it."""
        told = self._told.get(agent_id)
        if told is None or told.session != session:
            return False
        del self._told[agent_id]
        return True

    def update(self, agent_id: str, *, whole: bool = False) -> AgentUpdate | None:
        """Return what changed of an agent since the last update, or all of it; None where that is nothing."""
        told, presence = self._told.get(agent_id), self._hub.presence(agent_id)
        if told is None or presence is None or presence.session != told.session:
            return None
        parts: dict[int, bytes] = {}
        # What nobody was told of yet begins with its hello.
        if whole or not told.made_of:
            parts[HELLO] = _encode(told.hello)
        for number, (made_of, make) in _PARTS.items():
            now = made_of(presence)
            # The same objects and not equal ones: each report replaces what was there before.
            if whole or not _same(told.made_of.get(number, ()), now):
                parts |= _part(agent_id, number, make, presence)
            # A whole one goes to one process alone: the others still have to hear of what changed.
            if not whole:
                told.made_of[number] = now
        if not parts:
            return None
        heard = self._hub.heard_ago_s(agent_id) or 0.0
        return AgentUpdate(agent_id, told.session, next(self._stamps), heard, parts)


def _part(
    agent_id: str, number: int, make: Callable[[Presence], Any], presence: Presence
) -> dict[int, bytes]:
    """Return a part by its number; nothing where it cannot be encoded, which must hide no other agent."""
    try:
        return {number: _encode(make(presence))}
    except Exception:
        log.exception("presence.part_not_told", agent=agent_id, part=number)
        return {}


def pages(updates: Iterable[AgentUpdate], most: int) -> Iterator[list[AgentUpdate]]:
    """Return updates in lists, each ended by the one with which it has ``most`` bytes."""
    page: list[AgentUpdate] = []
    room = most
    for update in updates:
        page.append(update)
        room -= size_of(update)
        if room <= 0:
            yield page
            page, room = [], most
    if page:
        yield page


def size_of(update: AgentUpdate) -> int:
    """Return the bytes that an update takes, nearly."""
    return 100 + sum(map(len, update.parts.values()))


def _same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def _beat(presence: Presence) -> BeatPart:
    return BeatPart(presence.heartbeat, presence.heartbeat_at, presence.ollama, presence.goodbye)


def _models(presence: Presence) -> ModelsPart:
    models = None if presence.models is None else dict(presence.models)
    return ModelsPart(models, presence.models_stale, presence.running)


def _hardware(presence: Presence) -> HardwarePart:
    return HardwarePart(presence.gpus, presence.inventory_at)


def _progress(presence: Presence) -> ProgressPart:
    return ProgressPart(tuple(presence.progress.values()))


# By number of the part: what it is made of, and how.
_PARTS: Final[dict[int, tuple[Callable[[Presence], tuple[object, ...]], Callable[[Presence], Any]]]] = {
    1: (lambda one: (one.heartbeat, one.ollama, one.goodbye), _beat),
    2: (lambda one: (one.models, one.models_stale, one.running), _models),
    3: (lambda one: (one.gpus, one.inventory_at), _hardware),
    4: (lambda one: tuple(one.progress.values()), _progress),
}
