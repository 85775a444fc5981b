"""One admitted socket: reads, writes, requests both ways, credit, and the watch on silence."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Protocol

import msgspec
import structlog

from obt_agent.errors import (
    AgentError,
    Busy,
    DeadlineExceeded,
    LinkLost,
    ProtocolError,
    TooLarge,
    UnknownCommand,
)
from obt_agent.protocol import codec, limits
from obt_agent.protocol.admission import Empty
from obt_agent.protocol.commands import CancelParams
from obt_agent.protocol.envelope import ErrorResponse, Message, Notification, Request, RequestId, Response
from obt_agent.protocol.errors import from_wire, to_wire
from obt_agent.protocol.limits import Close
from obt_agent.protocol.streams import LinkCredit, StreamCredit, StreamData, StreamsAlive
from obt_server.hub.exchange import Exchange
from obt_server.hub.flood import BadFrames, TokenBucket
from obt_server.hub.presence import Presence
from obt_server.hub.settings import HubSettings
from obt_server.hub.sockets import BinaryFrame, HubSocket, SocketClosed
from obt_server.hub.window import ReceiveWindow
from obt_server.hub.writer import Backlog, FrameWriter

log = structlog.get_logger(__name__)

_ON_LINK_CREDIT = frozenset(
    {"stream.data", "models.sync", "hardware.sync", "jobs.sync", "job.part", "job.finished"}
)
_BURST_S = 10.0


class SessionEnds(Exception):
    """The session must end with this close code; raised by what runs inside it."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


Answer = msgspec.Struct | msgspec.Raw
RequestCoroutine = Callable[["AgentSession", msgspec.Raw], Coroutine[Any, Any, Answer]]
NotificationCall = Callable[["AgentSession", msgspec.Raw], None]


class Handlers(Protocol):
    """What agents may ask and tell, by method."""

    @property
    def requests(self) -> Mapping[str, RequestCoroutine]:
        """Answered by a coroutine, which runs as a task of the session."""

    @property
    def notifications(self) -> Mapping[str, NotificationCall]:
        """Called at once; never blocks."""


