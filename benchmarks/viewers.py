"""Readers of the server's events, as many as a machine can hold."""

from __future__ import annotations

import asyncio
import re
import time


class Viewer(asyncio.Protocol):
    """A reader of ``GET /events``. With an agent's id, it notes when numbered heartbeats of it arrive."""

    def __init__(self, token: str, agent_id: str = "") -> None:
        self.received = 0
        self.arrived: dict[int, float] = {}
        self._token = token
        self._agent = agent_id.encode()
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        assert isinstance(transport, asyncio.Transport)
        head = (
            f"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self._token}\r\n\r\n"
        )
        transport.write(head.encode())

    def data_received(self, data: bytes) -> None:
        """Count, and look for the one agent's heartbeats."""
        self.received += len(data)
        if not self._agent:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            found = re.search(rb'"streams":([0-9]+)', line) if self._agent in line else None
            if found is not None:
                self.arrived.setdefault(int(found[1]), time.monotonic())


def itself(viewer: Viewer) -> Viewer:
    """Return what a protocol factory makes."""
    return viewer
