"""What goes out next, and how much of it. Pure: no socket, no task.

Control goes at once. Everything else (streams, and bulk requests as one flow among them) waits for credit and
for its turn. A final follows its own stream's data and passes everybody else's.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from obt_agent.link.outgoing_stream import OutgoingStream
from obt_agent.protocol.credit import Balance
from obt_agent.protocol.envelope import RequestId
from obt_agent.protocol.fairness import FairRing, RateEstimator

_BULK: Final = b""
"""The flow of bulk requests; no request id is bytes."""


class SendScheduler:
    """Everything of one session that is not control.

    Args:
        stream_credit_bytes: first balance of each stream.
        link_credit_bytes: first balance of the link.
    """

    def __init__(self, stream_credit_bytes: int, link_credit_bytes: int) -> None:
        self.pace = RateEstimator()
        self.link = Balance(link_credit_bytes)
        self.streams: dict[RequestId, OutgoingStream] = {}
        self._stream_credit = stream_credit_bytes
        self._bulk: deque[bytes] = deque()
        self._ring: FairRing[RequestId | bytes] = FairRing()

    def open(self, request_id: RequestId) -> OutgoingStream:
        """The stream of a request, made when it has none."""
        stream = self.streams.get(request_id)
        if stream is None:
            stream = self.streams[request_id] = OutgoingStream(request_id, self._stream_credit)
        return stream

    def close(self, request_id: RequestId) -> OutgoingStream | None:
        """Forget a request's stream, with what waits in it."""
        stream = self.streams.pop(request_id, None)
        if stream is not None:
            stream.discard()
            self._ring.forget(request_id)
        return stream

    def queued(self, stream: OutgoingStream) -> None:
        """Something was put into a stream: it takes turns when it may send."""
        if not stream.empty and stream.balance.positive:
            self._ring.add(stream.request_id)

    def add_bulk(self, frame: bytes) -> None:
        """Queue a bulk request."""
        self._bulk.append(frame)
        self._ring.add(_BULK)

    def withdraw_bulk(self, frame: bytes) -> bool:
        """Take a bulk request back; False when it has gone out."""
        try:
            self._bulk.remove(frame)
        except ValueError:
            return False
        if not self._bulk:
            self._ring.remove(_BULK)
        return True

    @property
    def waiting(self) -> bool:
        """Whether anything waits, for its turn or for credit."""
        return bool(self._bulk) or any(not stream.empty for stream in self.streams.values())

    @property
    def ready(self) -> bool:
        """Whether a frame may go now."""
        return self.link.positive and bool(self._ring)

    def next_frame(self) -> tuple[bytes, OutgoingStream | None] | None:
        """The frame whose turn it is, and its stream (None for a bulk request)."""
        flow = self._ring.turn() if self.link.positive else None
        if flow is None:
            return None
        limit = self._ring.quantum_bytes = self.pace.frame_bytes
        if flow is _BULK:
            frame, stream, more = self._bulk.popleft(), None, bool(self._bulk)
        else:
            stream = self.streams[flow]  # type: ignore[index]  # every flow but _BULK is a request's id
            frame = stream.cut(limit)
            stream.balance.spend(len(frame))
            more = stream.balance.positive and not stream.empty
        self.link.spend(len(frame))
        self._ring.charge(flow, len(frame))
        if not more:
            self._ring.remove(flow)
        return frame, stream

    def drop_all(self) -> None:
        """The session is over."""
        for request_id in list(self.streams):
            self.close(request_id)
        self._bulk.clear()
