"""Events of agents and jobs, for whoever listens in this process. A slow listener loses the oldest."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from typing import Literal, TypeVar

from obt_agent.protocol.jobs import JobProgress
from obt_server.hub.errors import Draining

_KEPT = 256
_KEPT_CHANGES = 50_000
_COME_AGAIN_MS = 1000


@dataclass(frozen=True)
class AgentChanged:
    """Presence, models or hardware of an agent changed; read them anew."""

    agent_id: str
    kind: Literal["agent"] = "agent"


@dataclass(frozen=True)
class JobChanged:
    """A job moved on; ``progress`` where that is what changed."""

    agent_id: str
    job_id: str
    state: str
    progress: JobProgress | None = None
    kind: Literal["job"] = "job"


@dataclass(frozen=True)
class RolloutChanged:
    """A rollout moved on, on some of its machines; read it anew."""

    rollout_id: str
    kind: Literal["rollout"] = "rollout"


@dataclass(frozen=True)
class CampaignChanged:
    """A campaign moved on, in some of its cells; read it anew."""

    campaign_id: str
    kind: Literal["campaign"] = "campaign"


@dataclass(frozen=True)
class RegressionChanged:
    """A regression is new or another one; ``view`` is its JSON, None where it is gone."""

    regression_id: int
    view: bytes | None
    kind: Literal["regression"] = "regression"


Event = AgentChanged | JobChanged | RolloutChanged | CampaignChanged | RegressionChanged
L = TypeVar("L", "Listener", "LatestChanges")


class _Waiting:
    """What is common to listeners: they wait for something to be there, until the bus is closed."""

    def __init__(self) -> None:
        # set when something is put, and at the end
        self._wake = asyncio.Event()
        self._closed = False

    def close(self) -> None:
        """No more events will come."""
        self._closed = True
        self._wake.set()

    async def _filled(self, kept: Sized) -> None:
        while not kept:
            if self._closed:
                raise Draining("The server is stopping.", retry_after_ms=_COME_AGAIN_MS)
            self._wake.clear()
            await self._wake.wait()


class Listener(_Waiting):
    """One listener's queue."""

    def __init__(self) -> None:
        super().__init__()
        # the oldest go first: a listener that is slow learns what is, not what was
        self._events: deque[Event] = deque(maxlen=_KEPT)

    def put(self, event: Event) -> None:
        """Add an event, at the cost of the oldest; a repeat of the last one adds nothing."""
        # Heartbeats alone bring many of them, and each means the same: read that agent anew.
        if not (self._events and self._events[-1] == event):
            self._events.append(event)
        self._wake.set()

    async def next(self) -> Event:
        """Return the oldest event; wait for one.

        Raises:
            Draining: the server stops, and all events were given.
        """
        await self._filled(self._events)
        return self._events.popleft()


class LatestChanges(_Waiting):
    """A listener that keeps the last change of each subject: for who shows how things are.

    Its size is bounded by what there is to change, and by ``_KEPT_CHANGES`` for agents that invent jobs.
    """

    def __init__(self) -> None:
        super().__init__()
        # by subject
        self._changes: dict[tuple[str, str], Event] = {}

    def put(self, event: Event) -> None:
        """Keep a change in place of an earlier one of the same."""
        self._changes[_subject(event)] = event
        # The key that came first (a dict keeps that order): only invented jobs are so many.
        if len(self._changes) > _KEPT_CHANGES:
            del self._changes[next(iter(self._changes))]
        self._wake.set()

    async def take(self) -> list[Event]:
        """Return what changed since the last call; wait for some.

        Raises:
            Draining: the server stops, and all changes were given.
        """
        await self._filled(self._changes)
        changes, self._changes = list(self._changes.values()), {}
        return changes


def _subject(event: Event) -> tuple[str, str]:
    """Return what an event is about: a later one about the same takes its place."""
    match event:
        case RolloutChanged():
            return "", event.rollout_id
        case CampaignChanged():
            return "", event.campaign_id
        case RegressionChanged():
            return "", f"regression {event.regression_id}"
        case JobChanged():
            return event.agent_id, event.job_id
        case AgentChanged():
            return event.agent_id, ""


class EventBus:
    """Gives each event to every listener."""

    def __init__(self) -> None:
        self._listeners: set[Listener | LatestChanges] = set()
        # Called before any listener has the event, so that what it reads then is not kept from before.
        self._observers: dict[object, Callable[[Event], None]] = {}
        # set once: a listener that comes later ends at once, too
        self._closed = False

    def close(self) -> None:
        """End all listeners, the later ones too: whoever reads on would hold up the server's end."""
        self._closed = True
        for listener in self._listeners:
            listener.close()

    def agent_changed(self, agent_id: str) -> None:
        """Say that an agent changed."""
        self._publish(AgentChanged(agent_id))

    def job_changed(self, event: JobChanged) -> None:
        """Say that a job changed."""
        self._publish(event)

    def rollout_changed(self, rollout_id: str) -> None:
        """Say that a rollout changed."""
        self._publish(RolloutChanged(rollout_id))

    def campaign_changed(self, campaign_id: str) -> None:
        """Say that a campaign changed."""
        self._publish(CampaignChanged(campaign_id))

    def regression_changed(self, regression_id: int, view: bytes | None) -> None:
        """Say that a regression is new, another one, or gone."""
        self._publish(RegressionChanged(regression_id, view))

    def relay(self, event: Event) -> None:
        """Publish what another process published."""
        self._publish(event)

    def _publish(self, event: Event) -> None:
        # A copy: one of them may be the end of another.
        for observer in list(self._observers.values()):
            observer(event)
        for listener in self._listeners:
            listener.put(event)

    def observe(self, observer: Callable[[Event], None]) -> Callable[[], None]:
        """Call ``observer`` with each event from now on, at once; it must be quick and must not raise.

        Returns:
            What ends that; called again it does nothing.
        """
        key = object()
        self._observers[key] = observer

        def stop() -> None:
            self._observers.pop(key, None)

        return stop

    @contextlib.contextmanager
    def listen(self) -> Iterator[Listener]:
        """A listener for as long as the context lasts."""
        with self._attached(Listener()) as listener:
            yield listener

    @contextlib.contextmanager
    def latest(self) -> Iterator[LatestChanges]:
        """A listener to how things are, for as long as the context lasts."""
        with self._attached(LatestChanges()) as listener:
            yield listener

    @contextlib.contextmanager
    def _attached(self, listener: L) -> Iterator[L]:
        if self._closed:
            listener.close()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
