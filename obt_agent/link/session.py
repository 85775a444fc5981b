"""One socket from its upgrade to its end: what comes in is dispatched, what goes out is put in order.

    wire ─ frames in ─► session ─┬─ answers ──► pending requests ───┬─► send queue ─ frames out ─► wire
                                 └─ the rest ─► control ─► handler ─┘

No task of its own: it runs when a frame comes, when a handler sends, and at every tick of the watchdog.
Whatever waits here is bounded by credit, or ends the session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

import msgspec
import structlog

from obt_agent.errors import (
    AgentError,
    Busy,
    DeadlineExceeded,
    LinkLost,
    ProtocolError,
    TooLarge,
    Unsupported,
)
from obt_agent.link.admitted_requests import AdmittedRequests
from obt_agent.link.pending_requests import PendingRequests
from obt_agent.link.send import Pipe, SendQueue, SendScheduler
from obt_agent.link.streams import NOTHING_SENT, LinkStreamSink, OutgoingStream, large_final, result_frame
from obt_agent.link.timings import LinkTimings
from obt_agent.protocol import codec, limits
from obt_agent.protocol.admission import Empty, HelloParams, HelloResult
from obt_agent.protocol.byte_budget import ByteBudget
from obt_agent.protocol.envelope import Notification, Request, RequestId
from obt_agent.protocol.errors import WireError, to_wire
from obt_agent.protocol.limits import Close
from obt_agent.protocol.rates import BadFrames

log = structlog.get_logger(__name__)

T = TypeVar("T")


class RequestHandler(Protocol):
    """Who answers the server's requests. Never blocks."""

    def on_request(self, session: LinkSession, request: Request) -> None:
        """Answer now or later, once, through ``session``. Never raises."""

    def on_notification(self, session: LinkSession, notification: Notification) -> None:
        """Take a notification; an ``AgentError`` that this raises is logged once for each method."""

    def session_ended(self, session: LinkSession) -> None:
        """Nobody is left to answer."""


