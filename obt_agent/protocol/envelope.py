"""JSON-RPC 2.0 envelopes: what one text frame holds. Pure; ``obt_agent.protocol.codec`` checks and parses."""

from __future__ import annotations

import msgspec

from obt_agent.protocol.errors import WireError

RequestId = int | str
"""Integer 0 … 2^53−1, or string of 1 to 64 ASCII characters; ``1`` and ``"1"`` differ."""


class Request(msgspec.Struct, frozen=True):
    """A request; ``params`` is still JSON (``{}`` when absent)."""

    id: RequestId
    method: str
    params: msgspec.Raw


class Notification(msgspec.Struct, frozen=True):
    """A notification; ``params`` is still JSON (``{}`` when absent)."""

    method: str
    params: msgspec.Raw


class Response(msgspec.Struct, frozen=True):
    """A successful answer; ``result`` is still JSON."""

    id: RequestId
    result: msgspec.Raw


class ErrorResponse(msgspec.Struct, frozen=True):
    """A failed answer; ``id`` is None when the request's id could not be read."""

    id: RequestId | None
    error: WireError


Message = Request | Notification | Response | ErrorResponse
