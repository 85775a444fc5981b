"""Where a handler puts its stream's items: encodes them, queues them, waits while the window is full."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from obt_agent.errors import AgentError
from obt_agent.link.outgoing_stream import OutgoingStream
from obt_agent.protocol.errors import StreamEnd
from obt_agent.protocol.streams import Item, SeriesItem

_ENCODER: Final = msgspec.json.Encoder()


class LinkStreamSink:
    """Implements ``obt_agent.session.StreamSink``.

    Args:
        stream: the queue that items go to.
        queued: called after something was queued.
        series: whether it is a live series.
    """

    def __init__(
        self, stream: OutgoingStream, queued: Callable[[OutgoingStream], None], *, series: bool = False
    ) -> None:
        self.series = series
        self._stream = stream
        self._queued = queued
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self._error: AgentError | None = None
        self._paused_us = 0

    @property
    def end(self) -> StreamEnd:
        """How far the stream has come."""
        return self._stream.end

    async def send(self, items: Sequence[Item]) -> int:
        """Queue items in order, then wait while the window is full; the microseconds waited.

        The first item after a wait carries ``paused_us``, unless the handler filled it.
        """
        self._check()
        if items and self._paused_us:
            items = [self._with_pause(items[0]), *items[1:]]
        self._stream.append(map(_ENCODER.encode, items))
        self._queued(self._stream)
        return await self._wait_for_room() if not self._stream.has_room else 0

    def _with_pause(self, item: Item) -> Item:
        paused_us, self._paused_us = self._paused_us, 0
        return item if item.paused_us is not None else msgspec.structs.replace(item, paused_us=paused_us)

    async def send_latest(self, sample: bytes, *, t_us: int, n: int, missed: int) -> None:
        """Offer one sample of a live series; it replaces one that still waits."""
        self._check()
        if self._stream.latest is not None:
            self._stream.dropped += 1
        item = SeriesItem(t_us=t_us, n=n, missed=missed + self._stream.dropped, sample=msgspec.Raw(sample))
        self._stream.offer(_ENCODER.encode(item))
        self._queued(self._stream)

    async def wait_writable(self) -> int:
        """Wait until the window has room; the microseconds waited."""
        self._check()
        return await self._wait_for_room() if not self._stream.has_room else 0

    async def _wait_for_room(self) -> int:
        started = self._loop.time()
        while not self._stream.has_room and self._error is None:
            self._room.clear()
            await self._room.wait()
        self._check()
        waited_us = int((self._loop.time() - started) * 1e6)
        self._paused_us += waited_us
        return waited_us

    def _check(self) -> None:
        if self._error is not None:
            raise copy.copy(self._error)  # each raising adds to its traceback

    # What the session calls.

    def room(self) -> None:
        """Something went out."""
        if self._stream.has_room:
            self._room.set()

    def fail(self, error: AgentError) -> None:
        """Nothing goes out any more: whoever waits or sends gets this error."""
        self._error = self._error or error
        self._room.set()
