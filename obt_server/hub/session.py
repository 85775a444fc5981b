"""One admitted socket: reads, writes, requests both ways, credit, and the watch on silence."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec
import structlog

from obt_agent.errors import AgentError, Busy, ProtocolError, UnknownCommand
from obt_agent.protocol import codec
from obt_agent.protocol.admission import Empty
from obt_agent.protocol.envelope import ErrorResponse, Message, Notification, Request, RequestId, Response
from obt_agent.protocol.errors import to_wire
from obt_agent.protocol.limits import Close
from obt_agent.protocol.rates import BadFrames, TokenBucket
from obt_agent.protocol.streams import LinkCredit, StreamData, StreamsAlive
from obt_server.hub.budget import WaitingBudget
from obt_server.hub.calls import Calls
from obt_server.hub.presence import Presence
from obt_server.hub.settings import HubSettings
from obt_server.hub.sockets import BinaryFrame, HubSocket, SocketClosed
from obt_server.hub.turns import Turn, Turns
from obt_server.hub.window import ReceiveWindow
from obt_server.hub.writer import Backlog, FrameWriter

log = structlog.get_logger(__name__)

_ON_LINK_CREDIT = frozenset(
    {"stream.data", "models.sync", "hardware.sync", "jobs.sync", "job.part", "job.finished"}
)
_BURST_S = 10.0
_LATE_S = 1.0
"""A timer that runs so late shows that the event loop stood still: what came meanwhile lies unread."""
_DUE = 0.98  # of an interval: the writer notes a little later when it sent the sign of life before


class SessionEnds(Exception):
    """The session must end with this close code; raised by what runs inside it."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


Answer = msgspec.Struct | msgspec.Raw
RequestCoroutine = Callable[["AgentSession", msgspec.Raw], Coroutine[Any, Any, Answer]]
NotificationCall = Callable[["AgentSession", msgspec.Raw], None]


