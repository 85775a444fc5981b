"""One request of ours in flight, with whatever comes before its answer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import msgspec

from obt_agent.errors import AgentError, DeadlineExceeded, TooLarge
from obt_agent.protocol.assembly import StreamAssembler
from obt_agent.protocol.streams import StreamData
from obt_server.hub.window import ReceiveWindow

Grant = Callable[[int], None]
"""Send this many bytes of credit."""


class OutgoingRequest:
    """A request of ours: its items, in order, and its one final. The session feeds it, one reader empties it.

    Credit goes back as the reader takes items. Pieces of a long text cannot be taken before they are whole,
    so their credit goes back at once, but only while no whole item waits for the reader: what a stopped
    reader makes us hold stays within one window and one item in pieces.

    Args:
        request_id: ours, of this session.
        method: for the log and for deadlines' messages.
        window: the stream's credit.
        grant: sends credit of this stream.
        max_joined_bytes: the largest item, or result, in pieces.
    """

    def __init__(
        self, request_id: int, method: str, window: ReceiveWindow, grant: Grant, max_joined_bytes: int
    ) -> None:
        self.request_id = request_id
        self.method = method
        # nobody reads any more; what still comes costs credit and is dropped
        self.abandoned = False
        self._assembler = StreamAssembler(max_joined_bytes)
        self._window = window
        self._grant = grant
        # items as they came, each with the credit that goes back when it is read
        self._batches: deque[tuple[list[msgspec.Raw], int]] = deque()
        # bytes of the items that wait for the reader
        self._buffered = 0
        # credit of pieces that came while whole items waited: given back when those are read
        self._deferred = 0
        self._wake = asyncio.Event()
        self._result: msgspec.Raw | None = None
        self._error: AgentError | None = None

    @property
    def ended(self) -> bool:
        """Whether the final, or an error, has come."""
        return self._result is not None or self._error is not None

    @property
    def held_bytes(self) -> int:
        """What this request holds in memory."""
        result = 0 if self._result is None else len(bytes(self._result))
        return self._buffered + self._assembler.held_bytes + result

    def feed(self, data: StreamData, size: int) -> None:
        """Take one ``stream.data`` of ``size`` bytes.

        Raises:
            ProtocolError: a hole, a message that is neither items nor a piece, or credit ignored.
            TooLarge: a text in pieces is over the limit.
        """
        # Whoever reads or not: a stream that was cancelled keeps within its credit, too.
        self._window.charge(size)
        items = self._assembler.feed(data)
        # No credit goes back: the agent has been told to stop, or has stopped.
        if self.abandoned or self.ended:
            return
        piece = data.part is not None
        if items:
            self._put(items, 0 if piece else size)
        elif not piece:
            self._give_back(size)
        if piece:
            self._take_piece(size)

    def _take_piece(self, size: int) -> None:
        if self._batches:
            self._deferred += size
        else:
            self._give_back(size)

    def _put(self, items: list[msgspec.Raw], cost: int) -> None:
        self._batches.append((items, cost))
        self._buffered += sum(len(bytes(item)) for item in items)
        self._wake.set()

    def _give_back(self, size: int) -> None:
        grant = self._window.consume(size)
        if grant and not self.ended and not self.abandoned:
            self._grant(grant)

    def finish(self, result: msgspec.Raw) -> None:
        """The final came.

        Raises:
            ProtocolError: its pieces are incomplete, or differ from its hash.
        """
        items, whole = self._assembler.finish(result)
        # A large item that nothing followed: its pieces got their credit back as they came.
        if items:
            self._put(items, 0)
        if not self.ended:
            self._result = whole
            self._wake.set()

    def fail(self, error: AgentError) -> None:
        """It ends with an error; what was buffered can still be read."""
        if not self.ended:
            self._error = error
            self._wake.set()

    def abandon(self) -> None:
        """Nobody reads any more: what is held is dropped, and what still comes is ignored."""
        self.abandoned = True
        self._batches.clear()
        self._buffered = 0

    async def batch(self, timeout_s: float) -> list[msgspec.Raw]:
        """The next items; an empty list when the result is there.

        Raises:
            DeadlineExceeded: nothing came for ``timeout_s``.
            AgentError: the error that the agent answered with, or ``LinkLost``.
        """
        await self._wait_for(lambda: bool(self._batches) or self.ended, timeout_s)
        if self._batches:
            return self._take()
        if self._error is not None:
            raise self._error
        return []

    def _take(self) -> list[msgspec.Raw]:
        items, cost = self._batches.popleft()
        self._buffered -= sum(len(bytes(item)) for item in items)
        if not self._batches:
            cost += self._deferred
            self._deferred = 0
        self._give_back(cost)
        return items

    async def result(self, timeout_s: float) -> msgspec.Raw:
        """The final result of a request that streams nothing; items, should any come, are refused.

        Raises:
            DeadlineExceeded: it did not come within ``timeout_s``.
            AgentError: as ``batch``.
        """
        await self._wait_for(lambda: self.ended or bool(self._batches), timeout_s)
        if self._batches:
            raise TooLarge(f"The agent streamed items in answer to {self.method}, which has none.")
        return self.outcome()

    def outcome(self) -> msgspec.Raw:
        """The result of an request that has ended. Raises the error it ended with."""
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise RuntimeError("the request has not ended")
        return self._result

    async def _wait_for(self, ready: Callable[[], bool], timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not ready():
                    self._wake.clear()
                    await self._wake.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"The agent brought nothing for {self.method} within {timeout_s:g} s.", waited_for=self.method
            ) from error
