"""The opening handshake on a connected wire, and what each answer to it means."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from urllib.parse import urlsplit

from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidStatus, NegotiationError
from websockets.http11 import Response

from obt_agent.identity.secret import Secret
from obt_agent.link import tls
from obt_agent.link.bearer import bearer
from obt_agent.link.disconnect import DialFailed, DisconnectReason, NextDial, dial_failed, of_status
from obt_agent.link.retry_after import retry_after_s
from obt_agent.link.wire import Wire
from obt_agent.protocol.limits import SUBPROTOCOL


async def upgrade(wire: Wire, secret: Secret, *, user_agent: str, deadline_s: float) -> None:
    """Turn the connection into a WebSocket that speaks ``obt.v1``.

    Raises:
        DialFailed: the server answered otherwise, or not at all.
    """
    headers = {"Authorization": bearer(secret)}
    try:
        async with asyncio.timeout(deadline_s):
            await wire.handshake(headers, user_agent)
    except TimeoutError as error:
        raise dial_failed(
            "upgrade_timeout", f"The server took the connection and said nothing for {deadline_s:g} s."
        ) from error
    except InvalidStatus as error:
        raise DialFailed(_of_response(error.response)) from error
    except (InvalidHandshake, OSError, EOFError) as error:
        raise DialFailed(_of_failure(wire, error)) from error
    if wire.subprotocol != SUBPROTOCOL:
        raise dial_failed(
            "no_subprotocol", "The server opened a WebSocket that is not obt.v1.", NextDial.MAX_BACKOFF
        )


def _of_response(response: Response) -> DisconnectReason:
    return of_status(
        response.status_code,
        retry_after_s=retry_after_s(response.headers.get("Retry-After"), datetime.now(UTC)),
        location=_origin(response.headers.get("Location", "")),
    )


def _origin(location: str) -> str:
    """Scheme and host of a redirect: all of it that helps, and nothing that might be a secret."""
    try:
        parts = urlsplit(location)
        host = parts.hostname
    except ValueError:
        return ""
    return f"{parts.scheme}://{host}" if host and parts.scheme in {"http", "https", "ws", "wss"} else ""


def _of_failure(wire: Wire, error: Exception) -> DisconnectReason:
    broken = wire.connection_exc
    if isinstance(broken, ssl.SSLError):
        kind, message = tls.explain(broken, wire.protocol.uri.host)
        return DisconnectReason(kind, message)
    if isinstance(error, NegotiationError):
        return DisconnectReason(
            "no_subprotocol", f"The server's answer to the upgrade is wrong: {error}.", NextDial.MAX_BACKOFF
        )
    if isinstance(error, (InvalidMessage, OSError, EOFError)) and not wire.received_bytes:
        hint = (
            " If it wants a client certificate, set server.client_cert_file."
            if wire.below_tls is not None
            else ""
        )
        return DisconnectReason("upgrade_cut", f"The server ended the connection without an answer.{hint}")
    return DisconnectReason(
        "upgrade_garbage",
        "What answered is no WebSocket server: check host, port and path of server.url, and whether it is "
        "http:// or https://.",
    )
