"""The agents as everybody sees them: each view encoded once, and news given to all viewers at once."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Final

import msgspec
import structlog

from obt_agent.errors import AgentError
from obt_server.hub import Hub
from obt_server.hub.events import (
    AgentChanged,
    CampaignChanged,
    Event,
    RegressionChanged,
    RolloutChanged,
)
from obt_server.hub.storage import AgentRecord
from obt_server.rest.run_news import RunNews
from obt_server.rest.shared_runs import SharedRuns
from obt_server.rest.sse import event, event_of_text
from obt_server.rest.views import agent_view

log = structlog.get_logger(__name__)

NEWS_INTERVAL_S: Final = 0.5
"""Between two pieces of news: the first comes at once, what changes meanwhile comes together. A thousand
heartbeats in 15 s are 67 a second: to 200 viewers each by itself, that is 13,000 sends a second."""
VIEW_VALID_S: Final = 1.0
"""How long an encoded view is used where nothing changed: it says how long ago the agent was heard."""
MAX_VIEWER_BYTES: Final = 1 << 20
"""That wait for one viewer. One that reads more slowly gets everything anew when it reads again."""


class Fleet:
    """Views of all agents, kept in memory, and news of rollouts and campaigns.

    Args:
        hub: the live agents, and the directory of all.
        runs: news of rollouts and campaigns of this process.
        shared: those of the leader, where this process is one of several; then ``runs`` is not asked.
    """

    def __init__(self, hub: Hub, runs: RunNews, shared: SharedRuns | None = None) -> None:
        self._hub = hub
        self._runs = runs
        self._shared = shared
        # by agent: the view as JSON, until when (monotonic) it may be used, and the record that it shows
        self._views: dict[str, tuple[msgspec.Raw, float, AgentRecord]] = {}
        self._viewers: set[_NewsViewer] = set()
        # runs while there are viewers: reads the changes, and keeps the views and viewers current
        self._publishing: asyncio.Task[None] | None = None
        # set while the task above hears of each change
        self._listening = asyncio.Event()
        # everything as events, for viewers that come, and until when it may be used
        self._snapshot: tuple[bytes, float] = (b"", 0.0)
        # Also while there is no viewer: a list is read, and a viewer may come, right after a change.
        hub.events.observe(self._forget)
        if shared is not None:
            shared.show_to(self._put, self._restart)

    async def views(self) -> list[msgspec.Raw]:
        """Return all agents' views, by name."""
        # The directory and not the database: a list costs no read while nothing changed.
        records = await self._hub.directory.current()
        return [self._view(agent_id) for agent_id in records]

    def _view(self, agent_id: str) -> msgspec.Raw:
        # Views of agents that are quiet are kept as well, though not for long: each says how long ago its
        # agent was heard.
        now = time.monotonic()
        record = self._hub.directory.records[agent_id]
        kept = self._views.get(agent_id)
        # The record as well: the directory may have been read anew since, without news that came in between.
        if kept is not None and now < kept[1] and kept[2] == record:
            return kept[0]
        view = msgspec.Raw(msgspec.json.encode(agent_view(self._hub, record)))
        self._views[agent_id] = view, now + VIEW_VALID_S, record
        return view

    async def news(self) -> AsyncIterator[bytes]:
        """Every agent as an event, then ``current``, then what changes.

        Raises:
            Draining: the server stops.
        """
        # In the set before anything is awaited: what changes from here on reaches it, or is in what it begins
        # with.
        viewer = _NewsViewer()
        self._viewers.add(viewer)
        # With nobody there, no news is gathered or encoded at all.
        if self._publishing is None:
            # Nobody told of the changes since it was made.
            self._snapshot = b"", 0.0
            self._listening.clear()
            self._publishing = asyncio.create_task(self._publish(), name="news of agents")
        try:
            # What changes before the task listens would be in neither: what the viewer begins with, and news.
            await self._listening.wait()
            while True:
                if viewer.behind:
                    # It may be that the directory is older than what made this viewer fall behind.
                    await self._hub.directory.current()
                    viewer.restart(self._everything())
                yield await viewer.next()
        finally:
            # Also where the viewer's connection broke: the generator is closed then.
            self._viewers.discard(viewer)
            if not self._viewers and self._publishing is not None:
                self._publishing.cancel()
                self._publishing = None

    def _everything(self) -> bytes:
        now = time.monotonic()
        text, until = self._snapshot
        if now >= until:
            # Kept for as long as news may be late anyway: two hundred pages that come back after a restart
            # share one encoding of a thousand agents.
            ids = list(self._hub.directory.records)
            agents = (event("agent", self._view(agent_id)) for agent_id in ids)
            text = b"".join([*agents, self._running(), event("current", {"agents": ids})])
            self._snapshot = text, now + NEWS_INTERVAL_S
        return text

    def _running(self) -> bytes:
        if self._shared is not None:
            return self._shared.running()
        return b"".join(one.whole for one in self._runs.running() if one.whole is not None)

    def _restart(self) -> None:
        """Have everything sent anew to all viewers."""
        self._snapshot = b"", 0.0
        for viewer in self._viewers:
            viewer.fall_behind()

    def _put(self, news: bytes) -> None:
        """Give news to all viewers, who share one text of it."""
        # Whoever comes from now on must not begin with what is older than this news.
        self._snapshot = b"", 0.0
        for viewer in self._viewers:
            viewer.put(news)

    async def _publish(self) -> None:
        try:
            with self._hub.events.latest() as latest:
                self._listening.set()
                while True:
                    # Of each agent the last state alone: however many heartbeats came meanwhile, it is one
                    # event.
                    changes = await latest.take()
                    await self._hub.directory.current()
                    self._put(b"".join(self._event(change) for change in changes))
                    await asyncio.sleep(NEWS_INTERVAL_S)
        except AgentError as error:
            self._end(error)
        # A fault here would leave every page with what it had, looking alive; they are told, and ask again.
        except Exception:
            log.exception("news.failed")
            self._end(AgentError("The server failed in an unforeseen way; ask again."))

    def _end(self, error: AgentError) -> None:
        self._publishing = None  # the next viewer starts it again
        for viewer in self._viewers:
            viewer.end(error)

    def _forget(self, change: Event) -> None:
        # Changed: what is kept is wrong, whatever its age.
        if isinstance(change, AgentChanged):
            self._views.pop(change.agent_id, None)

    def _event(self, change: Event) -> bytes:
        if isinstance(change, RolloutChanged | CampaignChanged):
            # Where the leader says it, this comes by another way.
            news = None if self._shared is not None else self._runs.of(change)
            return b"" if news is None else news.text
        if isinstance(change, RegressionChanged):
            gone = event("regression_gone", {"id": change.regression_id})
            return gone if change.view is None else event_of_text("regression", change.view)
        if not isinstance(change, AgentChanged):
            return event("job", asdict(change))
        if change.agent_id not in self._hub.directory.records:
            return event("agent_gone", {"id": change.agent_id})
        return event("agent", self._view(change.agent_id))


