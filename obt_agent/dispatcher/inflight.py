"""The requests of one session: those in flight, and the ids of the last ones answered."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from obt_agent.command import CancelState, Command
from obt_agent.dispatcher.blobs import Blobs
from obt_agent.errors import AgentError
from obt_agent.protocol import limits
from obt_agent.protocol.byte_budget import ByteBudget, Reservation
from obt_agent.protocol.envelope import Request, RequestId
from obt_agent.protocol.errors import StreamEnd
from obt_agent.session import Session, StreamSink


class InFlight:
    """One command in flight; also the ``CommandContext`` that its handler sees.

    ``cause`` is why it was stopped from outside: the error that answers it, whatever its handler then does.
    """

    def __init__(
        self,
        command: Command,
        request: Request,
        session: Session,
        requests: Requests,
        budget: ByteBudget,
    ) -> None:
        self.command = command
        self.request_id = request.id
        self.params = request.params
        self.origin = session
        # Of a live series, as it was granted.
        self.interval_ms: int | None = None
        self.cause: AgentError | None = None
        self.task: asyncio.Task[Any] | None = None
        # What the handler holds for Ollama or of its answer, until its task has ended.
        self.held = Reservation(budget)
        # The policy's deadline, and that of stopping.
        self.timers: list[asyncio.TimerHandle] = []
        self._requests = requests
        self._stream: StreamSink | None = None

    @property
    def stream(self) -> StreamSink:
        """The request's stream, opened at its first use."""
        if self._stream is None:
            self._stream = self.origin.open_stream(
                self.request_id, series=self.command.method.shape == "series"
            )
        return self._stream

    @property
    def stream_end(self) -> StreamEnd | None:
        """How far the stream has come; None when there is none."""
        return None if self._stream is None else self._stream.end

    def blob(self, name: str) -> bytes:
        """The bytes of a blob of the session."""
        found = self._requests.blobs.get(name)
        # As base64, for as long as Ollama may read it. Counted before the copy: tasks that fail in one turn
        # of the loop keep what they hold until the turn's end, and 64 times 16 MiB is a gigabyte.
        self.hold(len(found) * 4 // 3)
        return bytes(found)

    def cancel_request(self, request_id: RequestId) -> CancelState:
        """Cancel another request of the session."""
        return self._requests.cancel_request(request_id)

    def hold(self, size: int) -> None:
        """Count bytes that the handler keeps in memory."""
        self.held.grow(size)

    def series_interval(self, interval_ms: int) -> None:
        """Keep the effective interval for the final."""
        self.interval_ms = interval_ms

    def stop(self, cause: AgentError) -> None:
        """Stop the task; the first cause stands."""
        if self.cause is None:
            self.cause = cause
            if self.task is not None:
                self.task.cancel(cause.kind)

    def drop_timers(self) -> None:
        """Forget every deadline."""
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()


class Requests:
    """In flight and answered requests of one session.

    Args:
        blobs: what the server put on this session.
        stop: ends one request with ``cancelled``.
    """

    def __init__(self, blobs: Blobs, stop: Callable[[InFlight], None]) -> None:
        self.blobs = blobs
        self._stop = stop
        self._live: dict[RequestId, InFlight] = {}
        # The last ids that were answered, oldest first: ``cancel`` tells them from unknown ones.
        self._answered: OrderedDict[RequestId, None] = OrderedDict()
        # Kinds and policy keys whose refusal is in the log already.
        self.logged_refusals: set[str] = set()
        # Drops blobs when their time is over.
        self.sweep: asyncio.TimerHandle | None = None

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._live

    def __iter__(self) -> Iterator[InFlight]:
        return iter(list(self._live.values()))

    def add(self, entry: InFlight) -> None:
        """Take a request in."""
        previous = self._live.get(entry.request_id)
        if previous is not None:
            # The session answered it for want of credit and its handler has not ended yet; the server may use
            # the id anew. Forgotten here, the handler would outlive the session.
            self._stop(previous)
        self._live[entry.request_id] = entry
        self._answered.pop(entry.request_id, None)

    def settle(self, entry: InFlight) -> bool:
        """Move a request to the answered ones; False when it was there already."""
        if self._live.get(entry.request_id) is not entry:
            return False
        del self._live[entry.request_id]
        self.remember(entry.request_id)
        return True

    def remember(self, request_id: RequestId) -> None:
        """Note an answered id; the last 1,024 are kept."""
        self._answered[request_id] = None
        if len(self._answered) > limits.REMEMBERED_IDS:
            self._answered.popitem(last=False)

    def cancel_request(self, request_id: RequestId) -> CancelState:
        """Cancel a request in flight, or say that there is none."""
        entry = self._live.get(request_id)
        if entry is not None and not entry.command.method.exempt:
            self._stop(entry)
            return "cancelling"
        return "answered" if request_id in self._answered else "unknown"
