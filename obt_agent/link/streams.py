"""One request's stream: items in, frames out under credit (pure), and the sink that a handler writes to."""

from __future__ import annotations

import asyncio
import copy
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final, cast

import msgspec

from obt_agent.errors import AgentError
from obt_agent.protocol import codec
from obt_agent.protocol.credit import Balance
from obt_agent.protocol.envelope import RequestId
from obt_agent.protocol.errors import StreamEnd
from obt_agent.protocol.limits import (
    INLINE_RESULT_BYTES,
    MAX_STREAM_WINDOW_BYTES,
    MIN_DATA_FRAME_BYTES,
)
from obt_agent.protocol.streams import LargeFinal, SeriesItem, encode_items

MakeFinal = Callable[[StreamEnd], bytes]
"""Makes the frame of the final answer once it is known how far the stream came."""

_ENCODER: Final = msgspec.json.Encoder()
NOTHING_SENT: Final = StreamEnd(next_seq=0)
_WIDEST: Final = 4
_TOP_BITS, _CONTINUES = 0b1100_0000, 0b1000_0000
"""UTF-8 (RFC 3629): bytes of the widest character, and the mark of a byte that is not its first."""

_ITEMS_START: Final = b',"items":['
_ITEMS_END: Final = b"]}}"


class _Text:
    """A large item or result, sent in pieces of its text; or one that still comes, up to here.

    ``last``: nothing of it follows.
    """

    __slots__ = ("data", "last", "position")

    def __init__(self, data: bytes, *, last: bool = True) -> None:
        self.data = data
        self.position = 0
        self.last = last

    @property
    def left(self) -> int:
        return len(self.data) - self.position


