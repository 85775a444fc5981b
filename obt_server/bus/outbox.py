"""Small messages of control that who sends them does not wait for."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

import structlog

from obt_server.bus.bus import Bus, BusUnavailable

log = structlog.get_logger(__name__)


class Outbox:
    """Sends what is posted, in order; while the bus is away it is dropped.

    Args:
        bus: carries it.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._waiting: deque[tuple[str, bytes, str | None]] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.create_task(self._send(), name="bus outbox")

    def post(self, subject: str, data: bytes, reply: str | None = None) -> None:
        """Send a message soon."""
        self._waiting.append((subject, data, reply))
        self._wake.set()

    async def _send(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._send_waiting()

    async def _send_waiting(self) -> None:
        while self._waiting:
            subject, data, reply = self._waiting.popleft()
            try:
                await self._bus.publish(subject, data, reply)
            except BusUnavailable:
                # Each that follows would wait, and fail as well.
                self._waiting.clear()
            except Exception:
                log.exception("bus.not_sent", subject=subject)

    async def close(self) -> None:
        """Send what waits, if the bus takes it, and end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._send_waiting()
