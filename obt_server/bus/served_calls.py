"""The exchanges of other processes that this one serves."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection
from functools import partial
from typing import Final

import structlog

from obt_agent.errors import AgentError, Busy, LinkLost
from obt_server.bus import frames
from obt_server.bus.bus import (
    RETRY_AFTER_MS,
    Bus,
    BusMessage,
    BusSubscription,
    BusUnavailable,
    NoResponders,
)
from obt_server.bus.frames import Envelope, Kind, Sign
from obt_server.bus.outbox import Outbox
from obt_server.bus.pulse import Pulse
from obt_server.bus.served_call import ExchangeHandler, ServedCall
from obt_server.bus.settings import ExchangeSettings, MemoryBudget

log = structlog.get_logger(__name__)

_REMEMBERED: Final = 4096
"""Tokens of exchanges that are over: a request that comes twice is worked on once."""


class ServedCalls:
    """Begins the work of requests, and ends what nobody waits for any more.

    Args:
        me: this process, as callers know it.
        bus: carries answers.
        outbox: sends what nobody waits for.
        budget: of all that waits in this process.
        settings: the numbers.
    """

    def __init__(
        self, me: bytes, bus: Bus, outbox: Outbox, budget: MemoryBudget, settings: ExchangeSettings
    ) -> None:
        self._me = me
        self._bus = bus
        self._outbox = outbox
        self._budget = budget
        self._settings = settings
        self._calls: dict[bytes, ServedCall] = {}
        self._over: OrderedDict[bytes, None] = OrderedDict()
        # refusals on their way
        self._refusing: set[asyncio.Task[None]] = set()
        # while this is set, requests that come may be old ones, from before this process was stopped
        self.doubtful = False
        self._closed = False

    def __len__(self) -> int:
        """How many run."""
        return len(self._calls)

    async def serve(self, subject: str, handle: ExchangeHandler, pulse: Pulse) -> ServedSubject:
        """Answer requests on a subject."""
        served = ServedSubject(self)

        def take(message: BusMessage) -> None:
            frame = frames.unpacked(message.data)
            if frame is None:
                return
            if frame.kind is Kind.OPEN:
                # The process may have been stopped since the last beat, and this message waited meanwhile.
                pulse.check()
                self._open(served, handle, frame, message.reply or "")
            else:
                self.take(frame)

        served.subscription = await self._bus.subscribe(subject, take)
        return served

    def _open(self, served: ServedSubject, handle: ExchangeHandler, frame: Envelope, reply: str) -> None:
        known = frame.token in self._calls or frame.token in self._over
        # Elsewhere than into an inbox this process sends no answers, whoever asks for it.
        if known or not reply.startswith(f"{self._settings.prefix}.inbox."):
            return
        call = ServedCall(
            handle,
            frame.token,
            reply,
            me=self._me,
            bus=self._bus,
            post=self._outbox.post,
            budget=self._budget,
            settings=self._settings,
        )
        try:
            if served.closing:
                # It came before the bus knew: nothing is done, and the caller may look for somebody else.
                raise NoResponders("What was asked is not here any more.")
            self._check_room()
            call.open(frame)
        except AgentError as error:
            call.release()
            self._refuse(call, error)
            return
        self._calls[frame.token] = call
        served.calls.add(call)
        call.over = partial(self._forget, served, call)
        call.begin()

    def _check_room(self) -> None:
        if self._closed or self.doubtful:
            raise BusUnavailable(
                "This server process ends, or was stopped for a while; try again.",
                retry_after_ms=RETRY_AFTER_MS,
            )
        if len(self._calls) >= self._settings.max_served:
            raise Busy(
                f"{self._settings.max_served} requests of other server processes run here.",
                retry_after_ms=RETRY_AFTER_MS,
            )
        self._budget.check()

    def _refuse(self, call: ServedCall, error: AgentError) -> None:
        task = asyncio.create_task(call.answer_error(error), name="exchange refusal")
        self._refusing.add(task)
        task.add_done_callback(self._refusing.discard)

    def _forget(self, served: ServedSubject, call: ServedCall) -> None:
        call.release()
        del self._calls[call.token]
        served.calls.discard(call)
        self._over[call.token] = None
        if len(self._over) > _REMEMBERED:
            self._over.popitem(last=False)

    def take(self, frame: Envelope) -> None:
        """Give a message of a caller to its exchange."""
        now = asyncio.get_running_loop().time()
        if frame.kind is Kind.CALLER_ALIVE:
            for sign in frames.read_signs(frame.rest):
                if (running := self._calls.get(sign.token)) is not None:
                    running.alive(sign, now)
        elif (call := self._calls.get(frame.token)) is not None:
            if frame.kind is Kind.CANCEL:
                call.end(None)
            else:
                call.feed(frame, now)

    def say_alive(self) -> None:
        """Tell each calling process which of its exchanges go on."""
        signs: dict[str, list[Sign]] = {}
        for call in self._calls.values():
            signs.setdefault(call.inbox, []).append(call.sign)
        for inbox, of_caller in signs.items():
            for some in frames.sign_lists(of_caller, self._bus.max_payload):
                self._outbox.post(inbox, frames.pack(Kind.SERVER_ALIVE, frames.NOBODY, some, server=self._me))

    def end_silent(self, now: float) -> None:
        """Cancel those whose caller says nothing."""
        for call in list(self._calls.values()):
            if call.hearing.silent_s(now) > self._settings.silence_s:
                call.end(LinkLost("The caller said nothing for too long."))

    def wait_longer(self, seconds: float) -> None:
        """Do not count time in which this process could not hear (see ``Hearing.excuse``)."""
        for call in self._calls.values():
            call.hearing.excuse(seconds, self._settings.silence_s)

    def end_all(self, why: str) -> None:
        """Cancel all."""
        for call in list(self._calls.values()):
            call.end(LinkLost(why))

    async def end(self, calls: Collection[ServedCall], why: str) -> None:
        """Cancel some, and wait until they have ended."""
        tasks = []
        for call in list(calls):
            call.end(LinkLost(why))
            tasks += [call.task] if call.task is not None else []
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._settings.close_s)
            if late:
                log.warning("exchange.not_cancelled", count=len(late))

    async def close(self) -> None:
        """Cancel all, tell their callers, and begin none any more."""
        self._closed = True
        await self.end(self._calls.values(), "The server process that answered ends.")
        await asyncio.gather(*self._refusing, return_exceptions=True)


class ServedSubject:
    """A subject that this process serves, until ``close``."""

    def __init__(self, owner: ServedCalls) -> None:
        self._owner = owner
        self.calls: set[ServedCall] = set()
        self.subscription: BusSubscription | None = None
        # set when requests are refused from now on
        self.closing = False

    async def close(self) -> None:
        """Take no more requests, and end those that run; their callers get LinkLost."""
        # The second of two must not cut short what the first waits for.
        if self.subscription is not None and not self.closing:
            self.closing = True
            await self.subscription.drain()
        await self._owner.end(self.calls, "What was asked is not here any more.")
