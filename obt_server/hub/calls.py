"""Requests of ours to one agent: numbered, bounded, answered once, cancelled when nobody waits any more."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable

import msgspec
import structlog

from obt_agent.errors import Busy, DeadlineExceeded, LinkLost, ProtocolError, TooLarge
from obt_agent.protocol import codec, limits
from obt_agent.protocol.commands import CancelParams
from obt_agent.protocol.envelope import ErrorResponse, RequestId, Response
from obt_agent.protocol.errors import from_wire
from obt_agent.protocol.streams import StreamCredit, StreamData
from obt_server.hub.agent_stream import AgentStream
from obt_server.hub.budget import WaitingBudget
from obt_server.hub.outgoing_request import OutgoingRequest
from obt_server.hub.settings import HubSettings
from obt_server.hub.window import ReceiveWindow
from obt_server.hub.writer import FrameWriter

log = structlog.get_logger(__name__)

Params = msgspec.Struct | msgspec.Raw
_ITEM_BYTES = limits.MAX_ITEM_BYTES + (64 << 10)
"""An item holds one of Ollama's objects and the agent's words around it."""


class Calls:
    """The requests of ours that are in flight to one agent.

    Args:
        writer: where requests go; waits while the link is slow.
        post: sends control frames at once.
        settings: the hub's numbers.
        peer_max_frame_bytes: the largest frame that the agent takes.
        budget: of all that waits in this process.
    """

    def __init__(
        self,
        writer: FrameWriter,
        post: Callable[[bytes], None],
        settings: HubSettings,
        peer_max_frame_bytes: int,
        budget: WaitingBudget,
    ) -> None:
        # a larger frame would end the session, and with it everybody's requests
        self.peer_max_frame_bytes = peer_max_frame_bytes
        self._writer = writer
        self._post = post
        self._settings = settings
        # ids are never used twice in a session: a late answer must not meet a newer request
        self._ids = itertools.count(1)
        # cancelled ones stay until their final, so that their data is still charged and dropped
        self._requests: dict[RequestId, OutgoingRequest] = {}
        # by request, for cancelled ones whose final does not come
        self._forget_timers: dict[RequestId, asyncio.TimerHandle] = {}
        self._budget = budget
        # by request: its part of the budget, until who asked has taken the answer
        self._charged: dict[int, int] = {}
        # the request that the agent answers at once, to show that what went before has arrived
        # (empty while none is on its way: no id is)
        self._mark_id = ""
        self._ended = False

    # -- requests -------------------------------------------------------------------------------------

    async def call(self, method: str, params: Params, *, timeout_s: float) -> msgspec.Raw:
        """One request with one answer.

        Raises:
            Busy, LinkLost, DeadlineExceeded, TooLarge, or what the agent answered.
        """
        request = self._open(method, self._settings.max_result_bytes)
        try:
            await self._send(request, params, timeout_s)
            return await request.result(timeout_s)
        finally:
            self._cancel_request(request)
            self._discharge(request)

    @contextlib.asynccontextmanager
    async def stream(self, method: str, params: Params, *, silence_s: float) -> AsyncIterator[AgentStream]:
        """One request whose items are read as they come; leaving the context cancels it at the agent.

        Args:
            method: the command.
            params: its parameters.
            silence_s: how long nothing may come.

        Raises:
            Busy, LinkLost, DeadlineExceeded, TooLarge.
        """
        request = self._open(method, _ITEM_BYTES)
        try:
            await self._send(request, params, silence_s)
            yield SessionStream(request, silence_s)
        finally:
            self._cancel_request(request)
            self._discharge(request)

    def _open(self, method: str, most_bytes: int) -> OutgoingRequest:
        if self._ended:
            raise LinkLost("The agent's session has ended.")
        if len(self._requests) >= self._settings.max_in_flight:
            raise Busy(
                f"{self._settings.max_in_flight} requests are in flight to this agent.", retry_after_ms=1000
            )
        self._budget.check()
        request_id = next(self._ids)

        def grant(size: int) -> None:
            self._post(codec.encode_notification("stream.credit", StreamCredit(id=request_id, bytes=size)))

        window = ReceiveWindow(self._settings.stream_credit_bytes, self._settings.max_frame_bytes)
        request = OutgoingRequest(request_id, method, window, grant, most_bytes)
        self._requests[request_id] = request
        return request

    async def _send(self, request: OutgoingRequest, params: Params, timeout_s: float) -> None:
        frame = codec.encode_request(request.request_id, request.method, params)
        if len(frame) > self.peer_max_frame_bytes:
            self._forget(request)
            raise TooLarge(
                f"The request has {len(frame)} bytes; the agent takes {self.peer_max_frame_bytes} in a frame."
            )
        queued = False
        try:
            async with asyncio.timeout(timeout_s):
                await self._writer.put(request.request_id, frame)
            queued = True
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"{request.method} could not be sent within {timeout_s:g} s: the agent reads too slowly.",
                waited_for="sending",
            ) from error
        finally:
            if not queued:  # the agent never hears of it: there is nothing to cancel
                self._forget(request)

    def _cancel_request(self, request: OutgoingRequest) -> None:
        """Cancel a request that is still in flight; its id stays taken until its final, for a while."""
        if self._requests.get(request.request_id) is not request or request.abandoned:
            return
        if self._writer.take_back(request.request_id):
            self._forget(request)
            return
        request.abandon()
        params = CancelParams(id=request.request_id)
        self._post(codec.encode_request(f"cancel-{request.request_id}", "cancel", params))
        later = asyncio.get_running_loop().call_later(self._settings.abandon_s, self._forget, request)
        self._forget_timers[request.request_id] = later

    def _forget(self, request: OutgoingRequest) -> None:
        if self._requests.get(request.request_id) is request:
            del self._requests[request.request_id]
        self._cancel_timer(request.request_id)
        self._discharge(request)

    def _cancel_timer(self, request_id: RequestId) -> None:
        """A timer would hold the whole session in memory until it is due."""
        timer = self._forget_timers.pop(request_id, None)
        if timer is not None:
            timer.cancel()

    def piece_bytes(self) -> int:
        """Most bytes of a piece of something long: what comes behind it waits for it on a slow link."""
        return self._writer.window.size // 2

    # -- incoming frames ------------------------------------------------------------------------------

    def __contains__(self, request_id: object) -> bool:
        """Whether a request of that id is in flight."""
        return request_id in self._requests or request_id == self._mark_id

    def read_ids(self) -> tuple[RequestId, ...]:
        """Requests that somebody waits for."""
        return tuple(id_ for id_, request in self._requests.items() if not request.abandoned)

    def on_data(self, data: StreamData, size: int) -> bool:
        """``stream.data`` of ``size`` bytes came; False when it broke the stream's rules, and ended it."""
        request = self._requests.get(data.id)
        if request is None:
            # It ended here while this was on its way: no fault of the agent.
            return True
        try:
            request.feed(data, size)
            if not request.abandoned:
                self._charge(request)
            if data.part is not None:
                self._check_memory()
        except Busy as error:
            # the server's want, not the agent's fault
            request.fail(error)
            self._cancel_request(request)
        except (ProtocolError, TooLarge) as error:
            log.warning("session.stream_refused", method=request.method, error=error.message)
            request.fail(error)
            self._cancel_request(request)
            return False
        return True

    def _check_memory(self) -> None:
        if sum(self._charged.values()) > self._settings.max_held_bytes:
            raise TooLarge("The unfinished answers of this agent hold more memory than they may.")
        self._budget.check()

    def _charge(self, request: OutgoingRequest) -> None:
        """Count what a request holds now; nothing, once nobody reads it."""
        held = request.held_bytes
        self._budget.change(held - self._charged.get(request.request_id, 0))
        self._charged[request.request_id] = held

    def _discharge(self, request: OutgoingRequest) -> None:
        self._budget.change(-self._charged.pop(request.request_id, 0))

    def make_mark(self) -> bytes:
        """Return a request that costs nothing, and whose answer says that what was sent before is there."""
        self._mark_id = f"mark-{next(self._ids)}"
        return codec.encode_request(self._mark_id, "state.request", msgspec.Raw(b'{"kinds":[]}'))

    def on_answer(self, message: Response | ErrorResponse) -> None:
        """An answer came; one to no request of ours is ignored."""
        if message.id == self._mark_id:
            self._mark_id = ""
            self._writer.mark_answered()
            return
        request = None if message.id is None else self._requests.pop(message.id, None)
        if request is None:
            return
        self._cancel_timer(request.request_id)
        if isinstance(message, ErrorResponse):
            request.fail(from_wire(message.error))
            return
        try:
            request.finish(message.result)
        except ProtocolError as error:
            request.fail(error)
        if not request.abandoned:
            self._charge(request)

    def end(self) -> None:
        """The session ended: everything in flight fails, and nothing new begins."""
        self._ended = True
        lost = LinkLost("The agent's session ended before the answer; nothing is replayed.")
        for request in list(self._requests.values()):
            request.fail(lost)
        self._requests.clear()
        for request_id in list(self._forget_timers):
            self._cancel_timer(request_id)


class SessionStream(AgentStream):
    """The stream of a session of this process."""

    def __init__(self, request: OutgoingRequest, silence_s: float) -> None:
        super().__init__(request.method)
        self._request = request
        self._silence_s = silence_s

    async def text_batches(self) -> AsyncIterator[list[bytes]]:
        """Items that came together, each as JSON text. Raises as the base class says."""
        while batch := await self._request.batch(self._silence_s):
            yield [bytes(item) for item in batch]

    @property
    def result_text(self) -> bytes:
        """The final result as JSON text, once the items have ended."""
        return bytes(self._request.outcome())