class OutgoingStream:
    """Items, texts in pieces and the final of one request, in order.

    Args:
        request_id: the server's id.
        credit_bytes: the stream's first balance, 4 MiB at most; also what may wait here before sending blocks
            (1 KiB at least, for a server that starts with less).
    """

    __slots__ = (
        "_blocked_since_s",
        "_head",
        "_queue",
        "_seen_seq",
        "balance",
        "dropped",
        "final",
        "granted_at_s",
        "latest",
        "next_seq",
        "request_id",
        "waiting_bytes",
        "window_bytes",
    )

    def __init__(self, request_id: RequestId, credit_bytes: int) -> None:
        self.request_id = request_id
        self.balance = Balance(credit_bytes)
        # What may wait here before a handler has to; as much as the server wanted under way, within a
        # bound of this side's own: a server may grant megabytes to each of its streams and read none.
        self.window_bytes = max(min(self.balance.bytes, MAX_STREAM_WINDOW_BYTES), MIN_DATA_FRAME_BYTES)
        self.waiting_bytes = 0
        # The ``seq`` of the next frame, and samples that were replaced before they could go.
        self.next_seq = 0
        self.dropped = 0
        # A live sample that waits: one place, so that a slow reader gets the newest.
        self.latest: bytes | None = None
        # The answer, when the handler is done; it goes after everything that waits here.
        self.final: MakeFinal | None = None
        # For the deadline of streams without credit: the last grant, since when it is blocked, and the
        # ``next_seq`` at the last check, by which a frame between two checks is noticed.
        self.granted_at_s = 0.0
        self._blocked_since_s: float | None = None
        self._seen_seq = 0
        self._queue: deque[bytes | _Text] = deque()
        # The same for every frame of the stream: encoded once, this is the path of every token.
        self._head = b'{"jsonrpc":"2.0","method":"stream.data","params":{"id":%b,"seq":' % _ENCODER.encode(
            request_id
        )

    @property
    def end(self) -> StreamEnd:
        """How far the stream has come."""
        return StreamEnd(next_seq=self.next_seq, dropped=self.dropped)

    @property
    def empty(self) -> bool:
        """Whether nothing waits (the final aside)."""
        return not self._queue and self.latest is None

    @property
    def has_room(self) -> bool:
        """Whether more may be queued without growing over the window."""
        return self.waiting_bytes < self.window_bytes and self.latest is None

    def append(self, items: Sequence[bytes]) -> None:
        """Queue items (JSON) in order; one over 24 KiB goes in pieces."""
        self.waiting_bytes += sum(map(len, items))
        # All together where none is large: this is the path of every token.
        if max(map(len, items), default=0) <= INLINE_RESULT_BYTES:
            self._queue.extend(items)
        else:
            self._queue.extend(item if len(item) <= INLINE_RESULT_BYTES else _Text(item) for item in items)

    def offer(self, encoded_item: bytes) -> None:
        """Put a live sample (JSON) in the place of one that still waits."""
        if self.latest is not None:
            self.waiting_bytes -= len(self.latest)
        self.latest = encoded_item
        self.waiting_bytes += len(encoded_item)

    def append_result(self, text: bytes) -> str:
        """Queue a large result's text; return its sha256 in hexadecimal."""
        self.append_text(text, last=True)
        return hashlib.sha256(text).hexdigest()

    def append_text(self, text: bytes, *, last: bool) -> None:
        """Queue some whole characters of a large result (one at least)."""
        self.waiting_bytes += len(text)
        self._queue.append(_Text(text, last=last))

    def stalled_for(self, now_s: float, *, link_positive: bool) -> float:
        """Seconds that something has waited here for want of credit, without a frame or a grant.

        To be called regularly: what happened since the last call counts.
        """
        moved, self._seen_seq = self.next_seq != self._seen_seq, self.next_seq
        if moved or self.empty or (self.balance.positive and link_positive):
            self._blocked_since_s = None
            return 0.0
        if self._blocked_since_s is None:
            self._blocked_since_s = now_s
        return now_s - max(self._blocked_since_s, self.granted_at_s)

    def discard(self) -> None:
        """Drop what waits."""
        self._queue.clear()
        self.latest = None
        self.final = None
        self.waiting_bytes = 0

    def cut(self, limit_bytes: int) -> bytes:
        """The next frame, of at most ``limit_bytes`` (1 KiB or more). Not to be called when empty."""
        head = b"%b%d" % (self._head, self.next_seq)
        self.next_seq += 1
        room = limit_bytes - len(head) - len(_ITEMS_START) - len(_ITEMS_END)
        first = self._first(room)
        if isinstance(first, _Text):
            return self._cut_text(first, head, limit_bytes)
        return b"%b%b%b%b" % (head, _ITEMS_START, b",".join(self._cut_items(room)), _ITEMS_END)

    def _first(self, room: int) -> bytes | _Text:
        """What goes next; an item that alone does not fit in a frame becomes a text in pieces."""
        if not self._queue and self.latest is not None:
            self._queue.append(self.latest)
            self.latest = None
        first = self._queue[0]
        if isinstance(first, bytes) and len(first) > room:
            first = self._queue[0] = _Text(first)
        return first

    def _cut_items(self, room: int) -> list[bytes]:
        """The items that go next, the first of which fits; the room counts a comma between two."""
        queue = self._queue
        # As many as fit if they are all of the mean size: measured and taken at once, not one by one.
        taken = list(islice(queue, 1 + room * len(queue) // max(self.waiting_bytes, 1)))
        kinds = list(map(type, taken))
        # A text ends the frame.
        end = kinds.index(_Text) if _Text in kinds else len(taken)
        items = cast("list[bytes]", taken[:end])
        size = sum(map(len, items)) + len(items) - 1
        while size > room:
            size -= len(items.pop()) + 1
        for _ in items:
            queue.popleft()
        self.waiting_bytes -= size - len(items) + 1
        return items

    def _cut_text(self, text: _Text, head: bytes, limit_bytes: int) -> bytes:
        piece, encoded = _piece(text, limit_bytes - len(head) - 32)
        text.position += piece
        self.waiting_bytes -= piece
        if not text.left:
            self._queue.popleft()
        more = text.left > 0 or not text.last
        return b'%b,"part":%b%b}}' % (head, encoded, b',"more":true' if more else b"")


def _piece(text: _Text, room: int) -> tuple[int, bytes]:
    """The longest piece of whole characters whose JSON string fits in ``room`` (at least one character)."""
    start = text.position
    length = min(text.left, max(room - 2, _WIDEST))
    while True:
        length = _whole_characters(text.data, start, length)
        encoded = _ENCODER.encode(text.data[start : start + length].decode())
        if len(encoded) <= room or length <= _WIDEST:
            return length, encoded
        length = max(_WIDEST, length * room // len(encoded) - _WIDEST)


def _whole_characters(data: bytes, start: int, length: int) -> int:
    """The largest length up to ``length`` (a character or more) that ends between characters."""
    end = start + length
    while end < len(data) and data[end] & _TOP_BITS == _CONTINUES:
        end -= 1
    return end - start


def result_frame(request_id: RequestId, result: msgspec.Struct | msgspec.Raw) -> MakeFinal:
    """The final of a request: a result's field ``stream`` is filled with how far its stream really came."""
    if isinstance(getattr(result, "stream", None), StreamEnd) and isinstance(result, msgspec.Struct):
        return lambda end: codec.encode_result(request_id, msgspec.structs.replace(result, stream=end))
    return lambda _end: codec.encode_result(request_id, result)


def large_final(request_id: RequestId, text_bytes: int, sha256: str) -> MakeFinal:
    """The final of a request whose result went before in pieces."""
    return lambda end: codec.encode_result(
        request_id, LargeFinal(bytes=text_bytes, sha256=sha256, stream=end)
    )


class LinkStreamSink:
    """Implements ``obt_agent.session.StreamSink``.

    Args:
        stream: the queue that items go to.
        queued: called after something was queued.
        series: whether it is a live series.
    """

    def __init__(
        self, stream: OutgoingStream, queued: Callable[[OutgoingStream], None], *, series: bool = False
    ) -> None:
        self.series = series
        self._stream = stream
        self._queued = queued
        self._loop = asyncio.get_running_loop()
        # Wakes a handler that waits for the window.
        self._room = asyncio.Event()
        # The first error stands; every later call raises it.
        self._error: AgentError | None = None
        # Waited since the last item: the next one carries it, so that a pause is not taken for Ollama's.
        self._paused_us = 0

    @property
    def end(self) -> StreamEnd:
        """How far the stream has come."""
        return self._stream.end

    async def send(self, arrivals: Iterable[tuple[int, Sequence[bytes]]]) -> int:
        """Queue chunks in order, then wait while the window is full; the microseconds waited."""
        self._check()
        for t_us, chunks in arrivals:
            self._stream.append(encode_items(t_us, chunks, self._paused_us))
            if chunks:
                self._paused_us = 0
        self._queued(self._stream)
        return await self._wait_for_room() if not self._stream.has_room else 0

    async def send_text(self, text: bytes, *, last: bool) -> None:
        """Queue a part of a large result, then wait while the window is full."""
        self._check()
        self._stream.append_text(text, last=last)
        self._queued(self._stream)
        await self.wait_writable()

    async def send_latest(self, sample: bytes, *, t_us: int, n: int, missed: int) -> None:
        """Offer one sample of a live series; it replaces one that still waits."""
        self._check()
        if self._stream.latest is not None:
            self._stream.dropped += 1
        item = SeriesItem(t_us=t_us, n=n, missed=missed + self._stream.dropped, sample=msgspec.Raw(sample))
        self._stream.offer(_ENCODER.encode(item))
        self._queued(self._stream)

    async def wait_writable(self) -> int:
        """Wait until the window has room; the microseconds waited."""
        self._check()
        return await self._wait_for_room() if not self._stream.has_room else 0

    async def _wait_for_room(self) -> int:
        started = self._loop.time()
        while not self._stream.has_room and self._error is None:
            self._room.clear()
            await self._room.wait()
        self._check()
        waited_us = int((self._loop.time() - started) * 1e6)
        self._paused_us += waited_us
        return waited_us

    def _check(self) -> None:
        if self._error is not None:
            raise copy.copy(self._error)  # each raising adds to its traceback

    # What the session calls.

    def room(self) -> None:
        """Something went out."""
        if self._stream.has_room:
            self._room.set()

    def fail(self, error: AgentError) -> None:
        """Nothing goes out any more: whoever waits or sends gets this error."""
        self._error = self._error or error
        self._room.set()
