"""Who wants to know what changed: a small bus inside the process. Slow listeners lose the oldest news."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from obt_agent.protocol.jobs import JobProgress

_KEPT = 256


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


Event = AgentChanged | JobChanged


class Listener:
    """One listener's queue."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=_KEPT)
        self._wake = asyncio.Event()

    def put(self, event: Event) -> None:
        """Add news, at the cost of the oldest; a repeat of the last news adds nothing."""
        if not (self._events and self._events[-1] == event):
            self._events.append(event)
        self._wake.set()

    async def next(self) -> Event:
        """The oldest news; waits for some."""
        while not self._events:
            self._wake.clear()
            await self._wake.wait()
        return self._events.popleft()


class EventBus:
    """Gives each event to every listener."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()

    def agent_changed(self, agent_id: str) -> None:
        """Say that an agent changed."""
        self._publish(AgentChanged(agent_id))

    def job_changed(self, event: JobChanged) -> None:
        """Say that a job changed."""
        self._publish(event)

    def _publish(self, event: Event) -> None:
        for listener in self._listeners:
            listener.put(event)

    @contextlib.contextmanager
    def listen(self) -> Iterator[Listener]:
        """A listener for as long as the context lasts."""
        listener = Listener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
