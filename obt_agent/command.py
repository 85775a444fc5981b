"""What a handler is, and what it is given. Handlers see a ``CommandContext``, never a socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec

from obt_agent.protocol.envelope import RequestId
from obt_agent.protocol.methods import Method
from obt_agent.session import StreamSink

CancelState = Literal["cancelling", "answered", "unknown"]


class CommandContext(Protocol):
    """What a handler knows of the request that it answers."""

    @property
    def request_id(self) -> RequestId:
        """The server's id of the request."""

    @property
    def params(self) -> msgspec.Raw:
        """The parameters as they came, for commands that pass them on to Ollama."""

    @property
    def stream(self) -> StreamSink:
        """Where items of a streamed command go."""

    def blob(self, name: str) -> bytes:
        """The bytes that the server put under this name on this session.

        Raises:
            InvalidParams: there is no such blob, it is not whole yet, or its time is over.
            Busy: other requests hold what may wait in this process.
        """

    def cancel_request(self, request_id: RequestId) -> CancelState:
        """Cancel another request of the same session; return what became of it."""

    def hold(self, size: int) -> None:
        """Count ``size`` bytes that the handler keeps in memory until it is done: a body, a whole answer.

        Raises:
            Busy: other requests hold what may wait in this process.
            TooLarge: not even alone would it fit.
        """

    def series_interval(self, interval_ms: int) -> None:
        """Say the effective interval of a live series: its final repeats it, also when it is cancelled."""


Run = Callable[[Any, CommandContext], Awaitable[msgspec.Struct | msgspec.Raw]]
"""Takes parameters, of the type in the method's row, and the context; returns the final result."""


@dataclass(frozen=True, slots=True)
class Command:
    """A method of the protocol and the coroutine that does it."""

    method: Method
    run: Run