class AgentSession:
    """One admission of one agent. ``run`` owns every task of it and returns when the socket has ended.

    Args:
        socket: the accepted socket; the hello was read from it and not answered yet.
        agent_id: whose session it is.
        credential_id: what the agent came with.
        presence: filled by the handlers.
        requests: what agents may ask, by method; each runs as a task of the session.
        notifications: what they may tell; called at once, and must not block.
        settings: the hub's numbers.
        peer_max_frame_bytes: the largest frame that the agent takes.
        budget: of all that waits in this process.
        turns: of the agents that send without end.
    """

    def __init__(  # noqa: PLR0913 -- what a session is made of, by name
        self,
        socket: HubSocket,
        *,
        agent_id: str,
        credential_id: int,
        presence: Presence,
        requests: Mapping[str, RequestCoroutine],
        notifications: Mapping[str, NotificationCall],
        settings: HubSettings,
        peer_max_frame_bytes: int,
        budget: WaitingBudget,
        turns: Turns,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.agent_id = agent_id
        self.credential_id = credential_id
        self.presence = presence
        # set when run() has returned: every task of the session is over
        self.ended = asyncio.Event()
        # of any frame, in the loop's time; what the watch on silence and probes go by
        self.last_heard = loop.time()
        self._loop = loop
        self._socket = socket
        self._settings = settings
        self._requests, self._notifications = requests, notifications
        self._budget = budget
        self._turns = turns
        self._writer = FrameWriter(socket, budget, lambda: self.calls.make_mark())  # noqa: PLW0108 -- made below
        self.calls = Calls(self._writer, self.post, settings, peer_max_frame_bytes, budget)
        # requests of the agent that are not answered yet, by the agent's ids; bounded by max_in_flight
        self._answering: dict[RequestId, asyncio.Task[None]] = {}
        # work that must not outlive the session; the set keeps tasks from being collected as garbage
        self._spawned: set[asyncio.Task[None]] = set()
        # credit of all that the agent sends on the link, whichever stream it belongs to
        self._link = ReceiveWindow(settings.link_credit_bytes, settings.max_frame_bytes)
        self._bad_frames = BadFrames()
        rate = settings.control_frames_per_s
        # frames outside credit (answers nobody asked for, notifications) cost a token each
        self._control = TokenBucket(rate, rate * _BURST_S, loop.time())
        # why the session ends; the first reason stands, and done() means that nothing new begins
        self._end: asyncio.Future[SessionEnds] = loop.create_future()
        self._streams_alive_at = loop.time() + settings.streams_alive_interval_s
        # the deadline of the closing handshake, so that abort() can move it to now
        self._closing: asyncio.Timeout | None = None
        self._dropped = False

    # -- lifetime ------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether requests can still be made."""
        return not self._end.done()

    def end(self, code: int, reason: str) -> None:
        """Ask the session to end; the first reason counts."""
        if not self._end.done():
            self._end.set_result(SessionEnds(code, reason))

    def abort(self) -> None:
        """Drop the socket at once, without waiting for its close frame to be taken."""
        self._dropped = True
        if self._closing is not None and not self._closing.expired():
            with contextlib.suppress(RuntimeError):  # it has closed
                self._closing.reschedule(self._loop.time())
        self._socket.abort()

    async def run(self) -> SessionEnds:
        """Read, write and watch until the end; then fail what is in flight and close the socket."""
        tasks = [
            self._start_task(self._writer.run(), "write"),
            self._start_task(self._read(), "read"),
            self._start_task(self._watch(), "watch"),
        ]
        try:
            waited: list[asyncio.Future[Any]] = [self._end, *tasks]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            self._find_cause(tasks)
            ending = self._end.result()
            self.calls.end()
            await self._close(ending)
            return ending
        finally:
            self.end(Close.GOING_AWAY, "the server stopped serving this socket")
            self.calls.end()
            self._writer.close()
            await _cancel([*tasks, *self._answering.values(), *self._spawned])
            self.ended.set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run something for as long as the session lasts at most."""
        task = self._start_task(work, name)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)

    def _start_task(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return asyncio.create_task(work, name=f"session {self.agent_id} {name}")

    def _find_cause(self, tasks: list[asyncio.Task[None]]) -> None:
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
        # The first cause stands; this is for a task that ended without one.
        self.end(1006, "the socket ended")

    async def _close(self, ending: SessionEnds) -> None:
        # A closing handshake would wait for somebody who is not there, or does not read.
        if ending.code == Close.SILENT or self._dropped:
            self._socket.abort()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.close_timeout_s) as self._closing:
                await self._socket.close(ending.code, ending.reason)
                return
        self._socket.abort()

    async def _watch(self) -> None:
        """Say that we live when there is nothing else to say; end the session when the agent does not."""
        settings = self._settings
        due = self.last_heard
        while True:
            now = self._loop.time()
            silent_at = self.last_heard + settings.silence_s
            # This loop was late, and not the agent: what it sent meanwhile is still to be read.
            if now > due + _LATE_S:
                silent_at = max(silent_at, now + _LATE_S)
            if now >= silent_at:
                raise SessionEnds(Close.SILENT, f"nothing heard for {settings.silence_s:g} s")
            if now >= self._writer.last_sent + settings.alive_interval_s * _DUE:
                self.notify("link.alive", Empty())
                self._writer.last_sent = now  # queued: not again before the next is due
            self._writer.check_marks()
            if now >= self._streams_alive_at:
                self._streams_alive_at = now + settings.streams_alive_interval_s
                self.notify("streams.alive", StreamsAlive(ids=self.calls.read_ids()))
            due = min(
                silent_at,
                self._writer.last_sent + settings.alive_interval_s,
                self._streams_alive_at,
            )
            # Not 0: a due time that is just past must not make this spin.
            await asyncio.sleep(max(due - now, 0.001))

    async def probe(self, within_s: float) -> bool:
        """Ask for a sign of life; False when nothing at all was heard in time, and this loop was not late."""
        before, late_at = self.last_heard, self._loop.time() + within_s + _LATE_S
        with contextlib.suppress(AgentError):
            try:
                await self.calls.call("state.request", msgspec.Raw(b'{"kinds":[]}'), timeout_s=within_s)
            except Busy:  # what it has in flight is as good a sign of life as an answer
                await asyncio.sleep(within_s)
        if self._loop.time() > late_at:
            await asyncio.sleep(_LATE_S)
        return self.alive and self.last_heard > before

    # -- reading ------------------------------------------------------------------------------------

    async def _read(self) -> None:
        turn = Turn(self._turns)
        while True:
            # Frames that are here already are received without a pause.
            if turn.over:
                await turn.next()
            try:
                frame = await self._socket.receive()
            except SocketClosed as closed:
                raise SessionEnds(closed.code, closed.reason or "the agent closed") from closed
            except BinaryFrame as error:
                raise SessionEnds(Close.UNSUPPORTED_DATA, "obt.v1 has text frames only") from error
            self.last_heard = self._loop.time()
            with turn:
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
        # Its answer is output like any other, and nonsense must not get it for free.
        self._spend_control()
        self.post(codec.encode_error(error.id, error.wire))
        self._count_bad("ten bad frames in a minute")

    def _dispatch(self, message: Message, size: int) -> None:
        method = getattr(message, "method", None)
        if method in _ON_LINK_CREDIT:
            self._charge_link(size)
        elif getattr(message, "id", None) not in self.calls:  # an answer that we asked for is free
            self._spend_control()
        match message:
            case Notification():
                self._on_notification(message, size)
            case Request():
                self._on_request(message, size)
            case Response() | ErrorResponse():
                self.calls.on_answer(message)

    def _charge_link(self, size: int) -> None:
        try:
            self._link.charge(size)
        except ProtocolError as error:
            raise SessionEnds(Close.TOO_MUCH, error.message) from error

    def _spend_control(self) -> None:
        if self._control.take(self._loop.time()) > 0:
            raise SessionEnds(Close.TOO_MUCH, "too many frames a second")

    def _give_back_link(self, size: int) -> None:
        grant = self._link.consume(size)
        if grant:
            self.notify("link.credit", LinkCredit(bytes=grant))

    def _on_notification(self, message: Notification, size: int) -> None:
        if message.method == "stream.data":
            self._on_stream_data(message, size)
            return
        handler = self._notifications.get(message.method)
        # Newer agents may say more: JSON-RPC has no answer to a notification.
        if handler is None:
            return
        try:
            self._check_size(message, size)
            handler(self, message.params)
        except ProtocolError as error:
            log.warning("session.notification_refused", agent=self.agent_id, error=error.message)
            self._count_bad("ten bad messages in a minute")

    def _check_size(self, message: Notification, size: int) -> None:
        """What is kept of a live agent, and passed on to everybody who watches, must be small."""
        most = self._settings.max_notification_bytes
        if size > most:
            raise ProtocolError(f"A {message.method} of {size} bytes is over the {most} that are taken.")

    def _on_stream_data(self, message: Notification, size: int) -> None:
        data = codec.convert(message.params, StreamData)
        if not self.calls.on_data(data, size):
            self._count_bad("ten broken streams in a minute")
        self._give_back_link(size)

    def _count_bad(self, reason: str) -> None:
        if self._bad_frames.another(self._loop.time()):
            raise SessionEnds(Close.PROTOCOL_ERROR, reason)

    # -- requests of the agent ------------------------------------------------------------------------

    def _on_request(self, message: Request, size: int) -> None:
        on_credit = message.method in _ON_LINK_CREDIT
        error = self._refusal(message)
        if error is not None:
            self.post(codec.encode_error(message.id, to_wire(error)))
            # Refused, it holds no memory; credit that is kept would be lost to the session for good.
            if on_credit:
                self._give_back_link(size)
            return
        task = self._start_task(self._answer(message, size if on_credit else 0), f"answer {message.method}")
        self._answering[message.id] = task
        # Storage may be slow, and a thousand agents bring their lists at once after a restart.
        self._budget.change(size)
        task.add_done_callback(lambda _: self._answered(message.id, size))

    def _answered(self, request_id: RequestId, size: int) -> None:
        self._answering.pop(request_id, None)
        self._budget.change(-size)

    def _refusal(self, message: Request) -> AgentError | None:
        if message.id in self._answering:
            return ProtocolError("That id is in flight already; the first request goes on.")
        if message.method not in self._requests:
            return UnknownCommand(f"This server has no method {message.method[:64]!r}.")
        if len(self._answering) >= self._settings.max_in_flight:
            return Busy(f"{self._settings.max_in_flight} requests are in flight.", retry_after_ms=250)
        try:
            self._budget.check()
        except Busy as busy:
            return busy
        return None

    async def _answer(self, message: Request, size: int) -> None:
        try:
            result = await self._requests[message.method](self, message.params)
            frame = codec.encode_result(message.id, result)
        except AgentError as error:
            frame = codec.encode_error(message.id, to_wire(error))
        except Exception as error:
            log.exception("session.answer_failed", agent=self.agent_id, method=message.method)
            frame = codec.encode_error(message.id, to_wire(error))
        self.post(frame)
        # Last: an agent that sends faster than the database stores has to wait for it.
        if size:
            self._give_back_link(size)

    # -- sending -------------------------------------------------------------------------------------

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


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
