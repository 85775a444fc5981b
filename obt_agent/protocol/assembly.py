"""The receiving side of a stream: order, holes, and texts that came in pieces. Pure."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from obt_agent.errors import ProtocolError, TooLarge
from obt_agent.protocol import codec
from obt_agent.protocol.streams import LargeFinal, StreamData

MAX_JOINED_BYTES: Final = 64 << 20
"""Most bytes of one text in pieces; an embedding of many inputs is the largest honest one."""


class StreamAssembler:
    """Turns ``stream.data`` messages of one stream into whole items.

    Args:
        max_joined_bytes: the largest text in pieces that is taken.
    """

    def __init__(self, max_joined_bytes: int = MAX_JOINED_BYTES) -> None:
        self.expected_seq = 0
        # Of a text whose last piece has not come.
        self._pieces: list[str] = []
        # UTF-8 bytes of those pieces, or of the joined text.
        self._held = 0
        # A whole text that is either a large item or the result: what comes next decides.
        self._joined: str | None = None
        self._max = max_joined_bytes

    @property
    def held_bytes(self) -> int:
        """Upper bound of UTF-8 bytes held of unfinished and unclaimed text."""
        return self._held

    def feed(self, data: StreamData) -> list[msgspec.Raw]:
        """Take the next message; give the items that are whole now (none for a piece of a text).

        A joined text stays here until ``finish`` claims it (the result), or the next message shows that it
        was a large item.

        Raises:
            ProtocolError: ``seq`` leaves a hole or repeats, or the message is neither items nor a piece.
            TooLarge: a text in pieces is over the limit.
        """
        if data.seq != self.expected_seq:
            raise ProtocolError(f"stream.data came with seq {data.seq}; {self.expected_seq} was expected.")
        self.expected_seq += 1
        before = self._claim_as_item()
        # With both, nobody could say which comes first; with neither, the stream would go on without a word.
        if (data.items is None) == (data.part is None):
            raise ProtocolError("stream.data must hold either items or part.")
        if data.items is not None:
            if self._pieces:
                raise ProtocolError("stream.data with items came between the pieces of a text.")
            return before + list(data.items)
        self._take_piece(data.part or "", more=data.more)
        return before

    def _claim_as_item(self) -> list[msgspec.Raw]:
        if self._joined is None:
            return []
        text, self._joined, self._held = self._joined, None, 0
        return [msgspec.Raw(text.encode())]

    def _take_piece(self, piece: str, *, more: bool) -> None:
        self._held += len(piece.encode())
        if self._held > self._max:
            raise TooLarge(f"A text in pieces is over {self._max} bytes.")
        self._pieces.append(piece)
        if not more:
            self._joined = "".join(self._pieces)
            self._pieces.clear()

    def finish(self, result: msgspec.Raw) -> tuple[list[msgspec.Raw], msgspec.Raw]:
        """Take the final result: the items still here, and the result itself, joined if it came in pieces.

        Raises:
            ProtocolError: pieces are missing, or size or sha256 differ from what the final says.
        """
        if self._pieces:
            raise ProtocolError("The final came before the last piece of a text.")
        if self._joined is None:
            return [], result
        large = _large_final(result)
        if large is None:
            return self._claim_as_item(), result
        text = self._joined.encode()
        if len(text) != large.bytes or hashlib.sha256(text).hexdigest() != large.sha256:
            raise ProtocolError("The joined text differs from the size or sha256 that the final gives.")
        self._joined, self._held = None, 0
        return [], msgspec.Raw(text)


def _large_final(result: msgspec.Raw) -> LargeFinal | None:
    try:
        return codec.convert(result, LargeFinal, where="result")
    except ProtocolError:
        return None
