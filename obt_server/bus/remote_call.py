"""One request of ours to another server process, with whatever comes before its final."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

from obt_agent.errors import AgentError, DeadlineExceeded, LinkLost, ProtocolError, TooLarge
from obt_server.bus import frames
from obt_server.bus.bus import Bus, NoResponders
from obt_server.bus.frames import Envelope, Kind, Sign, Whole
from obt_server.bus.hearing import Hearing
from obt_server.bus.requests import lost
from obt_server.bus.settings import ExchangeSettings, MemoryBudget, Post

_GRANT_SHARE: Final = 4
"""Of the window: so much must have been read before credit is worth a message."""


class RemoteCall:
    """The caller's side: ``feed`` takes what comes, one reader takes it from here.

    Args:
        token: names it; nobody else can guess it.
        subject: where it is served.
        reply: where answers come.
        bus: carries it.
        post: sends credit.
        budget: of all that waits in this process.
        settings: the numbers.
    """

    def __init__(
        self,
        token: bytes,
        subject: str,
        reply: str,
        *,
        bus: Bus,
        post: Post,
        budget: MemoryBudget,
        settings: ExchangeSettings,
    ) -> None:
        self.token = token
        self.subject = subject
        self.reply = reply
        # of the process that serves it; zeros until something came from there
        self.server = frames.NOBODY
        self.hearing = Hearing(asyncio.get_running_loop().time())
        # whether the bus said once that nobody listens any more where the request went
        self._unserved = False
        # whether the other side has ended it: there is nothing to cancel
        self.over_there = False
        self._bus = bus
        self._post = post
        self._budget = budget
        self._settings = settings
        self._types = settings.error_types()
        self._expected = 0
        # bytes of the body since the beginning: that may go, and that went
        self._may_send = 0
        self._sent = 0
        # the number of the body's next piece: the first one went with the request
        self._next_piece = 1
        # credit since the beginning, what of it the other side was told, and what was taken
        self.granted = self._announced = settings.window_bytes
        self._items: deque[tuple[list[bytes], int]] = deque()
        # credit of pieces that came while whole items waited: given back when those are read
        self._deferred = 0
        self._joined: _Joined | None = None
        self._held = 0
        self._wake = asyncio.Event()
        self._result: bytes | None = None
        self._error: AgentError | None = None

    @property
    def ended(self) -> bool:
        """Whether the final, or an error, is there."""
        return self._result is not None or self._error is not None

    @property
    def inbox(self) -> str:
        """Where the other side takes what follows the request."""
        if self.server == frames.NOBODY:
            return self.subject
        return f"{self._settings.prefix}.inbox.{self.server.hex()}.served"

    @property
    def sign(self) -> Sign:
        """How far it is."""
        return Sign(self.token, self._next_piece, self.granted)

    # -- sending ----------------------------------------------------------------------------------------

    async def send(self, body: bytes) -> None:
        """Send the request: one message, or pieces as the other side takes them.

        Raises:
            BusUnavailable: it cannot be sent.
        """
        piece_bytes = self._settings.piece_of(self._bus.max_payload)
        head = frames.open_head(self.granted, len(body))
        await self._bus.publish(
            self.subject, frames.pack(Kind.OPEN, self.token, body[:piece_bytes], head=head), self.reply
        )
        self._may_send = self._sent = min(piece_bytes, len(body))
        for number in itertools.count(1):
            if self._sent == len(body):
                return
            await self._until(lambda: self._may_send > self._sent or self.ended)
            if self.ended:
                return
            piece = body[self._sent : min(self._sent + piece_bytes, self._may_send)]
            message = frames.pack(Kind.BODY, self.token, piece, server=self.server, seq=number)
            await self._bus.publish(self.inbox, message)
            self._sent += len(piece)
            self._next_piece = number + 1

    # -- what comes -------------------------------------------------------------------------------------

    def feed(self, frame: Envelope, now: float) -> None:
        """Take a message of the process that serves this; one of another process is none of ours."""
        if self.ended or not self._is_of_server(frame.server):
            return
        self.hearing.heard(now)
        try:
            if frame.kind is Kind.GRANT:
                self._may_send = max(self._may_send, frames.read_total(frame.rest))
                self._wake.set()
            elif frame.seq == self._expected:
                self._expected += 1
                self._take(frame)
            elif frame.seq > self._expected:
                self._lose_some()
        except AgentError as error:
            self.fail(error)

    def alive(self, sign: Sign, server: bytes, now: float) -> None:
        """The other side says how far it is: whether the last of what it sent is missing here."""
        if self.ended or not self._is_of_server(server):
            return
        self.hearing.heard(now)
        self._may_send = max(self._may_send, sign.granted)
        if sign.seq > self._expected:
            self._lose_some()
        self._wake.set()

    def _is_of_server(self, server: bytes) -> bool:
        if self.server == frames.NOBODY:
            self.server = server
        return self.server == server

    def _lose_some(self) -> None:
        self.fail(LinkLost("Part of the answer was lost between the server processes."))

    def _take(self, frame: Envelope) -> None:
        size = len(frame.rest)
        if frame.kind is Kind.ITEMS:
            self._put(frames.read_items(frame.rest), size)
        elif frame.kind is Kind.PART:
            self._take_piece(*frames.read_part(frame.rest), size)
        elif frame.kind is Kind.FINAL:
            self._finish(bytes(frame.rest))
        elif frame.kind is Kind.ERROR:
            self.over_there = True
            self.fail(self._types.decode(frame.rest))

    def _take_piece(self, whole: Whole, total: int, piece: memoryview, size: int) -> None:
        if self._joined is None:
            if total > self._settings.max_joined_bytes:
                raise TooLarge(f"{total} bytes are more than an answer of another server process may have.")
            self._joined = _Joined(whole, total)
        self._joined.add(whole, total, piece)
        self._hold(len(piece))
        # The server's want, not the other side's fault.
        self._budget.check()
        # It cannot be read before it is whole; yet a reader that stopped must not make all of it come.
        if self._items:
            self._deferred += size
        else:
            self._give_back(size)
        if self._joined.missing:
            return
        text, self._joined = bytes(self._joined.text), None
        self._hold(-len(text))
        if whole is Whole.ITEM:
            self._put([text], 0)
        else:
            self._finish(text)

    def _put(self, texts: list[bytes], cost: int) -> None:
        self._items.append((texts, cost))
        self._hold(sum(map(len, texts)))
        self._wake.set()

    def _finish(self, text: bytes) -> None:
        self.over_there = True
        self._result = text
        self._hold(len(text))
        self._wake.set()

    def _hold(self, size: int) -> None:
        self._held += size
        self._budget.change(size)

    def _give_back(self, size: int) -> None:
        self.granted += size
        if self.granted - self._announced >= self._settings.window_bytes // _GRANT_SHARE and not self.ended:
            self._announced = self.granted
            self._post(
                self.inbox,
                frames.pack(Kind.CREDIT, self.token, frames.total(self.granted), server=self.server),
            )

    # -- ends -------------------------------------------------------------------------------------------

    def fail(self, error: AgentError) -> None:
        """End it with an error; what waits can still be read."""
        if not self.ended:
            self._error = error
            self._wake.set()

    def unreachable(self) -> None:
        """The bus says that nobody listens there."""
        if self.server == frames.NOBODY:
            self.over_there = True
            self.fail(NoResponders("No server process answers there."))
        else:
            self.fail(LinkLost("The server process that answered has ended."))

    def died(self) -> None:
        """The bus says that nobody listens any more where the request was taken."""
        # Who takes no more requests answers those that it has, and the answer may be on its way: the next
        # sign decides. One that said something meanwhile is asked itself, and no longer there.
        if self._unserved and self.server == frames.NOBODY:
            self.fail(LinkLost("The server process that was asked has ended."))
        self._unserved = True

    def bus_lost(self) -> None:
        """The bus is away, and may have lost anything."""
        if self.server == frames.NOBODY:
            self.fail(lost())
        else:
            self.fail(LinkLost("The connection between the server processes was lost."))

    def silent(self) -> None:
        """Nothing was heard of the other side for too long."""
        self.fail(LinkLost(f"The other server process said nothing for {self._settings.silence_s:g} s."))

    def release(self) -> None:
        """Hold nothing any more."""
        self._items.clear()
        self._joined = None
        self._hold(-self._held)

    # -- reading ----------------------------------------------------------------------------------------

    async def batch(self, timeout_s: float) -> list[bytes]:
        """Return the next items; an empty list when the final is there.

        Raises:
            DeadlineExceeded: nothing came for ``timeout_s`` seconds.
            AgentError: what the other side answered, or LinkLost.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._until(lambda: bool(self._items) or self.ended)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"Another server process brought nothing within {timeout_s:g} s.", waited_for=self.subject
            ) from error
        if not self._items:
            self.outcome()
            return []
        texts, cost = self._items.popleft()
        self._hold(-sum(map(len, texts)))
        if not self._items:
            cost += self._deferred
            self._deferred = 0
        self._give_back(cost)
        return texts

    async def final(self) -> bytes:
        """Return the final of a request that streams nothing. Raises as ``batch``."""
        await self._until(lambda: bool(self._items) or self.ended)
        if self._items:
            raise ProtocolError("Another server process streamed items where none belong.")
        return self.outcome()

    def outcome(self) -> bytes:
        """Return the final of one that has ended. Raises the error it ended with."""
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise RuntimeError("the exchange has not ended")
        return self._result

    async def _until(self, ready: Callable[[], bool]) -> None:
        while not ready():
            self._wake.clear()
            await self._wake.wait()


class RemoteStream:
    """Items of a stream of another process and its final, for one reader.

    Args:
        call: where they come from.
        silence_s: how long nothing may come.
    """

    def __init__(self, call: RemoteCall, silence_s: float) -> None:
        self._call = call
        self._silence_s = silence_s

    async def __aiter__(self) -> AsyncIterator[list[bytes]]:
        """Items that came together, until the final is there. Raises as ``RemoteCall.batch``."""
        while batch := await self._call.batch(self._silence_s):
            yield batch

    @property
    def result_text(self) -> bytes:
        """The final, once the items have ended. Raises what it ended with."""
        return self._call.outcome()

    def end(self, error: AgentError) -> None:
        """Have the reader raise this."""
        self._call.fail(error)


class _Joined:
    """Pieces of one text."""

    def __init__(self, whole: Whole, total: int) -> None:
        self._whole = whole
        self._total = total
        self.text = bytearray()

    def add(self, whole: Whole, total: int, piece: memoryview) -> None:
        if (whole, total) != (self._whole, self._total) or len(self.text) + len(piece) > total:
            raise ProtocolError("The pieces of an answer do not belong together.")
        self.text += piece

    @property
    def missing(self) -> int:
        """Bytes that have not come yet."""
        return self._total - len(self.text)
