"""A bus inside one process: for several hubs in it, and for tests of what is built on a bus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from obt_agent.errors import TooLarge
from obt_server.bus.bus import BusMessage, Take, matches
from obt_server.bus.requests import RequestInbox, lost

MAX_PAYLOAD_BYTES: Final = 1 << 20
"""As NATS has it unless somebody changes it."""


class LocalBroker:
    """What the connections of one bus have in common.

    Args:
        max_payload: most bytes of a message's data.
    """

    def __init__(self, max_payload: int = MAX_PAYLOAD_BYTES) -> None:
        self.max_payload = max_payload
        self._connections: list[LocalBus] = []

    def join(self, bus: LocalBus) -> None:
        """Let a connection send and receive."""
        self._connections.append(bus)

    def leave(self, bus: LocalBus) -> None:
        """End that."""
        with contextlib.suppress(ValueError):
            self._connections.remove(bus)

    def send(self, sender: LocalBus, message: BusMessage) -> None:
        """Pass a message on to everybody who listens now."""
        # A list: each connection is asked, whether one before it takes the message or not.
        taken = [bus.deliver(message) for bus in self._connections]
        if not any(taken) and message.reply is not None:
            sender.deliver(BusMessage(message.reply, b"", no_responders=True))


class LocalBus:
    """A connection to a ``LocalBroker`` (see ``Bus``); one of its own when omitted.

    ``lose`` and ``restore`` are what a network does.
    """

    def __init__(self, broker: LocalBroker | None = None) -> None:
        self._broker = broker or LocalBroker()
        self._taking: list[_LocalSubscription] = []
        self._observers: list[Callable[[bool], None]] = []
        self._requests = RequestInbox(self)
        self._closed = False
        self.connected = True
        self._broker.join(self)

    async def start(self) -> None:
        """It is connected from the beginning."""

    @property
    def max_payload(self) -> int:
        """Most bytes of a message's data."""
        return self._broker.max_payload

    async def publish(self, subject: str, data: bytes, reply: str | None = None) -> None:
        """Send a message; see ``Bus.publish``."""
        if not self.connected:
            raise lost()
        if len(data) > self.max_payload:
            raise TooLarge(f"{len(data)} bytes are more than a message of this bus holds.")
        self._broker.send(self, BusMessage(subject, data, reply))

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        """Send a message and return the first answer; see ``Bus.request``."""
        return await self._requests.request(subject, data, timeout_s)

    async def subscribe(self, subject: str, take: Take) -> _LocalSubscription:
        """Have messages taken; see ``Bus.subscribe``."""
        subscription = _LocalSubscription(self._taking, subject, take)
        self._taking.append(subscription)
        return subscription

    def deliver(self, message: BusMessage) -> bool:
        """Give a message to who listens on this connection; return whether somebody does.

        Later, as a network would: a receiver never runs inside the sender.
        """
        taking = [one for one in self._taking if matches(one.subject, message.subject)]
        for one in taking:
            asyncio.get_running_loop().call_soon(one.deliver, message)
        return bool(taking)

    def on_connection(self, observer: Callable[[bool], None]) -> None:
        """Tell of losses and returns; see ``Bus.on_connection``."""
        self._observers.append(observer)

    def lose(self) -> None:
        """Lose the connection: nothing is sent or received until ``restore``."""
        if self.connected:
            self._broker.leave(self)
            self._tell(connected=False)
            self._requests.fail()

    def restore(self) -> None:
        """Have the connection again."""
        if not self.connected and not self._closed:
            self._broker.join(self)
            self._tell(connected=True)

    def _tell(self, *, connected: bool) -> None:
        self.connected = connected
        for observer in list(self._observers):
            observer(connected)

    async def close(self) -> None:
        """End the connection for good; see ``Bus.close``."""
        self._closed = True
        self.lose()


class _LocalSubscription:
    def __init__(self, among: list[_LocalSubscription], subject: str, take: Take) -> None:
        self.subject = subject
        self._among = among
        self._take = take
        self._closed = False

    def deliver(self, message: BusMessage) -> None:
        if not self._closed:
            self._take(message)

    async def drain(self) -> None:
        """Take what is on its way, then nothing more."""
        self._leave()
        # What was sent before is the loop's next turn.
        await asyncio.sleep(0)
        self._closed = True

    async def close(self) -> None:
        """Take nothing more."""
        self._closed = True
        self._leave()

    def _leave(self) -> None:
        if self in self._among:
            self._among.remove(self)
