"""Images too large for a frame, put in pieces before the request that uses them. Time is passed in."""

from __future__ import annotations

import binascii
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from obt_agent.errors import InvalidParams, TooLarge
from obt_agent.protocol import limits
from obt_agent.protocol.byte_budget import ByteBudget
from obt_agent.protocol.streams import BlobPut, BlobPutResult

MAX_BLOBS: Final = 256


@dataclass(slots=True)
class _Blob:
    """Bytes so far, whether they are all, and when they go (monotonic seconds)."""

    data: bytearray = field(default_factory=bytearray)
    whole: bool = False
    expires: float = 0.0


class Blobs:
    """The blobs of one session: at most 16 MiB of all, each kept 60 s after its last piece.

    Args:
        clock: monotonic seconds.
        budget: what may wait in the process.
        max_bytes: most bytes of all.
        lifetime_s: how long a blob stays after its last piece.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        budget: ByteBudget,
        *,
        max_bytes: int = limits.MAX_BLOB_BYTES_PER_SESSION,
        lifetime_s: float = limits.BLOB_LIFETIME_S,
    ) -> None:
        self._clock = clock
        self._budget = budget
        self._max = max_bytes
        self.lifetime_s = lifetime_s
        self._blobs: dict[str, _Blob] = {}

    @property
    def held_bytes(self) -> int:
        """Bytes of all blobs."""
        return sum(len(blob.data) for blob in self._blobs.values())

    def put(self, piece: BlobPut) -> BlobPutResult:
        """Add a piece; offset 0 starts the blob anew.

        Raises:
            InvalidParams: the piece is no base64, leaves a hole, or follows the last one.
            TooLarge: the session would hold too much; what it held stays.
            Busy: the process would.
        """
        self.expire()
        data = _decoded(piece.data)
        held = self._blobs.get(piece.blob)
        # Anew at offset 0, in a fresh object: the old bytes stay until the new piece is known to fit.
        blob = _Blob() if held is None or piece.offset == 0 else held
        if piece.offset != len(blob.data) or blob.whole:
            raise InvalidParams(
                f"params.offset: blob {piece.blob!r} goes on at {len(blob.data)}, or anew at 0.",
                field="params.offset",
            )
        freed = len(held.data) if held is not None and blob is not held else 0
        self._check_room(piece.blob, len(data) - freed)
        self._budget.take(len(data))
        self._budget.give_back(freed)
        blob.data += data
        blob.whole = piece.last
        blob.expires = self._clock() + self.lifetime_s
        self._blobs[piece.blob] = blob
        return BlobPutResult(blob=piece.blob, bytes=len(blob.data))

    def _check_room(self, name: str, growth: int) -> None:
        many = name not in self._blobs and len(self._blobs) >= MAX_BLOBS
        if many or self.held_bytes + growth > self._max:
            raise TooLarge(
                f"A session holds at most {self._max} bytes in {MAX_BLOBS} blobs, {self.lifetime_s:g} s each."
            )

    def get(self, name: str) -> memoryview:
        """The whole blob; it stays until its time is over, so that several requests may use it.

        Raises:
            InvalidParams: there is no such blob, or its last piece has not come.
        """
        self.expire()
        blob = self._blobs.get(name)
        if blob is None or not blob.whole:
            raise InvalidParams(
                f"params.images: blob {name[:64]!r} is not here; put it, its last piece with last: true, "
                f"no more than {self.lifetime_s:g} s before the request.",
                field="params.images",
            )
        return memoryview(blob.data)

    def expire(self) -> None:
        """Drop what nobody used in time."""
        now = self._clock()
        for name in [name for name, blob in self._blobs.items() if blob.expires <= now]:
            self._budget.give_back(len(self._blobs.pop(name).data))

    def clear(self) -> None:
        """The session is over: drop all."""
        self._budget.give_back(self.held_bytes)
        self._blobs.clear()


def _decoded(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise InvalidParams("params.data: must be base64.", field="params.data") from error
