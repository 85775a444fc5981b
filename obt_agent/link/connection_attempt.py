"""One upgraded wire, from hello to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from obt_agent.errors import AgentError, DeadlineExceeded, LinkLost, Unsupported
from obt_agent.link.control import ControlMethods
from obt_agent.link.disconnect import SHOWN_CHARS, DisconnectReason, NextDial, from_close_code
from obt_agent.link.liveness import LoopLag, Watchdog
from obt_agent.link.session import LinkSession
from obt_agent.link.timings import LinkTimings
from obt_agent.link.wire import Wire, WireClosed
from obt_agent.printable import printable
from obt_agent.protocol.admission import GoodbyeParams, HelloParams, HelloResult
from obt_agent.protocol.byte_budget import ByteBudget
from obt_agent.protocol.limits import Close

log = structlog.get_logger(__name__)

_BROKEN: Final = 1006


class ConnectionAttempt:
    """Serves one wire.

    Args:
        wire: upgraded.
        timings: deadlines.
        control: the link's own methods, with the handler of all others behind them.
        lag: where the event loop's lag is noted.
        budget: what may wait in the process.
    """

    def __init__(
        self,
        wire: Wire,
        timings: LinkTimings,
        *,
        control: ControlMethods,
        lag: LoopLag,
        budget: ByteBudget,
    ) -> None:
        self.wire = wire
        self.session = LinkSession(wire, control, timings=timings, budget=budget)
        self._timings = timings
        # Also knows after how many seconds the server wants to be dialled again.
        self._control = control
        self._watchdog = Watchdog(wire, timings, lag, self.session.tick)

    async def run(
        self, hello: HelloParams, admitted: Callable[[LinkSession, HelloResult], Awaitable[None]]
    ) -> DisconnectReason:
        """Say hello, then serve until the wire is closed; why it was.

        ``admitted`` is awaited once, beside the reading, when the server has admitted the agent.
        """
        watching = asyncio.create_task(self._watchdog.run(), name="link-watchdog")
        admission = asyncio.create_task(self._admit(hello, admitted), name="link-hello")
        ending = DisconnectReason("stopped", "The agent closed the link.")
        try:
            while True:
                self.session.receive(await self.wire.read())
        except WireClosed as closed:
            if self.session.hello_result is not None:
                # A candidate that the server has taken is to be kept, however short the session was.
                await asyncio.wait([admission], timeout=self._timings.close_s)
            ending = self._why(closed, admission)
            return ending
        finally:
            watching.cancel()
            admission.cancel()
            self.session.end(ending.message)
            self.wire.abort("no longer needed")

    def probe(self) -> None:
        """The network changed: find out soon whether the wire is still alive."""
        self._watchdog.probe()

    async def close(self, goodbye: GoodbyeParams) -> None:
        """Say goodbye, let what was said go out (bounded), and close with 1001."""
        if self.session.hello_result is not None:
            try:
                self.session.notify("agent.goodbye", goodbye)
                async with asyncio.timeout(self._timings.flush_s):
                    await self.session.flushed()
            except (LinkLost, TimeoutError):
                log.info("link.goodbye_not_sent")
        self.wire.fail(Close.GOING_AWAY, goodbye.reason)

    async def _admit(
        self, hello: HelloParams, admitted: Callable[[LinkSession, HelloResult], Awaitable[None]]
    ) -> DisconnectReason | None:
        """Say hello; gives why the session was not admitted, None when it was."""
        try:
            result = await self.session.hello(hello)
        except LinkLost:
            return None
        except Unsupported as error:
            self.wire.fail(Close.NO_COMMON_VERSION, "no common version")
            return DisconnectReason("no_common_version", error.message, NextDial.MAX_BACKOFF)
        except DeadlineExceeded as error:
            self.wire.fail(Close.PROTOCOL_ERROR, "no answer to agent.hello")
            return DisconnectReason("hello_unanswered", error.message)
        except AgentError as error:
            self.wire.fail(Close.PROTOCOL_ERROR, "agent.hello was not answered with a result")
            return DisconnectReason(
                "hello_refused",
                f"The server did not admit the agent: {printable(error.message, SHOWN_CHARS)}",
            )
        try:
            # A fault of this agent's own: the server counts it as admitted, and must see that it is gone.
            await admitted(self.session, result)
        except Exception:
            self.wire.abort("the agent failed at its admission")
            raise
        return None

    def _why(self, closed: WireClosed, admission: asyncio.Task[DisconnectReason | None]) -> DisconnectReason:
        """The reason that came first: what the hello met with, else how the wire was closed."""
        if admission.done() and not admission.cancelled():
            refused = admission.result()
            if refused is not None:
                return refused
        floor_s = self._control.retry_after_s
        if not closed.by_peer and closed.code == _BROKEN and closed.reason:
            return DisconnectReason("dead", f"The link was broken off: {closed.reason}.", floor_s=floor_s)
        return from_close_code(closed.code, closed.reason, floor_s=floor_s)
