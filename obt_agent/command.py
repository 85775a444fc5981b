"""What a handler is, and what it is given. Handlers see a ``CommandContext``, never a socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from obt_agent.peer import StreamSink
from obt_agent.protocol.envelope import RequestId

P = TypeVar("P")


class CommandContext(Protocol):
    """One command's surroundings."""

    @property
    def request_id(self) -> RequestId:
        """The server's id of the request."""

    @property
    def params(self) -> msgspec.Raw:
        """The parameters as they came, for commands that pass them on to Ollama."""

    @property
    def stream(self) -> StreamSink:
        """Where items of a streamed command go."""

    @property
    def session(self) -> int:
        """The session that the command came on."""


class Command(msgspec.Struct, Generic[P], frozen=True, kw_only=True):
    """A method and its coroutine: takes typed parameters and the context, gives the final result."""

    method: str
    params: type[P]
    run: Callable[[P, CommandContext], Awaitable[msgspec.Struct | msgspec.Raw]]
    shape: str = "request"


AnyCommand = Command[Any]
