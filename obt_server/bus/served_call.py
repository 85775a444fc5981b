"""One request of another server process, from its first message to its final."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog

from obt_agent.errors import AgentError, LinkLost, ProtocolError
from obt_server.bus import frames
from obt_server.bus.bus import Bus, BusUnavailable
from obt_server.bus.frames import Envelope, Kind, Sign, Whole
from obt_server.bus.hearing import Hearing
from obt_server.bus.settings import ExchangeSettings, MemoryBudget, Post

log = structlog.get_logger(__name__)


class ReplySink(Protocol):
    """Where a handler sends items, before it returns the final."""

    async def send(self, *items: bytes) -> None:
        """Send items, in one message if they fit, when the caller takes more.

        Raises:
            BusUnavailable: the bus is away; the exchange is over.
        """


ExchangeHandler = Callable[[bytes, ReplySink], Awaitable[bytes]]
"""Given the body, returns the final; what it raises is raised at the caller, whose leaving cancels it."""


class ServedCall:
    """The serving side of an exchange.

    Args:
        handle: does the work.
        token: names it.
        reply: where its answers go.
        me: this process, as callers know it.
        bus: carries it.
        post: sends grants.
        budget: of all that waits in this process.
        settings: the numbers.
    """

    def __init__(  # noqa: PLR0913 - what an exchange is made of, by name
        self,
        handle: ExchangeHandler,
        token: bytes,
        reply: str,
        *,
        me: bytes,
        bus: Bus,
        post: Post,
        budget: MemoryBudget,
        settings: ExchangeSettings,
    ) -> None:
        self.token = token
        self.hearing = Hearing(asyncio.get_running_loop().time())
        self.task: asyncio.Task[None] | None = None
        # called once, when nothing more happens
        self.over: Callable[[], None] = lambda: None
        # what the caller is told when we end it
        self._why: AgentError | None = None
        self._ending = False
        self._handle = handle
        self._reply = reply
        self._me = me
        self._piece_bytes = settings.piece_of(bus.max_payload)
        self._bus = bus
        self._post = post
        self._budget = budget
        self._settings = settings
        self._types = settings.error_types()
        # data are numbered, and go one after the other
        self._seq = 0
        self._sending = asyncio.Lock()
        # bytes of items and pieces since the beginning: that may go, and that went
        self._credit = 0
        self._sent = 0
        self._credit_came = asyncio.Event()
        # of the body
        self._body = bytearray()
        self._held = 0
        self._total = 0
        self._granted = 0
        self._next_piece = 1

    @property
    def inbox(self) -> str:
        """Where the caller takes what concerns many exchanges."""
        return f"{self._reply.rpartition('.')[0]}.calls"

    @property
    def sign(self) -> Sign:
        """How far it is."""
        return Sign(self.token, self._seq, self._granted)

    # -- the request ------------------------------------------------------------------------------------

    def open(self, frame: Envelope) -> None:
        """Take the first message.

        Raises:
            ProtocolError, Busy.
        """
        self._credit, self._total, first = frames.read_open(frame.rest)
        if self._total > self._settings.max_body_bytes:
            raise ProtocolError(f"A request of {self._total} bytes is larger than other processes take.")
        self._granted = len(first)
        self._append(first)

    def feed(self, frame: Envelope, now: float) -> None:
        """Take a later message of the caller."""
        self.hearing.heard(now)
        try:
            if frame.kind is Kind.CREDIT:
                self._grant_credit(frames.read_total(frame.rest))
            elif frame.kind is Kind.BODY:
                self._take_piece(frame)
        except AgentError as error:
            self.end(error)

    def alive(self, sign: Sign, now: float) -> None:
        """The caller still waits; ``sign`` says how far it is, should the last of what it sent be lost."""
        self.hearing.heard(now)
        self._grant_credit(sign.granted)
        if sign.seq > self._next_piece:
            self.end(_lost_some())

    def _grant_credit(self, total: int) -> None:
        if total > self._credit:
            self._credit = total
            self._credit_came.set()

    def _take_piece(self, frame: Envelope) -> None:
        if frame.seq < self._next_piece:
            return
        if frame.seq > self._next_piece:
            raise _lost_some()
        self._next_piece += 1
        self._append(frame.rest)
        self.begin()

    def _append(self, piece: memoryview) -> None:
        self._body += piece
        self._held += len(piece)
        self._budget.change(len(piece))
        if len(self._body) > self._total:
            raise ProtocolError("A request is longer than it said.")
        if len(self._body) == self._total:
            return
        # What is granted may come: refused later, it would have been sent for nothing.
        self._budget.check()
        due = min(self._total, len(self._body) + self._settings.window_bytes)
        # The first one at once, the last one however little it is; between them no message for each piece.
        worth = self._settings.window_bytes // 2 if len(piece) < len(self._body) and due < self._total else 1
        if due - self._granted >= worth:
            self._granted = due
            self._post(self._reply, frames.pack(Kind.GRANT, self.token, frames.total(due), server=self._me))

    def begin(self) -> None:
        """Begin the work if the whole request is here."""
        if self.task is None and len(self._body) == self._total:
            self.task = asyncio.create_task(self._run(), name="exchange")
            # Not at the end of the task itself: cancelled before its first step it has none.
            self.task.add_done_callback(lambda _: self.over())

    # -- the work ---------------------------------------------------------------------------------------

    async def _run(self) -> None:
        # Never raises: what goes wrong is the caller's answer.
        try:
            body = bytes(self._body)
            # Counted until the end, and not held twice.
            self._body.clear()
            final = await self._handle(body, self)
            await self._finish(final)
        except asyncio.CancelledError:
            # Of a caller that has left nobody waits for an answer.
            why = self._why if self._ending else LinkLost("What was asked was cancelled there.")
            if why is not None:
                await self.answer_error(why)
        except AgentError as error:
            await self.answer_error(error)
        except Exception as error:
            log.exception("exchange.failed")
            await self.answer_error(error)

    def end(self, why: AgentError | None) -> None:
        """End it from here: the handler is cancelled, and the caller told why (None: it has left)."""
        if self._ending:
            return
        self._ending = True
        self._why = why
        if self.task is None:
            # Of a request that is not whole nothing has begun.
            nothing = asyncio.sleep(0) if why is None else self.answer_error(why)
            self.task = asyncio.create_task(nothing, name="exchange end")
            self.task.add_done_callback(lambda _: self.over())
        else:
            self.task.cancel()

    def release(self) -> None:
        """Hold nothing any more."""
        self._body.clear()
        self._budget.change(-self._held)
        self._held = 0

    async def send(self, *items: bytes) -> None:
        """Send items; see ``ReplySink``."""
        async with self._sending:
            for group in _groups(items, self._piece_bytes):
                if len(group) == 1 and len(group[0]) > self._piece_bytes:
                    await self._send_pieces(Whole.ITEM, group[0])
                else:
                    await self._send(Kind.ITEMS, frames.items(group))

    async def _finish(self, final: bytes) -> None:
        async with self._sending:
            if len(final) > self._piece_bytes:
                await self._send_pieces(Whole.FINAL, final)
            else:
                await self._send(Kind.FINAL, final, for_credit=False)

    async def _send_pieces(self, whole: Whole, text: bytes) -> None:
        head = frames.part_head(whole, len(text))
        for at in range(0, len(text), self._piece_bytes):
            await self._send(Kind.PART, text[at : at + self._piece_bytes], head=head)

    async def _send(self, kind: Kind, rest: bytes, *, head: bytes = b"", for_credit: bool = True) -> None:
        # One message may overdraw what is left.
        while for_credit and self._sent >= self._credit:
            self._credit_came.clear()
            await self._credit_came.wait()
        message = frames.pack(kind, self.token, rest, server=self._me, seq=self._seq, head=head)
        await self._bus.publish(self._reply, message)
        # Behind the message: ``sign`` must not announce what has not been sent.
        self._seq += 1
        if for_credit:
            self._sent += len(head) + len(rest)

    async def answer_error(self, error: BaseException) -> None:
        """Send the final of one that fails."""
        # With an end: a task that the handler left behind may hold the lock, and wait for credit.
        try:
            async with asyncio.timeout(self._settings.alive_s), self._sending:
                await self._send(Kind.ERROR, self._types.encode(error), for_credit=False)
        except (BusUnavailable, TimeoutError):
            log.debug("exchange.unanswered")


def _lost_some() -> LinkLost:
    return LinkLost("Part of the request was lost between the server processes.")


def _groups(items: Sequence[bytes], most: int) -> list[list[bytes]]:
    """Return items in groups that fit into a message each; a larger one stands alone."""
    groups: list[list[bytes]] = []
    size = most
    for item in items:
        # its length stands before it
        cost = len(item) + frames.LENGTH_BYTES
        if size + cost > most:
            groups.append([])
            size = 0
        groups[-1].append(item)
        size += cost
    return groups
