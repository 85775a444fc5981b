"""Who wants to know what changed: a small bus inside the process. Slow listeners lose the oldest news."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from obt_agent.protocol.jobs import JobProgress
from obt_server.hub.errors import Draining

_KEPT = 256
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


Event = AgentChanged | JobChanged


class Listener:
    """One listener's queue."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=_KEPT)
        self._wake = asyncio.Event()
        self._closed = False

    def put(self, event: Event) -> None:
        """Add news, at the cost of the oldest; a repeat of the last news adds nothing."""
        if not (self._events and self._events[-1] == event):
            self._events.append(event)
        self._wake.set()

    def close(self) -> None:
        """No more news will come."""
        self._closed = True
        self._wake.set()

    async def next(self) -> Event:
        """The oldest news; waits for some.

        Raises:
            Draining: the server stops, and all news were given.
        """
        while not self._events:
            if self._closed:
                raise Draining("The server is stopping.", retry_after_ms=_COME_AGAIN_MS)
            self._wake.clear()
            await self._wake.wait()
        return self._events.popleft()


class EventBus:
    """Gives each event to every listener."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
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

    def _publish(self, event: Event) -> None:
        for listener in self._listeners:
            listener.put(event)

    @contextlib.contextmanager
    def listen(self) -> Iterator[Listener]:
        """A listener for as long as the context lasts."""
        listener = Listener()
        if self._closed:
            listener.close()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
