"""Ports for servers that listen later, or again."""

from __future__ import annotations

import random
import socket
from typing import Final

PORTS: Final = range(10_000, 32_000)
"""Below those that the system gives to connections (net.ipv4.ip_local_port_range): none takes it while nobody
listens there, not even the one that dials it, which else may reach itself."""

_held: list[socket.socket] = []


def free_port() -> int:
    """Return a port where nobody listens, and that no other test of this machine is given meanwhile."""
    while True:
        port = random.choice(PORTS)
        held = socket.socket(socket.AF_UNIX)
        try:
            # A name that lasts as long as this process.
            held.bind(f"\0obt-test-port-{port}")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            held.close()
            continue
        _held.append(held)
        return port
