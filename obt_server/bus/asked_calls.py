"""The exchanges that this process began."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator
from typing import Final

from obt_agent.errors import LinkLost
from obt_server.bus import frames
from obt_server.bus.bus import Bus, BusMessage
from obt_server.bus.frames import Envelope, Kind
from obt_server.bus.outbox import Outbox
from obt_server.bus.remote_call import RemoteCall
from obt_server.bus.settings import ExchangeSettings, MemoryBudget

_LATER: Final = b"\x01"
"""Behind the token where the bus says that nobody listens for a sign of life: the request had arrived."""


class AskedCalls:
    """Opens exchanges, and gives each what comes for it.

    Args:
        inbox: where answers come.
        bus: carries them.
        outbox: sends what nobody waits for.
        budget: of all that waits in this process.
        settings: the numbers.
    """

    def __init__(
        self, inbox: str, bus: Bus, outbox: Outbox, budget: MemoryBudget, settings: ExchangeSettings
    ) -> None:
        self._inbox = inbox
        self._bus = bus
        self._outbox = outbox
        self._budget = budget
        self._settings = settings
        self._calls: dict[bytes, RemoteCall] = {}

    def __len__(self) -> int:
        """How many are open."""
        return len(self._calls)

    @contextlib.contextmanager
    def opened(self, subject: str) -> Iterator[RemoteCall]:
        """An exchange while the context lasts; left before its end, it is cancelled at the other side."""
        token = secrets.token_bytes(frames.TOKEN_BYTES)
        call = RemoteCall(
            token,
            subject,
            f"{self._inbox}.{token.hex()}",
            bus=self._bus,
            post=self._outbox.post,
            budget=self._budget,
            settings=self._settings,
        )
        self._calls[token] = call
        try:
            yield call
        finally:
            del self._calls[token]
            call.release()
            self._cancel(call)

    def take(self, frame: Envelope) -> None:
        """Give a message of a serving process to its exchange; one that nobody waits for is dropped."""
        now = asyncio.get_running_loop().time()
        if frame.kind is Kind.SERVER_ALIVE:
            for sign in frames.read_signs(frame.rest):
                if (asked := self._calls.get(sign.token)) is not None:
                    asked.alive(sign, frame.server, now)
        elif (call := self._calls.get(frame.token)) is not None:
            call.feed(frame, now)

    def nobody_listens(self, message: BusMessage) -> None:
        """Take the bus's own word that nobody listens where an exchange, or a sign of life, went."""
        try:
            whose = bytes.fromhex(message.subject.rpartition(".")[2])
        except ValueError:
            return
        for call in list(self._calls.values()):
            if whose in (call.token, call.server):
                call.unreachable()
            # The request itself arrived, and may have been done in part.
            elif whose == call.token + _LATER:
                call.died()

    def say_alive(self) -> None:
        """Tell each serving process which of our exchanges go on."""
        of_servers: dict[bytes, list[RemoteCall]] = {}
        for call in self._calls.values():
            of_servers.setdefault(call.server, []).append(call)
        # With a place for an answer: the bus says at once when nobody is there any more. Another one than the
        # request's: only where that reached nobody is nothing done.
        for call in of_servers.pop(frames.NOBODY, []):
            sign = frames.signs([call.sign])
            later = call.reply + _LATER.hex()
            self._outbox.post(call.inbox, frames.pack(Kind.CALLER_ALIVE, call.token, sign), later)
        for server, calls in of_servers.items():
            for some in frames.sign_lists([call.sign for call in calls], self._bus.max_payload):
                alive = frames.pack(Kind.CALLER_ALIVE, frames.NOBODY, some, server=server)
                self._outbox.post(calls[0].inbox, alive, f"{self._inbox}.{server.hex()}")

    def end_silent(self, now: float) -> None:
        """End those whose other side says nothing."""
        for call in list(self._calls.values()):
            if call.hearing.silent_s(now) > self._settings.silence_s:
                call.silent()

    def wait_longer(self, seconds: float) -> None:
        """Do not count time in which this process could not hear (see ``Hearing.excuse``)."""
        for call in self._calls.values():
            call.hearing.excuse(seconds, self._settings.silence_s)

    def bus_lost(self) -> None:
        """End all: the bus may have lost anything."""
        for call in list(self._calls.values()):
            call.bus_lost()

    def fail(self, why: str) -> None:
        """End all."""
        for call in list(self._calls.values()):
            call.fail(LinkLost(why))
            # Here as well as where it is left: that may be after the last message of this process.
            self._cancel(call)

    def _cancel(self, call: RemoteCall) -> None:
        if not call.over_there:
            call.over_there = True
            self._outbox.post(call.inbox, frames.pack(Kind.CANCEL, call.token, server=call.server))
