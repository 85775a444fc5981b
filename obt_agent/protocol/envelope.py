"""JSON-RPC 2.0 envelopes: what one text frame holds. Pure; ``obt_agent.protocol.codec`` checks and parses."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from obt_agent.protocol import limits
from obt_agent.protocol.errors import WireError

RequestId = (
    Annotated[int, Meta(ge=0, le=limits.MAX_ID)]
    | Annotated[str, Meta(min_length=1, max_length=limits.MAX_ID_CHARS)]
)
"""Integer 0 … 2^53−1, or string of 1 to 64 ASCII characters; ``1`` and ``"1"`` differ."""


class Request(msgspec.Struct, frozen=True):
    """A request, answered once. ``params`` may be left out, which is ``{}``."""

    id: RequestId
    method: str
    params: msgspec.Raw


class Notification(msgspec.Struct, frozen=True):
    """A notification: it has no id, and no answer. ``params`` may be left out, which is ``{}``."""

    method: str
    params: msgspec.Raw


class Response(msgspec.Struct, frozen=True):
    """A successful answer. ``id`` is that of the request."""

    id: RequestId
    result: msgspec.Raw


class ErrorResponse(msgspec.Struct, frozen=True):
    """A failed answer; ``id`` is null when the request's id could not be read."""

    id: RequestId | None
    error: WireError


Message = Request | Notification | Response | ErrorResponse
