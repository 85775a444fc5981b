"""What a session says: control at once, the rest in fair turns, under credit, as fast as the wire takes it.

No task: it runs at the end of a turn of the event loop in which something was said, and when the wire has
gone quiet again. An idle link so sends each chunk at once; a busy one sends all that has gathered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from obt_agent.link.flow import SendScheduler
from obt_agent.link.outgoing_stream import OutgoingStream
from obt_agent.protocol import limits
from obt_agent.protocol.limits import Close

log = structlog.get_logger(__name__)


class Pipe(Protocol):
    """The wire, as a session sees it."""

    paused: bool
    on_flow: Callable[[], None]

    @property
    def waiting_bytes(self) -> int:
        """Bytes written and not yet taken by the kernel."""

    def write(self, frames: Sequence[bytes]) -> None:
        """Write text frames now."""

    def fail(self, code: int, reason: str) -> None:
        """Close."""


class SendQueue:
    """The one gate for everything that a session writes.

    Args:
        pipe: the wire.
        sent: called after a frame of a stream went out, with the stream.
    """

    def __init__(self, pipe: Pipe, sent: Callable[[OutgoingStream], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._pipe = pipe
        self._sent = sent
        self._pumping: asyncio.Handle | None = None
        self._quiet = asyncio.Event()
        self._closed = False
        self.flow = SendScheduler(0, 0)
        self.frames_sent = 0
        self.last_sent_s = self._loop.time()
        pipe.on_flow = self._on_flow

    @property
    def busy(self) -> bool:
        """Whether output already waits for the link."""
        return self._pipe.paused

    def control(self, frame: bytes) -> None:
        """Write a frame before all data. Over 1 MiB of waiting output ends the session."""
        if self._closed:
            return
        self._write([frame])
        if self._pipe.waiting_bytes > limits.MAX_CONTROL_BACKLOG_BYTES:
            self.fail(Close.TOO_MUCH, "more than 1 MiB of output waits")

    def fail(self, code: int, reason: str) -> None:
        """Close the wire."""
        log.warning("link.closing", code=code, reason=reason)
        self._pipe.fail(code, reason)

    def close(self) -> None:
        """The session is over: nothing goes out any more."""
        self._closed = True
        self.flow.drop_all()
        self._quiet.set()

    def pump_soon(self) -> None:
        """At the end of this turn of the event loop: what several handlers said in it goes out together."""
        if self._pumping is None and not self._pipe.paused and self.flow.ready:
            self._pumping = self._loop.call_soon(self._pump)

    async def flushed(self) -> None:
        """Wait until everything that was said has gone to the kernel, or the session is over."""
        while not self._closed and not self._idle:
            self._quiet.clear()
            await self._quiet.wait()

    @property
    def _idle(self) -> bool:
        return not self.flow.waiting and not self._pipe.waiting_bytes

    def _pump(self) -> None:
        """Write data frames until the link has enough, credit ends, or nothing waits."""
        self._pumping = None
        while not self._pipe.paused and self.flow.ready and not self._closed:
            self._burst(self.flow.pace.frame_bytes)
        if self._idle:
            self._quiet.set()

    def _burst(self, most_bytes: int) -> None:
        """One write of several frames, together about what one frame may hold."""
        frames: list[bytes] = []
        streams: dict[OutgoingStream, None] = {}
        size = 0
        while size < most_bytes:
            turn = self.flow.next_frame()
            if turn is None:
                break
            frame, stream = turn
            frames.append(frame)
            size += len(frame)
            if stream is not None:
                streams[stream] = None
        self._write(frames)
        for stream in streams:
            self._sent(stream)

    def _write(self, frames: list[bytes]) -> None:
        self.last_sent_s = self._loop.time()
        self.frames_sent += len(frames)
        self._pipe.write(frames)

    def _on_flow(self) -> None:
        """The wire began, or ceased, to make output wait."""
        now = self._loop.time()
        if self._pipe.paused:
            self.flow.pace.waits(now, self._pipe.waiting_bytes)
            return
        self.flow.pace.flows(now, self._pipe.waiting_bytes)
        self.pump_soon()
        if self._idle:
            self._quiet.set()
