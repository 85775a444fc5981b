"""Whether a request comes from a page in a browser on this machine. Pure."""

from __future__ import annotations

import ipaddress
from typing import Final

from starlette.requests import HTTPConnection

from obt_server.auth.origin import LOOPBACK_NAMES, parse_authority

# What a reverse proxy adds: from there everybody's requests come by the loopback.
_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


def is_local_page(connection: HTTPConnection) -> bool:
    """Return whether it came by the loopback, for a name of the loopback, and through no proxy.

    ``Origin`` is the gate's to check: pages of other sites in the same browser are refused there.
    """
    client, host = connection.client, parse_authority(connection.headers.get("host", ""))
    # A site that lets its own name point here (DNS rebinding) sends that name.
    if client is None or host is None or host.host not in LOOPBACK_NAMES:
        return False
    if any(name in connection.headers for name in _FORWARDED):
        return False
    try:
        return ipaddress.ip_address(client.host).is_loopback
    except ValueError:
        return False
