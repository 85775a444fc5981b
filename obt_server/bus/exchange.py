"""Calls and streams between server processes, over a bus that may lose messages.

A caller opens an exchange on a subject that another process serves, and takes items and one final. Messages
with data are numbered, so that a loss ends the exchange and is never taken for the whole. Both sides say each
second which exchanges go on: one of which the other side says nothing is over. What waited while a process
was stopped is not begun any more when the process goes on: who asked for it has given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import uuid
from collections.abc import AsyncIterator

import structlog

from obt_agent.errors import DeadlineExceeded, ProtocolError
from obt_server.bus import frames
from obt_server.bus.asked_calls import AskedCalls
from obt_server.bus.bus import Bus, BusMessage, BusSubscription, Serving
from obt_server.bus.frames import Envelope, Kind
from obt_server.bus.outbox import Outbox
from obt_server.bus.pulse import Pulse
from obt_server.bus.remote_call import RemoteStream
from obt_server.bus.requests import lost
from obt_server.bus.served_call import ExchangeHandler
from obt_server.bus.served_calls import ServedCalls
from obt_server.bus.settings import ExchangeSettings, MemoryBudget

log = structlog.get_logger(__name__)


class Exchanges:
    """All exchanges of a process: those that it begins, and those that it serves.

    Args:
        bus: carries them.
        replica_id: this process, for the log.
        budget: of all that waits in this process.
        settings: the numbers.
    """

    def __init__(
        self, bus: Bus, replica_id: str, budget: MemoryBudget, settings: ExchangeSettings | None = None
    ) -> None:
        self._bus = bus
        self._replica_id = replica_id
        self._budget = budget
        self._settings = settings or ExchangeSettings()
        # Random: an answer can be sent by those alone who were asked, and see this in the request.
        me = uuid.uuid4().bytes
        self._inbox = f"{self._settings.prefix}.inbox.{me.hex()}"
        self._outbox = Outbox(bus)
        self._pulse = Pulse(self._settings.alive_s, self._beat, self._late)
        self._asked = AskedCalls(self._inbox, bus, self._outbox, budget, self._settings)
        self._served = ServedCalls(me, bus, self._outbox, budget, self._settings)
        self._subscription: BusSubscription | None = None
        # what this process sent to itself to know that everything older has come; empty otherwise
        self._mark = b""
        self._closed = False

    @property
    def open_calls(self) -> int:
        """How many exchanges are open that this process began or serves."""
        return len(self._asked) + len(self._served)

    async def start(self) -> None:
        """Begin to send, and to take answers."""
        self._bus.on_connection(self._on_connection)
        self._subscription = await self._bus.subscribe(f"{self._inbox}.*", self._take)
        self._outbox.start()
        self._pulse.start()

    async def close(self) -> None:
        """End everything: our own calls fail, handlers are cancelled, and their callers told."""
        self._closed = True
        log.debug("exchange.closing", open=self.open_calls)
        self._asked.fail("This server process ends.")
        await self._served.close()
        await self._pulse.close()
        await self._outbox.close()
        if self._subscription is not None:
            await self._subscription.close()

    # -- asking and serving -----------------------------------------------------------------------------

    async def call(self, subject: str, body: bytes, *, timeout_s: float) -> bytes:
        """Ask whoever serves a subject, and return the final.

        Raises:
            BusUnavailable: the bus is away.
            NoResponders: nobody serves the subject.
            LinkLost: the other side, or a message of it, was lost; the work may have been done.
            DeadlineExceeded: the final did not come within ``timeout_s`` seconds.
            Busy: too much waits in this process, or there.
            AgentError: what the handler raised.
        """
        self._check()
        with self._asked.opened(subject) as call:
            try:
                async with asyncio.timeout(timeout_s):
                    await call.send(body)
                    return await call.final()
            except TimeoutError as error:
                raise DeadlineExceeded(
                    f"Another server process did not answer within {timeout_s:g} s.", waited_for=subject
                ) from error

    @contextlib.asynccontextmanager
    async def stream(self, subject: str, body: bytes, *, silence_s: float) -> AsyncIterator[RemoteStream]:
        """Ask for a stream; leaving the context cancels it at the other side.

        The request is sent on entering. What the other side answers, errors included, comes while reading.

        Args:
            subject: who is asked.
            body: the request.
            silence_s: how many seconds no item may come.

        Raises:
            BusUnavailable: the bus is away.
            Busy: too much waits in this process.
        """
        self._check()
        with self._asked.opened(subject) as call:
            await call.send(body)
            yield RemoteStream(call, silence_s)

    def _check(self) -> None:
        if self._closed or not self._bus.connected:
            raise lost()
        self._budget.check()

    async def serve(self, subject: str, handle: ExchangeHandler) -> Serving:
        """Answer requests on a subject until the subscription is closed; that ends those that run, too."""
        return await self._served.serve(subject, handle, self._pulse)

    # -- what comes -------------------------------------------------------------------------------------

    def _take(self, message: BusMessage) -> None:
        if message.no_responders:
            self._asked.nobody_listens(message)
        elif (frame := frames.unpacked(message.data)) is not None:
            with contextlib.suppress(ProtocolError):
                self._take_frame(frame)

    def _take_frame(self, frame: Envelope) -> None:
        if frame.kind is Kind.MARK:
            if frame.token == self._mark:
                self._mark = b""
                self._served.doubtful = False
        elif frame.kind in frames.OF_CALLERS:
            self._served.take(frame)
        else:
            self._asked.take(frame)

    def _on_connection(self, connected: bool) -> None:  # noqa: FBT001 - what an observer of the bus is given
        if not connected:
            self._asked.bus_lost()
            self._served.end_all("The connection between the server processes was lost.")

    # -- time -------------------------------------------------------------------------------------------

    def _beat(self, sign: bool) -> None:  # noqa: FBT001 - what a pulse calls
        now = asyncio.get_running_loop().time()
        self._asked.end_silent(now)
        self._served.end_silent(now)
        if sign:
            self._asked.say_alive()
            self._served.say_alive()
            # Until it comes: the bus may have lost it.
            if self._mark:
                self._send_mark()

    def _late(self, seconds: float) -> None:
        if seconds < self._settings.silence_s:
            # Busy, or stopped so briefly that the others wait still: what they said has not been read yet.
            self._asked.wait_longer(seconds)
            self._served.wait_longer(seconds)
            return
        log.warning("exchange.stopped", seconds=round(seconds, 1), replica=self._replica_id)
        # The others heard nothing meanwhile, and have given up.
        self._asked.fail("This server process was stopped for a while.")
        self._served.end_all("The server process that answered was stopped for a while.")
        self._served.doubtful = True
        self._mark = secrets.token_bytes(frames.TOKEN_BYTES)
        self._send_mark()

    def _send_mark(self) -> None:
        # It comes behind everything that waited for this process at the bus.
        self._outbox.post(f"{self._inbox}.mark", frames.pack(Kind.MARK, self._mark))