class _NewsViewer:
    """One viewer's queue of encoded news, which it shares with all others but for its own place in it."""

    def __init__(self) -> None:
        # set where it must get everything anew: at first, and when it read too slowly
        self.behind = True
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._error: AgentError | None = None
        self._wake = asyncio.Event()

    def put(self, news: bytes) -> None:
        """Add news, unless everything will be sent anyway."""
        if self.behind:
            return
        # The bytes are shared with all viewers, so that a queue costs references.
        self._chunks.append(news)
        self._size += len(news)
        if self._size > MAX_VIEWER_BYTES:
            self.fall_behind()
        self._wake.set()

    def fall_behind(self) -> None:
        """Have the first state sent anew, and with it everything that this queue holds."""
        self.behind = True
        self._chunks.clear()
        self._wake.set()

    def restart(self, everything: bytes) -> None:
        """Begin with how things are now."""
        self.behind = False
        self._chunks = deque([everything])
        self._size = 0

    def end(self, error: AgentError) -> None:
        """No more news will come."""
        self._error = error
        self._wake.set()

    async def next(self) -> bytes:
        """Return the next news; empty where everything is to be sent anew. Raise what ended them."""
        # What is left is handed out before the error: it came earlier.
        while not self._chunks and not self.behind:
            if self._error is not None:
                raise self._error
            self._wake.clear()
            await self._wake.wait()
        if self.behind:
            return b""
        chunk = self._chunks.popleft()
        self._size = sum(map(len, self._chunks))
        return chunk
