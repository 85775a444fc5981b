"""What the dispatcher needs of a session. The link's session is one."""

from __future__ import annotations

from typing import Protocol

import msgspec

from obt_agent.peer import StreamSink
from obt_agent.protocol.envelope import RequestId
from obt_agent.protocol.errors import WireError


class Session(Protocol):
    """One admitted session, as commands come from it and answers go to it."""

    @property
    def session(self) -> int:
        """The server's number of this admission."""

    def respond(self, id: RequestId, result: msgspec.Struct | msgspec.Raw) -> None:
        """Answer a request; large results travel in pieces. Does nothing once the session has ended."""

    def respond_error(self, id: RequestId, error: WireError) -> None:
        """Answer a request with an error."""

    def open_stream(self, id: RequestId, *, series: bool = False) -> StreamSink:
        """The stream of a request in flight."""