class AgentSession:
    """One admission of one agent. ``run`` owns every task of it and returns when the socket has ended.

    Args:
        socket: the accepted socket; the hello was read from it and not answered yet.
        agent_id: whose session it is.
        credential_id: what the agent came with.
        presence: filled by the handlers.
        handlers: what agents may ask and tell.
        settings: the hub's numbers.
        peer_max_frame_bytes: the largest frame that the agent takes.
    """

    def __init__(
        self,
        socket: HubSocket,
        *,
        agent_id: str,
        credential_id: int,
        presence: Presence,
        handlers: Handlers,
        settings: HubSettings,
        peer_max_frame_bytes: int,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.agent_id = agent_id
        self.credential_id = credential_id
        self.presence = presence
        self.peer_max_frame_bytes = peer_max_frame_bytes
        self.ended = asyncio.Event()
        self.last_heard = loop.time()
        self._loop = loop
        self._socket = socket
        self._settings = settings
        self._handlers = handlers
        self._writer = FrameWriter(socket)
        self._ids = itertools.count(1)
        self._exchanges: dict[RequestId, Exchange] = {}
        self._answering: dict[RequestId, asyncio.Task[None]] = {}
        self._spawned: set[asyncio.Task[None]] = set()
        self._link = ReceiveWindow(settings.link_credit_bytes, settings.max_frame_bytes)
        self._bad_frames = BadFrames()
        rate = settings.control_frames_per_s
        self._control = TokenBucket(rate, rate * _BURST_S, loop.time())
        self._end: asyncio.Future[SessionEnds] = loop.create_future()
        self._streams_alive_at = loop.time() + settings.streams_alive_interval_s

    # -- life ---------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether requests can still be made."""
        return not self._end.done()

    def end(self, code: int, reason: str) -> None:
        """Ask the session to end; the first reason counts."""
        if not self._end.done():
            self._end.set_result(SessionEnds(code, reason))

    async def run(self) -> SessionEnds:
        """Read, write and watch until the end; then fail what is in flight and close the socket."""
        tasks = [
            self._own(self._writer.run(), "write"),
            self._own(self._read(), "read"),
            self._own(self._watch(), "watch"),
        ]
        try:
            waited: list[asyncio.Future[Any]] = [self._end, *tasks]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            self._collect(tasks)
            ending = self._end.result()
            self._fail_all()
            await self._close(ending)
            return ending
        finally:
            self.end(Close.GOING_AWAY, "the server stopped serving this socket")
            self._fail_all()
            self._writer.close()
            await _cancel([*tasks, *self._answering.values(), *self._spawned])
            self.ended.set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run something for as long as the session lasts at most."""
        task = self._own(work, name)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return asyncio.create_task(work, name=f"session {self.agent_id} {name}")

    def _collect(self, tasks: list[asyncio.Task[None]]) -> None:
        """The end's cause, where a task ended and nobody asked for it."""
        for task in tasks:
            if not task.done() or task.cancelled():
                continue
            error = task.exception()
            if isinstance(error, SessionEnds):
                self.end(error.code, error.reason)
            elif error is not None:
                log.error("session.failed", agent=self.agent_id, task=task.get_name(), exc_info=error)
                self.end(1011, "the server failed in an unforeseen way")
        self.end(1006, "the socket ended")

    def _fail_all(self) -> None:
        lost = LinkLost("The agent's session ended before the answer; nothing is replayed.")
        for exchange in list(self._exchanges.values()):
            exchange.fail(lost)
        self._exchanges.clear()

    async def _close(self, ending: SessionEnds) -> None:
        if ending.code == Close.SILENT:
            self._socket.abort()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.close_timeout_s):
                await self._socket.close(ending.code, ending.reason)
                return
        self._socket.abort()

    async def _watch(self) -> None:
        """Say that we live when there is nothing else to say; end the session when the agent does not."""
        settings = self._settings
        while True:
            now = self._loop.time()
            if now >= self.last_heard + settings.silence_s:
                raise SessionEnds(Close.SILENT, f"nothing heard for {settings.silence_s:g} s")
            if now >= self._writer.last_sent + settings.alive_interval_s:
                self.notify("link.alive", Empty())
                self._writer.last_sent = now
            if now >= self._streams_alive_at:
                self._streams_alive_at = now + settings.streams_alive_interval_s
                self.notify("streams.alive", StreamsAlive(ids=tuple(self._live_ids())))
            due = min(
                self.last_heard + settings.silence_s,
                self._writer.last_sent + settings.alive_interval_s,
                self._streams_alive_at,
            )
            await asyncio.sleep(max(due - now, 0.001))

    def _live_ids(self) -> list[RequestId]:
        return [id_ for id_, exchange in self._exchanges.items() if not exchange.abandoned]

    async def probe(self, within_s: float) -> bool:
        """Ask for a sign of life; False when nothing at all was heard in time."""
        before = self.last_heard
        try:
            request = self._open("state.request")
        except Busy:
            await asyncio.sleep(within_s)
            return self.last_heard > before and self.alive
        try:
            self.post(codec.encode_request(request.request_id, "state.request", msgspec.Raw(b'{"kinds":[]}')))
            await request.result(within_s)
        except AgentError:
            return self.last_heard > before and self.alive
        finally:
            self._exchanges.pop(request.request_id, None)
        return self.alive

    # -- reading ------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            try:
                frame = await self._socket.receive()
            except SocketClosed as closed:
                raise SessionEnds(closed.code, closed.reason or "the agent closed") from closed
            except BinaryFrame as error:
                raise SessionEnds(Close.UNSUPPORTED_DATA, "obt.v1 has text frames only") from error
            self.last_heard = self._loop.time()
            self._take(frame)

    def _take(self, frame: str | bytes) -> None:
        data = frame.encode() if isinstance(frame, str) else frame
        try:
            message = codec.decode(data, max_bytes=self._settings.max_frame_bytes)
        except codec.FrameError as error:
            self._refuse_frame(error)
            return
        try:
            self._dispatch(message, len(data))
        except ProtocolError as error:
            raise SessionEnds(Close.PROTOCOL_ERROR, error.message[:120]) from error

    def _refuse_frame(self, error: codec.FrameError) -> None:
        if error.wire.data is not None and error.wire.data.kind == "too_large":
            raise SessionEnds(Close.TOO_BIG, error.message)
        self._spend_control()
        self.post(codec.encode_error(error.id, error.wire))
        if self._bad_frames.another(self._loop.time()):
            raise SessionEnds(Close.PROTOCOL_ERROR, "ten bad frames in a minute")

    def _dispatch(self, message: Message, size: int) -> None:
        method = getattr(message, "method", None)
        if method in _ON_LINK_CREDIT:
            self._charge_link(size)
        elif getattr(message, "id", None) not in self._exchanges:  # an answer that we asked for is free
            self._spend_control()
        match message:
            case Notification():
                self._on_notification(message, size)
            case Request():
                self._on_request(message, size)
            case Response() | ErrorResponse():
                self._on_answer(message)

    def _charge_link(self, size: int) -> None:
        try:
            self._link.charge(size)
        except ProtocolError as error:
            raise SessionEnds(Close.TOO_MUCH, error.message) from error

    def _spend_control(self) -> None:
        if not self._control.take(self._loop.time()):
            raise SessionEnds(Close.TOO_MUCH, "too many frames a second")

    def _give_back_link(self, size: int) -> None:
        grant = self._link.consume(size)
        if grant:
            self.notify("link.credit", LinkCredit(bytes=grant))

    def _on_notification(self, message: Notification, size: int) -> None:
        if message.method == "stream.data":
            self._on_stream_data(message, size)
            return
        handler = self._handlers.notifications.get(message.method)
        if handler is None:
            return
        try:
            handler(self, message.params)
        except ProtocolError as error:
            log.warning("session.notification_refused", agent=self.agent_id, error=error.message)
            if self._bad_frames.another(self._loop.time()):
                raise SessionEnds(Close.PROTOCOL_ERROR, "ten bad messages in a minute") from error

    # -- answers and streams ------------------------------------------------------------------------

    def _on_stream_data(self, message: Notification, size: int) -> None:
        data = codec.convert(message.params, StreamData)
        exchange = self._exchanges.get(data.id)
        if exchange is not None:
            self._feed(exchange, data, size)
        self._give_back_link(size)

    def _feed(self, exchange: Exchange, data: StreamData, size: int) -> None:
        try:
            exchange.feed(data, size)
            if sum(one.held_bytes for one in self._exchanges.values()) > self._settings.max_held_bytes:
                raise TooLarge("The unfinished answers of this agent hold more memory than they may.")
        except (ProtocolError, TooLarge) as error:
            log.warning("session.stream_refused", agent=self.agent_id, error=error.message)
            exchange.fail(error)
            self.cancel(exchange)
            if self._bad_frames.another(self._loop.time()):
                raise SessionEnds(Close.TOO_MUCH, "ten broken streams in a minute") from error

    def _on_answer(self, message: Response | ErrorResponse) -> None:
        if message.id is None:
            log.warning("session.peer_refused_frame", agent=self.agent_id)
            return
        exchange = self._exchanges.pop(message.id, None)
        if exchange is None:
            return
        if isinstance(message, ErrorResponse):
            exchange.fail(from_wire(message.error))
            return
        try:
            exchange.finish(message.result)
        except ProtocolError as error:
            exchange.fail(error)

    # -- what the agent asks ------------------------------------------------------------------------

    def _on_request(self, message: Request, size: int) -> None:
        on_credit = message.method in _ON_LINK_CREDIT
        error = self._why_not(message)
        if error is not None:
            self.post(codec.encode_error(message.id, to_wire(error)))
            if on_credit:
                self._give_back_link(size)
            return
        task = self._own(self._answer(message, size if on_credit else 0), f"answer {message.method}")
        self._answering[message.id] = task
        task.add_done_callback(lambda _: self._answering.pop(message.id, None))

    def _why_not(self, message: Request) -> AgentError | None:
        if message.id in self._answering:
            return ProtocolError("That id is in flight already; the first request goes on.")
        if message.method not in self._handlers.requests:
            return UnknownCommand(f"This server has no method {message.method[:64]!r}.")
        if len(self._answering) >= self._settings.max_in_flight:
            return Busy(f"{self._settings.max_in_flight} requests are in flight.", retry_after_ms=250)
        return None

    async def _answer(self, message: Request, size: int) -> None:
        try:
            result = await self._handlers.requests[message.method](self, message.params)
            frame = codec.encode_result(message.id, result)
        except AgentError as error:
            frame = codec.encode_error(message.id, to_wire(error))
        except Exception as error:
            log.error("session.answer_failed", agent=self.agent_id, method=message.method, exc_info=error)
            frame = codec.encode_error(message.id, to_wire(error))
        self.post(frame)
        if size:
            self._give_back_link(size)

    # -- what we ask --------------------------------------------------------------------------------

    def post(self, frame: bytes) -> None:
        """Queue a control frame; a peer that does not read ends the session."""
        try:
            self._writer.post(frame)
        except Backlog:
            self.end(Close.TOO_MUCH, "the agent does not read")

    async def flush(self) -> None:
        """Wait until everything queued was taken by the socket."""
        await self._writer.flush()

    def notify(self, method: str, params: msgspec.Struct) -> None:
        """Send a notification."""
        self.post(codec.encode_notification(method, params))

    async def call(self, method: str, params: Answer, *, timeout_s: float) -> msgspec.Raw:
        """One request with one answer.

        Raises:
            Busy, LinkLost, DeadlineExceeded, TooLarge, or what the agent answered.
        """
        exchange = self._open(method)
        try:
            async with _deadline(method, timeout_s):
                await self._writer.put(self._request_frame(exchange, params))
            return await exchange.result(timeout_s)
        finally:
            self.cancel(exchange)

    @contextlib.asynccontextmanager
    async def stream(
        self, method: str, params: Answer, *, silence_s: float | None = None
    ) -> AsyncIterator[AgentStream]:
        """One request whose items are read as they come; leaving the context cancels it at the agent.

        Args:
            silence_s: how long nothing may come.

        Raises:
            Busy, LinkLost.
        """
        silence = self._settings.stream_silence_s if silence_s is None else silence_s
        exchange = self._open(method, item_bytes=limits.MAX_ITEM_BYTES + (64 << 10))
        try:
            async with _deadline(method, silence):
                await self._writer.put(self._request_frame(exchange, params))
            yield AgentStream(exchange, silence)
        finally:
            self.cancel(exchange)

    def _open(self, method: str, item_bytes: int | None = None) -> Exchange:
        if not self.alive:
            raise LinkLost("The agent's session has ended.")
        if len(self._exchanges) >= self._settings.max_in_flight:
            raise Busy(
                f"{self._settings.max_in_flight} requests are in flight to this agent.", retry_after_ms=1000
            )
        request_id = next(self._ids)
        window = ReceiveWindow(self._settings.stream_credit_bytes, self._settings.max_frame_bytes)
        exchange = Exchange(
            request_id,
            method,
            window,
            lambda grant: self.notify("stream.credit", StreamCredit(id=request_id, bytes=grant)),
            item_bytes or self._settings.max_result_bytes,
        )
        self._exchanges[request_id] = exchange
        return exchange

    def _request_frame(self, exchange: Exchange, params: Answer) -> bytes:
        frame = codec.encode_request(exchange.request_id, exchange.method, params)
        if len(frame) > self.peer_max_frame_bytes:
            raise TooLarge(
                f"The request has {len(frame)} bytes; the agent takes {self.peer_max_frame_bytes} in a frame."
            )
        return frame

    def cancel(self, exchange: Exchange) -> None:
        """Withdraw a request that is still in flight; its id stays taken until its final, for a while."""
        if self._exchanges.get(exchange.request_id) is not exchange or exchange.abandoned:
            return
        exchange.abandon()
        self.post(
            codec.encode_request(
                f"cancel-{exchange.request_id}", "cancel", CancelParams(id=exchange.request_id)
            )
        )
        self._loop.call_later(self._settings.abandon_s, self._exchanges.pop, exchange.request_id, None)


class AgentStream:
    """The reader's end of a streamed command."""

    def __init__(self, exchange: Exchange, silence_s: float) -> None:
        self._exchange = exchange
        self._silence_s = silence_s

    async def batches(self) -> AsyncIterator[list[msgspec.Raw]]:
        """Items as they came together, each a JSON object; ends when ``result`` is there.

        Raises:
            DeadlineExceeded: nothing came for the stream's silence.
            AgentError: what the agent answered, or ``LinkLost``.
        """
        while batch := await self._exchange.batch(self._silence_s):
            yield batch

    @property
    def result(self) -> msgspec.Raw:
        """The final result, once ``batches`` has ended."""
        return self._exchange.outcome()


@contextlib.asynccontextmanager
async def _deadline(method: str, timeout_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"{method} could not be sent within {timeout_s:g} s.", waited_for=method
        ) from error


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
