"""Requests over a bus that only sends: one inbox for all answers, each found by its word in the subject."""

from __future__ import annotations

import asyncio
import secrets

from obt_agent.errors import DeadlineExceeded
from obt_server.bus.bus import RETRY_AFTER_MS, Bus, BusMessage, BusUnavailable, NoResponders


class RequestInbox:
    """The requests of one connection that wait for an answer.

    Args:
        bus: carries them.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        # Nobody who does not see our requests can answer them.
        self._prefix = f"_INBOX.{secrets.token_hex(16)}"
        self._waiting: dict[str, asyncio.Future[bytes]] = {}
        # the subscription, made once when the first request needs it
        self._listening: asyncio.Task[object] | None = None

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        """Send a request and return its answer. Raises as ``Bus.request``."""
        if not self._bus.connected:
            raise lost()
        if self._listening is None:
            listen = self._bus.subscribe(f"{self._prefix}.*", self._take)
            self._listening = asyncio.ensure_future(listen)
        # Who is cancelled here leaves the subscription to those who wait for it, too.
        await asyncio.shield(self._listening)
        reply = f"{self._prefix}.{secrets.token_hex(8)}"
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[reply] = answer
        try:
            async with asyncio.timeout(timeout_s):
                await self._bus.publish(subject, data, reply)
                return await answer
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"No answer on {subject} within {timeout_s:g} s.", waited_for=subject
            ) from error
        finally:
            del self._waiting[reply]

    def _take(self, message: BusMessage) -> None:
        answer = self._waiting.get(message.subject)
        if answer is None or answer.done():
            return
        if message.no_responders:
            answer.set_exception(NoResponders("Nobody listens there."))
        else:
            answer.set_result(message.data)

    def fail(self) -> None:
        """The connection was lost: no answer comes any more."""
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(lost())


def lost() -> BusUnavailable:
    """Return the error for who needs the bus while it is away."""
    return BusUnavailable(
        "The message bus between the server processes does not answer; try again.",
        retry_after_ms=RETRY_AFTER_MS,
    )
