"""One admitted session, as everything above the wire uses it. The link implements it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

import msgspec

from obt_agent.protocol.envelope import RequestId
from obt_agent.protocol.errors import StreamEnd, WireError

T = TypeVar("T")


class StreamSink(Protocol):
    """Where a streamed command puts its items. Bounded by the stream's window: sending waits for credit."""

    async def send(self, arrivals: Iterable[tuple[int, Sequence[bytes]]]) -> int:
        """Queue chunks of Ollama's stream in order, as items; wait while the window is full.

        Those that arrived together come together, with the microseconds from the request to their arrival.
        The first item after a wait tells how long that was.

        Returns:
            Microseconds spent waiting for credit (0 when none): Ollama's deadlines stop meanwhile.

        Raises:
            LinkLost: the session ended.
            DeadlineExceeded: the server granted nothing for 60 s (``stalled``).
        """

    async def send_text(self, text: bytes, *, last: bool) -> None:
        """Queue a part of one large result: whole characters of UTF-8, one at least; ``last`` once.

        The request's result is then a ``LargeFinal``. Raises as ``send``.
        """

    async def send_latest(self, sample: bytes, *, t_us: int, n: int, missed: int) -> None:
        """Offer one sample of a live series; without credit the newest replaces older ones."""

    async def wait_writable(self) -> int:
        """Wait until the window has room; return the microseconds waited. Raises as ``send``."""

    @property
    def end(self) -> StreamEnd:
        """How far the stream has come."""


class Session(Protocol):
    """One admitted session: what the agent sends of its own accord, and its answers to the server's requests.

    Sending raises ``LinkLost`` once the session has ended; answering does nothing then.
    """

    @property
    def number(self) -> int:
        """The server's number of this admission; it grows with each."""

    @property
    def alive(self) -> bool:
        """Whether frames can still be sent."""

    @property
    def piece_bytes(self) -> int:
        """Most bytes of a bulk request that others should wait behind; it follows the link's rate."""

    async def request(
        self, method: str, params: msgspec.Struct, result: type[T], *, timeout_s: float, bulk: bool = False
    ) -> T:
        """Send a request and wait for its answer.

        ``bulk`` requests (syncs, job parts, finals of jobs) wait for link credit and take their fair turn;
        others are control and go at once.

        Raises:
            LinkLost, DeadlineExceeded, or the error that the server answered with.
        """

    def notify(self, method: str, params: msgspec.Struct, *, droppable: bool = False) -> bool:
        """Send a control notification; a droppable one is left out when the link is busy (returns False)."""

    def respond(self, id: RequestId, result: msgspec.Struct | msgspec.Raw) -> None:
        """Answer a request, once; large results travel in pieces."""

    def respond_error(self, id: RequestId, error: WireError) -> None:
        """Answer a request with an error, once."""

    def open_stream(self, id: RequestId, *, series: bool = False) -> StreamSink:
        """Return the stream of a request in flight, opened at its first use."""
