"""How many bytes may be on their way, so that what is sent next arrives soon. Pure; time is passed in.

Neither the kernel nor credit knows how long bytes wait: a proxy between may take all that credit allows in a
moment and carry it for 20 s. So the sender measures. A mark (a WebSocket's ping) goes right behind data; its
answer says that the data has arrived, and how long that took. The least that a mark ever took is the way
itself, what is above it is a queue. Marks are few, and one at a time.
"""

from __future__ import annotations

import math
from typing import Final

from obt_agent.protocol.limits import (
    INLINE_RESULT_BYTES,
    MAX_DATA_FRAME_BYTES,
    MAX_SEND_WINDOW_BYTES,
    MIN_DATA_FRAME_BYTES,
    MIN_SEND_WINDOW_BYTES,
    QUEUE_TARGET_S,
    SEND_WINDOW_BYTES,
)
from obt_agent.protocol.rates import TokenBucket

MARKS_PER_S: Final = 5.0
"""On average; twice as many at once, so that the window of a fast link is wide after a few round trips.
Servers may take a flood of pings for an attack: OBT's own allows ten a second."""
_FRAMES: Final = 4
"""Of the largest size in a window: with more of them a link is shared more finely, and carries more heads."""


class SendWindow:
    """The bytes that were sent and are not known to have arrived, and how many they may be.

    Args:
        now_s: monotonic seconds.
        least_s: how long the way takes at least, where no mark can be sent before everything else.
    """

    __slots__ = ("_arrived", "_least_s", "_mark", "_marks", "_queue", "_sent", "_unlimited", "size")

    def __init__(self, now_s: float, *, least_s: float = math.inf) -> None:
        # Moderate, for the first bytes go out before anything was measured: two seconds' worth at 8 KiB/s.
        self.size = SEND_WINDOW_BYTES
        # Bytes since the beginning, and those of them that the last answered mark was sent behind.
        self._sent = 0
        self._arrived = 0
        # Of all marks: how long one takes where nothing waits before it.
        self._least_s = least_s
        # The mark on its way: when it went, how much had been sent before, and received.
        self._mark: tuple[float, int, int] | None = None
        # Whether one found a queue, and the window has not grown since.
        self._queue = False
        self._marks = TokenBucket(MARKS_PER_S, 2 * MARKS_PER_S, now_s)
        # Set for good where the other side answers no mark: nothing can be measured then.
        self._unlimited = False

    @property
    def open(self) -> bool:
        """Whether data may go now; one frame may overdraw."""
        return self._unlimited or self._sent - self._arrived < self.size

    @property
    def frame_bytes(self) -> int:
        """Most bytes for the next frame."""
        return max(MIN_DATA_FRAME_BYTES, min(self.size // _FRAMES, MAX_DATA_FRAME_BYTES))

    @property
    def piece_bytes(self) -> int:
        """Most bytes of what cannot be cut later: 24 KiB; on a slow link, half of what may be on its way."""
        return INLINE_RESULT_BYTES if self.size >= SEND_WINDOW_BYTES else self.size // 2

    def sent(self, size: int) -> None:
        """So many bytes went out, control among them: all of them queue."""
        self._sent += size

    def take_mark(self, now_s: float, received_bytes: int) -> float | None:
        """Return 0.0 where a mark is to be sent now, the seconds until then, or None where none is needed.

        The first one is needed at once: it finds no queue, and so measures the way alone. Where none is, each
        later one goes behind so much that its answer says whether more may be on its way: marks are few, and
        behind less the window of a link that is never full would stay as it is until they are used up.
        """
        enough = self.size // (_FRAMES if self._queue else 2)
        few = self._sent - self._arrived < enough and self._least_s < math.inf
        if self._mark is not None or self._unlimited or few:
            return None
        wait_s = self._marks.take(now_s)
        if not wait_s:
            self._mark = now_s, self._sent, received_bytes
        return wait_s

    def arrived(self, now_s: float, received_bytes: int) -> None:
        """The mark was answered: what was sent before it has arrived."""
        if self._mark is None:
            return
        (sent_s, sent, received), self._mark = self._mark, None
        took_s, moved, self._arrived = now_s - sent_s, sent - self._arrived, sent
        self._least_s = min(self._least_s, took_s)
        queue_s = took_s - self._least_s
        self._queue = self._queue or queue_s > QUEUE_TARGET_S / 2
        if queue_s <= QUEUE_TARGET_S / 2:
            # Where little was sent the delay says nothing of more.
            if moved >= self.size // 2:
                self.size = min(2 * self.size, MAX_SEND_WINDOW_BYTES)
                self._queue = False
        elif queue_s > QUEUE_TARGET_S and received_bytes - received <= max(moved, MIN_SEND_WINDOW_BYTES):
            # (An answer that came behind more than was sent has waited in the other direction's queue.)
            self.size = max(int(moved / took_s * (self._least_s + QUEUE_TARGET_S)), MIN_SEND_WINDOW_BYTES)

    def unanswered_for(self, now_s: float) -> float:
        """Seconds that the mark has been on its way; 0 where none is."""
        return 0.0 if self._mark is None else now_s - self._mark[0]

    def give_up(self) -> None:
        """The other side answers no mark, against RFC 6455: bound nothing any more."""
        self._unlimited, self._mark, self.size = True, None, MAX_SEND_WINDOW_BYTES
