"""How a dial or a session ended, and what follows from it. Pure.

What follows is one of three: dial again (with ordinary delays and possibly a floor), at the longest delay,
or the slow schedule of refused credentials.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

from obt_agent.printable import printable
from obt_agent.protocol.limits import Close

SHOWN_CHARS: Final = 200
"""Of a text that the other side wrote."""


class NextDial(enum.Enum):
    """What to do after an ending."""

    REDIAL = "redial"
    MAX_BACKOFF = "max_backoff"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class DisconnectReason:
    """Why there is no session.

    ``kind`` is a stable word for logs and status; ``message`` is for a person: what happened and what to do;
    ``floor_s`` is what the server asked for (``Retry-After``, ``server.drain``); ``revoked`` that it said so.
    """

    kind: str
    message: str
    next: NextDial = NextDial.REDIAL
    floor_s: float = 0.0
    revoked: bool = False


class DialFailed(Exception):
    """The dial did not lead to an open WebSocket."""

    def __init__(self, ending: DisconnectReason) -> None:
        super().__init__(ending.message)
        self.ending = ending


def dial_failed(kind: str, message: str, next_: NextDial = NextDial.REDIAL) -> DialFailed:
    """A failed dial."""
    return DialFailed(DisconnectReason(kind, message, next_))


_STATUS: Final[dict[int, tuple[str, str, NextDial]]] = {
    401: ("refused_401", "The server refused the credential (HTTP 401).", NextDial.REFUSED),
    403: (
        "refused_403",
        "The server, or a proxy before it, refused the connection (HTTP 403).",
        NextDial.REFUSED,
    ),
    404: (
        "not_found",
        "The server has no agents' endpoint at this address (HTTP 404); check server.url.",
        NextDial.MAX_BACKOFF,
    ),
    421: (
        "misdirected",
        "The server does not go by this name (HTTP 421): see its --allowed-host and its proxy's Host header.",
        NextDial.MAX_BACKOFF,
    ),
    # Somebody has to change something before a dial can do better: no hurry.
    407: ("proxy_credentials", "The proxy asks for credentials (HTTP 407).", NextDial.MAX_BACKOFF),
    426: (
        "no_subprotocol",
        "No WebSocket (HTTP 426): a proxy does not pass Upgrade on, or the server does not speak obt.v1.",
        NextDial.MAX_BACKOFF,
    ),
    429: ("too_many", "The server asks to dial less often (HTTP 429).", NextDial.REDIAL),
    503: ("unavailable", "The server is not available now (HTTP 503).", NextDial.REDIAL),
}


_REDIRECTS: Final = range(300, 400)


def of_status(status: int, *, retry_after_s: float = 0.0, location: str = "") -> DisconnectReason:
    """What an HTTP answer other than 101 means. None says ``revoked``: any proxy can answer 401."""
    if status in _STATUS:
        kind, message, next_ = _STATUS[status]
        return DisconnectReason(kind, message, next_, floor_s=retry_after_s)
    if status in _REDIRECTS:
        where = f" to {location}" if location else ""
        message = (
            f"The server answered with a redirect{where} (HTTP {status}). Redirects are not followed, for "
            "they would carry the credential elsewhere; set server.url to the final address."
        )
        return DisconnectReason("redirect", message, NextDial.MAX_BACKOFF)
    return DisconnectReason("http_status", f"The server answered with HTTP {status}.", floor_s=retry_after_s)


def retry_after_s(value: str | None, now: datetime) -> float:
    """Return the seconds from ``now`` that a ``Retry-After`` header (RFC 9110, 10.2.3) asks for.

    0 for none, a wrong or a past one.
    """
    if value is None:
        return 0.0
    text = value.strip()
    # ``isdigit`` alone is true of "²" as well, which ``float`` does not read.
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # numbers that no date holds
        return 0.0
    # An HTTP date is in GMT; the parser leaves "-0000" without a zone.
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max((when - now).total_seconds(), 0.0)


_CLOSES: Final[dict[int, tuple[str, str, NextDial]]] = {
    1000: ("closed", "The server closed the link.", NextDial.REDIAL),
    1001: ("going_away", "The server is going away.", NextDial.REDIAL),
    1003: ("unsupported_data", "The link ended over a binary frame.", NextDial.REDIAL),
    1006: ("lost", "The connection broke.", NextDial.REDIAL),
    1009: ("too_big", "The link ended over a frame that was too large.", NextDial.REDIAL),
    Close.PROTOCOL_ERROR: (
        "protocol_error",
        "The link ended over a breach of the protocol.",
        NextDial.REDIAL,
    ),
    Close.CREDENTIAL_REFUSED: ("refused_4401", "The server refused the credential.", NextDial.REFUSED),
    Close.SILENT: ("silent_here", "The server heard nothing from this agent.", NextDial.REDIAL),
    Close.IDENTITY_IN_USE: (
        "identity_in_use",
        "Another process uses this agent's identity. Stop it, or give this agent a state folder of its own.",
        NextDial.MAX_BACKOFF,
    ),
    Close.NO_COMMON_VERSION: (
        "no_common_version",
        "Agent and server have no protocol version in common; one of them must be updated.",
        NextDial.MAX_BACKOFF,
    ),
    Close.TOO_MUCH: ("too_much", "Too much output waited for a reader.", NextDial.REDIAL),
    Close.DRAINING: ("draining", "The server is draining.", NextDial.REDIAL),
}


def from_close_code(code: int, reason: str, *, floor_s: float = 0.0) -> DisconnectReason:
    """What a close code means; ``reason`` is the close frame's."""
    kind, message, next_ = _CLOSES.get(
        code, ("closed_otherwise", f"The link was closed with code {code}.", NextDial.REDIAL)
    )
    shown = printable(reason, SHOWN_CHARS)
    return DisconnectReason(
        kind,
        f"{message} ({shown})" if shown else message,
        next_,
        floor_s=floor_s,
        # With this the process gives up for good, so that only the server's own close frame can say it.
        revoked=code == Close.CREDENTIAL_REFUSED and "revoked" in reason.lower(),
    )


def origin(location: str) -> str:
    """Scheme and host of a redirect: all of it that helps, and nothing that might be a secret."""
    try:
        parts = urlsplit(location)
        host = parts.hostname
    except ValueError:
        return ""
    return f"{parts.scheme}://{host}" if host and parts.scheme in {"http", "https", "ws", "wss"} else ""
