"""The address of the bus between server processes, as people write it. Pure."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

_PORT: Final = 4222
_SCHEMES: Final = ("nats", "tls")


def bus_addresses(text: str) -> tuple[str, ...]:
    """Return each address with its port; none for an empty text. Call ``bus_problem`` first."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        parts = urlsplit(part)
        host = parts.hostname or ""
        found.append(f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{parts.port or _PORT}")
    return tuple(found)


def bus_problem(text: str) -> str | None:
    """Return what is wrong with an address, and what to write instead; None where nothing is.

    It never repeats user information.
    """
    for part in filter(None, (part.strip() for part in text.split(","))):
        # Before anything repeats it. Arguments are seen by every user of the machine, and settings are shown.
        if "@" in part:
            return (
                "user, password and token do not belong there: put them into a file that only its owner "
                "reads, and name that file in bus.credentials_file (--bus-credentials-file)"
            )
        try:
            parts = urlsplit(part)
            usable = parts.scheme in _SCHEMES and parts.hostname and parts.port != 0
        except ValueError:
            return f"{part!r} has a port that is none: write nats://HOST:{_PORT}"
        if not usable or parts.path.strip("/") or parts.query or parts.fragment:
            return (
                f"{part!r}: write nats://HOST:{_PORT} or tls://HOST:{_PORT}, several with commas between them"
            )
    return None
