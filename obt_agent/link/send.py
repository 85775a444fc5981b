"""What a session sends: control at once, the rest in fair turns, under credit, as fast as the wire takes it.

No task: the chunk of a lone stream is written when it is queued; those of several streams at the end of the
turn of the event loop in which they were, and when the wire has gone quiet again. An idle link so sends each
chunk at once; a busy one sends all that has gathered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from obt_agent.link.streams import OutgoingStream
from obt_agent.protocol import limits
from obt_agent.protocol.credit import Balance
from obt_agent.protocol.envelope import RequestId
from obt_agent.protocol.fairness import FairRing
from obt_agent.protocol.limits import Close
from obt_agent.protocol.send_window import SendWindow

log = structlog.get_logger(__name__)


class Pipe(Protocol):
    """The wire, as a session sees it."""

    paused: bool
    on_flow: Callable[[], None]
    on_pong: Callable[[bytes], None]
    received_bytes: int

    @property
    def waiting_bytes(self) -> int:
        """Bytes written and not yet taken by the kernel."""

    def write(self, frames: Sequence[bytes]) -> None:
        """Write text frames now."""

    def ping(self, payload: bytes) -> None:
        """Send a ping; ``on_pong`` gets the payload back."""

    def fail(self, code: int, reason: str) -> None:
        """Close."""


_BULK: Final = b""
"""The flow of bulk requests; no request id is bytes."""


class SendScheduler:
    """Everything of one session that is not control.

    Args:
        stream_credit_bytes: first balance of each stream.
        link_credit_bytes: first balance of the link.
    """

    def __init__(self, stream_credit_bytes: int, link_credit_bytes: int) -> None:
        # Credit of everything here together; each stream has its own besides.
        self.link = Balance(link_credit_bytes)
        # By request id, from the first item or grant until the final has gone.
        self.streams: dict[RequestId, OutgoingStream] = {}
        self._stream_credit = stream_credit_bytes
        # Encoded requests. They share one turn: a sync of 100 pages must not have a hundred.
        self._bulk: deque[bytes] = deque()
        # Flows that may send now: something waits in them, and they have credit.
        self._ring: FairRing[RequestId | bytes] = FairRing()

    def open(self, request_id: RequestId) -> OutgoingStream:
        """The stream of a request, made when it has none."""
        stream = self.streams.get(request_id)
        if stream is None:
            stream = self.streams[request_id] = OutgoingStream(request_id, self._stream_credit)
        return stream

    def close(self, request_id: RequestId) -> OutgoingStream | None:
        """Forget a request's stream, with what waits in it."""
        stream = self.streams.pop(request_id, None)
        if stream is not None:
            stream.discard()
            self._ring.forget(request_id)
        return stream

    def queued(self, stream: OutgoingStream) -> None:
        """Something was put into a stream: it takes turns when it may send."""
        if not stream.empty and stream.balance.positive:
            self._ring.add(stream.request_id)

    def add_bulk(self, frame: bytes) -> None:
        """Queue a bulk request."""
        self._bulk.append(frame)
        self._ring.add(_BULK)

    def cancel_bulk(self, frame: bytes) -> bool:
        """Take a bulk request back; False when it has gone out."""
        try:
            self._bulk.remove(frame)
        except ValueError:
            return False
        if not self._bulk:
            self._ring.remove(_BULK)
        return True

    @property
    def waiting(self) -> bool:
        """Whether anything waits, for its turn or for credit."""
        return bool(self._bulk) or any(not stream.empty for stream in self.streams.values())

    @property
    def ready(self) -> bool:
        """Whether a frame may go now."""
        return self.link.positive and bool(self._ring)

    def next_frame(self, limit: int) -> tuple[bytes, OutgoingStream | None] | None:
        """The frame whose turn it is, ``limit`` bytes of a stream at most, and that (None: bulk)."""
        flow = self._ring.turn() if self.link.positive else None
        if flow is None:
            return None
        self._ring.quantum_bytes = limit
        if flow is _BULK:
            frame, stream, more = self._bulk.popleft(), None, bool(self._bulk)
        else:
            stream = self.streams[flow]  # type: ignore[index]  # every flow but _BULK is a request's id
            # Cut now, not when it was queued: its size follows the link as it is at this moment.
            frame = stream.cut(limit)
            stream.balance.spend(len(frame))
            more = stream.balance.positive and not stream.empty
        self.link.spend(len(frame))
        self._ring.charge(flow, len(frame))
        if not more:
            self._ring.remove(flow)
        return frame, stream

    def drop_all(self) -> None:
        """The session is over."""
        for request_id in list(self.streams):
            self.close(request_id)
        self._bulk.clear()


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
        # Set while a pump is due at the end of this turn of the loop.
        self._pumping: asyncio.Handle | None = None
        # What may be on its way to the server: control that comes later waits behind no more.
        self.window = SendWindow(self._loop.time())
        # Pings so far: the number is the payload, by which an answer is known.
        self._pings = 0
        # Set while a ping is due later.
        self._pinging: asyncio.TimerHandle | None = None
        # Set when all has gone to the kernel.
        self._quiet = asyncio.Event()
        self._closed = False
        # Set once the wire is being closed for a fault: what is queued after it would only be kept.
        self._failed = False
        # Without credit until the hello's answer brings some.
        self.flow = SendScheduler(0, 0)
        self.frames_sent = 0
        # The loop's time of the last write: silence after it calls for a ``link.alive``.
        self.last_sent_s = self._loop.time()
        pipe.on_flow = self._on_flow
        pipe.on_pong = self._on_pong

    @property
    def busy(self) -> bool:
        """Whether output already waits for the link."""
        return self._pipe.paused

    def control(self, frame: bytes) -> None:
        """Write a frame before all data. Over 1 MiB of waiting output ends the session."""
        if self._closed or self._failed:
            return
        self._write([frame])
        if self._pipe.waiting_bytes > limits.MAX_CONTROL_BACKLOG_BYTES:
            self.fail(Close.TOO_MUCH, "more than 1 MiB of output waits")

    def fail(self, code: int, reason: str) -> None:
        """Close the wire. Only the first call counts."""
        if self._failed:
            return
        self._failed = True
        log.warning("link.closing", code=code, reason=reason)
        self._pipe.fail(code, reason)

    def close(self) -> None:
        """The session is over: nothing goes out any more."""
        self._closed = True
        if self._pinging is not None:
            self._pinging.cancel()
        self.flow.drop_all()
        self._quiet.set()

    def pump_soon(self) -> None:
        """Write at the end of this turn of the event loop: what several handlers queued goes out at once."""
        if self._pumping is None and self._may_send:
            self._pumping = self._loop.call_soon(self._pump)

    def pump_alone(self) -> None:
        """Write now where no other stream is open, whose chunks could go out in the same write; else soon."""
        if len(self.flow.streams) == 1 and self._pumping is None:
            self._pump()
        else:
            self.pump_soon()

    @property
    def _may_send(self) -> bool:
        return self.flow.ready and not self._pipe.paused and self.window.open and not self._closed

    async def flushed(self) -> None:
        """Wait until everything that was queued has gone to the kernel, or the session is over."""
        while not self._closed and not self._idle:
            self._quiet.clear()
            await self._quiet.wait()

    @property
    def _idle(self) -> bool:
        return not self.flow.waiting and not self._pipe.waiting_bytes

    def _pump(self) -> None:
        """Write data frames until the link has enough, credit ends, or nothing waits."""
        self._pumping = None
        while self._may_send:
            self._burst(self.window.frame_bytes)
        if self._idle:
            self._quiet.set()

    def _burst(self, most_bytes: int) -> None:
        """One write of several small frames, about as many bytes as one frame may hold."""
        frames: list[bytes] = []
        streams: dict[OutgoingStream, None] = {}
        size = 0
        while size < most_bytes:
            turn = self.flow.next_frame(most_bytes)
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
        self.window.sent(sum(map(len, frames)))
        self._pipe.write(frames)
        # Behind control, too: it fills the window, and nothing else would find out that it has arrived.
        self._measure()

    def _measure(self) -> None:
        """Send a ping behind what was sent, where the window wants one, now or as soon as it may."""
        if self._pinging is not None or self._closed:
            return
        wait_s = self.window.take_mark(self._loop.time(), self._pipe.received_bytes)
        if wait_s:
            self._pinging = self._loop.call_later(wait_s, self._measure_later)
        elif wait_s is not None:
            self._pings += 1
            self._pipe.ping(b"%d" % self._pings)

    def _measure_later(self) -> None:
        self._pinging = None
        self._measure()

    def _on_pong(self, payload: bytes) -> None:
        if payload == b"%d" % self._pings:
            self.window.arrived(self._loop.time(), self._pipe.received_bytes)
            self.pump_soon()
            self._measure()

    def tick(self, now_s: float) -> None:
        """Called about once a second: a server that answers no ping is measured no more."""
        if self.window.unanswered_for(now_s) > limits.PING_UNANSWERED_S:
            log.warning("link.pings_unanswered")
            self.window.give_up()
            self.pump_soon()

    def _on_flow(self) -> None:
        """The wire began, or ceased, to make output wait."""
        self.pump_soon()
        if self._idle:
            self._quiet.set()