class LinkSession:
    """One socket. Implements ``obt_agent.session.Session`` once admitted.

    Args:
        pipe: the wire.
        handler: who answers requests.
        timings: deadlines.
        budget: what may wait in the process, shared with whoever else holds something for a peer.
    """

    def __init__(
        self,
        pipe: Pipe,
        handler: RequestHandler,
        *,
        timings: LinkTimings,
        budget: ByteBudget,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._out = SendQueue(pipe, self._sent_of)
        self._handler = handler
        self._timings = timings
        # The largest frame that the server takes; the hello's answer may say less.
        self._peer_max_frame_bytes = limits.MAX_FRAME_BYTES
        # Requests of this side: their answers, and how many may be under way.
        self._waiting = PendingRequests()
        self._slots = asyncio.Semaphore(limits.MAX_IN_FLIGHT)
        # Requests of the server without a final: nothing else is answered.
        self._in_flight = AdmittedRequests(budget)
        # Notifications whose refusal is in the log already: a server that insists cannot fill it.
        self._logged: set[str] = set()
        # Where handlers write; a subset of the streams, which a grant can open before its handler does.
        self._sinks: dict[RequestId, LinkStreamSink] = {}
        self._bad_frames = BadFrames(timings.bad_frames_s)
        # Why the session is over; None while it lasts.
        self._ended: LinkLost | None = None
        # The server's answer to the hello; None before it, and then nothing but that answer is taken.
        self.hello_result: HelloResult | None = None
        self.frames_received = 0

    # The session itself.

    @property
    def number(self) -> int:
        """The server's number of this admission (0 before it)."""
        return self.hello_result.session if self.hello_result is not None else 0

    @property
    def alive(self) -> bool:
        """Whether frames can still be sent."""
        return self._ended is None

    @property
    def flow(self) -> SendScheduler:
        """Streams and credit."""
        return self._out.flow

    @property
    def frames_sent(self) -> int:
        """Frames since the upgrade."""
        return self._out.frames_sent

    @property
    def piece_bytes(self) -> int:
        """Most bytes of what goes whole: 24 KiB, less on a slow link, where others would wait for it."""
        return self._out.window.piece_bytes

    @property
    def streams(self) -> int:
        """Streams in flight."""
        return len(self.flow.streams)

    async def hello(self, params: HelloParams) -> HelloResult:
        """Introduce the agent; the session is admitted when this returns.

        Raises:
            LinkLost, DeadlineExceeded, InvalidParams (the answer is none), Unsupported (its version), or the
            error that the server answered with.
        """
        self._ensure_alive()
        try:
            async with asyncio.timeout(self._timings.hello_s):
                answer = await self._ask("agent.hello", params, at_once=lambda raw: self._admit(params, raw))
        except TimeoutError as error:
            message = f"The server did not answer agent.hello within {self._timings.hello_s:g} s."
            raise DeadlineExceeded(message, waited_for="agent.hello") from error
        return codec.convert(answer, HelloResult, where="result")

    def _admit(self, params: HelloParams, answer: msgspec.Raw) -> None:
        """Before the next frame is looked at: the server may send requests right behind its answer."""
        result = codec.convert(answer, HelloResult, where="result")
        if not params.protocol.min <= result.protocol <= params.protocol.max:
            raise Unsupported(
                f"The server chose protocol version {result.protocol}, which is not spoken here."
            )
        self._out.flow = SendScheduler(result.stream_credit_bytes, result.link_credit_bytes)
        self._peer_max_frame_bytes = max(result.limits.max_frame_bytes, limits.MIN_FRAME_BYTES)
        self.hello_result = result

    def end(self, reason: str) -> None:
        """The socket is gone: fail everything that waits. Idempotent."""
        if self._ended is not None:
            return
        self._ended = LinkLost(reason)
        self._waiting.fail_all(self._ended)
        # Cleared before anybody is woken: what they answer or send from now on goes nowhere.
        sinks, self._sinks = self._sinks, {}
        self._in_flight.clear()
        self._out.close()
        for sink in sinks.values():
            sink.fail(self._ended)
        self._handler.session_ended(self)

    def tick(self, now_s: float, late: bool) -> None:  # noqa: FBT001 - what a watchdog calls
        """Called about once a second: send ``link.alive`` when due, and end streams that get no credit.

        Args:
            now_s: the loop's time.
            late: whether the loop stood still just before; credit and pongs may lie unread.
        """
        if self.alive and now_s - self._out.last_sent_s >= self._timings.alive_s:
            self.notify("link.alive", Empty())
        if late:
            return
        self._out.tick(now_s)
        for request_id, stream in list(self.flow.streams.items()):
            if stream.stalled_for(now_s, link_positive=self.flow.link.positive) >= self._timings.stalled_s:
                self._stall(request_id)

    def _stall(self, request_id: RequestId) -> None:
        error = DeadlineExceeded(
            f"stalled: the server granted nothing for {self._timings.stalled_s:g} s; read the stream, and "
            "send stream.credit and link.credit.",
            waited_for="credit",
        )
        log.warning("stream.stalled", stream_id=request_id, session=self.number)
        self.give_up(request_id, error)

    def give_up(self, request_id: RequestId, error: AgentError) -> None:
        """End a stream with an error: its handler gets it when it sends next, the server now."""
        sink = self._sinks.get(request_id)
        if sink is not None:
            sink.fail(error)
        self.respond_error(request_id, to_wire(error))

    async def flushed(self) -> None:
        """Wait until everything that was queued has gone to the kernel, or the session has ended."""
        await self._out.flushed()

    # What comes in.

    def receive(self, frame: bytes) -> None:
        """Take one text frame (UTF-8). Never raises."""
        self.frames_received += 1
        try:
            message = codec.decode(frame)
        except codec.FrameError as error:
            self._bad_frame(error)
            return
        if isinstance(message, Request):
            self._on_request(message, len(frame))
        elif isinstance(message, Notification):
            self._on_notification(message)
        elif not self._waiting.answered(message):
            log.debug("link.answer_ignored", id=message.id)

    def _bad_frame(self, error: codec.FrameError) -> None:
        too_many = self._bad_frames.another(self._loop.time())
        log.warning("link.bad_frame", reason=error.message, count=len(self._bad_frames))
        self._out.control(codec.encode_error(error.id, error.wire))
        if too_many:
            self._out.fail(Close.PROTOCOL_ERROR, f"{len(self._bad_frames)} bad frames in a minute")

    def _on_request(self, request: Request, size: int) -> None:
        if self.hello_result is None:
            self._out.fail(Close.PROTOCOL_ERROR, "request before the answer to agent.hello")
        else:
            try:
                self._in_flight.admit(request, size)
            except (Busy, ProtocolError) as refused:
                self._out.control(codec.encode_error(request.id, to_wire(refused)))
                return
            self._handler.on_request(self, request)

    def _on_notification(self, notification: Notification) -> None:
        try:
            self._handler.on_notification(self, notification)
        except AgentError as error:
            if notification.method not in self._logged:
                self._logged.add(notification.method)  # one of the link's own few: unknown ones raise nothing
                log.warning("link.bad_notification", method=notification.method, reason=error.message)

    def granted_stream(self, request_id: RequestId, granted_bytes: int) -> None:
        """``stream.credit``; ignored for a request that is not in flight.

        It may come before the handler has opened the stream: a server may grant right behind its request.
        """
        if request_id in self._in_flight:
            stream = self.flow.open(request_id)
            stream.balance.grant(granted_bytes)
            stream.granted_at_s = self._loop.time()
            self._queued(stream)

    def granted_link(self, granted_bytes: int) -> None:
        """``link.credit``."""
        self.flow.link.grant(granted_bytes)
        self._out.pump_soon()

    # Answers.

    def respond(self, id: RequestId, result: msgspec.Struct | msgspec.Raw) -> None:
        """Answer a request, once; does nothing when it was answered or the session has ended.

        It follows what its own stream still holds, and passes everybody else's. Over 24 KiB it goes in
        pieces (on a slow link, sooner). A field ``stream`` is filled with how far the stream really came.
        """
        if id not in self._in_flight:
            return
        text = msgspec.json.encode(result)
        if len(text) > self.piece_bytes:
            try:
                self._in_flight.grow(id, len(text))
            except (Busy, TooLarge) as error:
                self.respond_error(id, to_wire(error))
                return
            stream = self.flow.open(id)
            stream.final = large_final(id, len(text), stream.append_result(text))
            self._queued(stream)
            return
        frame = result_frame(id, result)
        sent = self.flow.streams.get(id)
        if sent is None or sent.empty:
            self._finish(id, frame(sent.end if sent is not None else NOTHING_SENT))
        else:
            sent.final = frame

    def respond_error(self, id: RequestId, error: WireError) -> None:
        """Answer a request with an error, once; what its stream still holds is dropped."""
        if id not in self._in_flight:
            return
        stream = self.flow.streams.get(id)
        if stream is not None and error.data is not None:
            # How far the stream came, so that the server knows whether it has all that was sent.
            error = msgspec.structs.replace(
                error, data=msgspec.structs.replace(error.data, stream=stream.end)
            )
        self._finish(id, codec.encode_error(id, error))

    def _finish(self, request_id: RequestId, frame: bytes) -> None:
        self._in_flight.release(request_id)
        self.flow.close(request_id)
        sink = self._sinks.pop(request_id, None)
        if sink is not None:
            sink.fail(LinkLost("The request was answered."))
        self._out.control(frame)

    def open_stream(self, id: RequestId, *, series: bool = False) -> LinkStreamSink:
        """Where the items of a request in flight go.

        Raises:
            LinkLost: it is not in flight (any more).
            Busy: what may wait in its window does not fit into the process's budget now.
        """
        if id not in self._in_flight:
            raise self._ended or LinkLost("The request is not in flight.")
        sink = self._sinks.get(id)
        if sink is None:
            stream = self.flow.open(id)
            self._in_flight.grow(id, stream.window_bytes)
            sink = self._sinks[id] = LinkStreamSink(stream, self._queued, series=series)
        return sink

    # Requests and notifications of our own.

    async def request(
        self, method: str, params: msgspec.Struct, result: type[T], *, timeout_s: float, bulk: bool = False
    ) -> T:
        """Send a request and wait for its answer; see ``obt_agent.session.Session``."""
        self._ensure_alive()
        try:
            async with asyncio.timeout(timeout_s), self._slots:
                answer = await self._ask(method, params, bulk=bulk)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"The server did not answer {method} within {timeout_s:g} s.", waited_for=method
            ) from error
        return answer if result is msgspec.Raw else codec.convert(answer, result, where="result")  # type: ignore[return-value]  # T is Raw there

    async def _ask(
        self,
        method: str,
        params: msgspec.Struct,
        *,
        bulk: bool = False,
        at_once: Callable[[msgspec.Raw], None] | None = None,
    ) -> msgspec.Raw:
        self._ensure_alive()
        request_id, answer = self._waiting.expect(at_once)
        frame = codec.encode_request(request_id, method, params)
        try:
            if len(frame) > self._peer_max_frame_bytes:
                most = self._peer_max_frame_bytes
                raise TooLarge(f"{method} has {len(frame)} bytes; the server takes {most}.")
            if bulk:
                self.flow.add_bulk(frame)
                self._out.pump_soon()
            else:
                self._out.control(frame)
            return await answer
        finally:
            self._waiting.forget(request_id)
            if bulk:
                self.flow.cancel_bulk(frame)

    def notify(self, method: str, params: msgspec.Struct, *, droppable: bool = False) -> bool:
        """Send a control notification; a droppable one is left out when output already waits."""
        self._ensure_alive()
        if droppable and self._out.busy:
            return False
        self._out.control(codec.encode_notification(method, params))
        return True

    def _ensure_alive(self) -> None:
        if self._ended is not None:
            raise LinkLost(self._ended.message)

    # What has gone out.

    def _queued(self, stream: OutgoingStream) -> None:
        self.flow.queued(stream)
        self._out.pump_alone()

    def _sent_of(self, stream: OutgoingStream) -> None:
        if stream.empty and stream.final is not None:
            self._finish(stream.request_id, stream.final(stream.end))
            return
        sink = self._sinks.get(stream.request_id)
        if sink is not None:
            sink.room()
