"""One live series of an agent for many viewers: one watch on the wire, a bounded queue for each viewer."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import msgspec
import structlog

from obt_agent.errors import AgentError, LinkLost
from obt_agent.protocol import codec
from obt_agent.protocol.streams import SeriesItem
from obt_server.hub.agent_stream import AgentStream

log = structlog.get_logger(__name__)

_VIEWER_ITEMS: Final = 256
_HISTORY_BYTES: Final = 2 << 20

OpenStream = Callable[[], AbstractAsyncContextManager[AgentStream]]


class _Undecoded(SeriesItem, frozen=True, kw_only=True, omit_defaults=True):
    # what is held is text: most viewers pass it on
    sample: msgspec.Raw


class Viewer:
    """One viewer's queue: the newest items; what did not fit is counted into ``missed`` of the next one.

    ``async for item in viewer`` gives each item decoded, until the series ends; it raises what ended it,
    unless that was its regular end. ``texts`` gives the same as JSON text.
    """

    def __init__(self, history: list[tuple[int, bytes]]) -> None:
        # each with its number
        self._items = deque(history)
        # dropped since the last item that was taken
        self._lost = 0
        self._wake = asyncio.Event()
        # items that wait can still be read; then the error is raised, if the series ended with one
        self._ended = False
        self._error: AgentError | None = None

    def put(self, number: int, text: bytes) -> None:
        """Offer an item."""
        if len(self._items) >= _VIEWER_ITEMS:
            self._items.popleft()
            self._lost += 1
        self._items.append((number, text))
        self._wake.set()

    def end(self, error: AgentError | None) -> None:
        """No more items."""
        self._ended, self._error = True, error
        self._wake.set()

    async def __aiter__(self) -> AsyncIterator[SeriesItem]:
        async for _, text in self.texts():
            yield msgspec.json.decode(text, type=SeriesItem)

    async def texts(self) -> AsyncIterator[tuple[int, bytes]]:
        """Each item's number, and the item as JSON text. Raises what ended the series."""
        while True:
            while not self._items and not self._ended:
                self._wake.clear()
                await self._wake.wait()
            if not self._items:
                break
            number, text = self._items.popleft()
            lost, self._lost = self._lost, 0
            yield number, _missing_more(text, lost) if lost else text
        if self._error is not None:
            raise self._error


def _missing_more(text: bytes, lost: int) -> bytes:
    item = msgspec.json.decode(text, type=_Undecoded)
    return msgspec.json.encode(msgspec.structs.replace(item, missed=item.missed + lost))


class SharedSeries:
    """A watch on the wire, as long as it has viewers.

    Args:
        open_stream: starts the watch.
        keep_history: whether late viewers get what came before (a benchmark's samples), up to 2 MiB, or
            the newest item alone.
    """

    def __init__(self, open_stream: OpenStream, *, keep_history: bool) -> None:
        self._open = open_stream
        self._history_limit = _HISTORY_BYTES if keep_history else 0
        self._viewers: set[Viewer] = set()
        # for late viewers: the newest items, and their bytes
        self._history: deque[tuple[int, bytes]] = deque()
        self._history_bytes = 0
        # reads the watch; None before ``start``
        self._task: asyncio.Task[None] | None = None
        # set when its end begins, which takes a moment
        self._closing = False

    @property
    def live(self) -> bool:
        """Whether a new viewer may join."""
        return self._task is not None and not self._closing and not self._task.done()

    def start(self, name: str) -> None:
        """Open the watch."""
        self._task = asyncio.create_task(self._pump(), name=f"series {name}")
        # Not in the task itself: one that is cancelled before its first step runs nothing.
        self._task.add_done_callback(self._end_viewers)

    async def _pump(self) -> None:
        async with self._open() as stream:
            async for batch in stream.text_batches():
                for text in batch:
                    self._publish(codec.convert(text, _Undecoded, where="item").n, text)

    def _end_viewers(self, pump: asyncio.Task[None]) -> None:
        failure = None if pump.cancelled() else pump.exception()
        error: AgentError | None = None
        if pump.cancelled():
            error = LinkLost("The watch was ended.")
        elif isinstance(failure, AgentError):
            error = failure
        elif failure is not None:
            log.error("series.failed", exc_info=failure)
            error = LinkLost("The watch failed; the server's log says why.")
        for viewer in list(self._viewers):
            viewer.end(error)

    def _publish(self, number: int, text: bytes) -> None:
        for viewer in self._viewers:
            viewer.put(number, text)
        self._history.append((number, text))
        self._history_bytes += len(text)
        # The newest stays in any case: the next may be a minute away, and a late viewer would see nothing.
        while self._history_bytes > self._history_limit and len(self._history) > 1:
            self._history_bytes -= len(self._history.popleft()[1])

    @contextlib.asynccontextmanager
    async def view(self, after: int) -> AsyncIterator[Viewer]:
        """A viewer for as long as the context lasts, of what came since item ``after`` and is still here.

        The last one to leave ends the watch.
        """
        viewer = Viewer([item for item in self._history if item[0] > after])
        self._viewers.add(viewer)
        if not self.live:
            viewer.end(LinkLost("The watch has ended."))
        try:
            yield viewer
        finally:
            self._viewers.discard(viewer)
            if not self._viewers:
                await self.close()

    async def close(self) -> None:
        """End the watch, here and at the agent."""
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class SharedWatches:
    """Open watches, by what is watched: equal ones are shared."""

    def __init__(self) -> None:
        # by agent, command and parameters
        self._series: dict[tuple[str, str, bytes], SharedSeries] = {}

    @contextlib.asynccontextmanager
    async def view(
        self, key: tuple[str, str, bytes], open_stream: OpenStream, after: int, *, keep_history: bool
    ) -> AsyncIterator[Viewer]:
        """A viewer of the watch of that key, as ``SharedSeries.view``; the first one opens it."""
        series = self._series.get(key)
        # One that has ended stays until its last viewer has left, and can take no more.
        if series is None or not series.live:
            series = SharedSeries(open_stream, keep_history=keep_history)
            agent_id, method, _ = key
            series.start(f"{agent_id} {method}")
            self._series[key] = series
        try:
            async with series.view(after) as viewer:
                yield viewer
        finally:
            if not series.live and self._series.get(key) is series:
                del self._series[key]

    async def close(self) -> None:
        """End all watches, here and at the agents."""
        for series in list(self._series.values()):
            await series.close()
