"""``Link``: dials, gets admitted, serves the session, and dials again, for ever.

 ┌────────────────────────────── delay (ordinary, floor, cap, refused) ◄──────────────┐
 ▼                                                                                    │
dial ── DialFailed ───────────────────────────────────────────────────► Ending ──► judged
 └─► upgraded ─► agent.hello ─► admitted ─► frames until the wire is closed ──┘       │
                                                                 gives up: AdmissionRefused
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import structlog

from obt_agent.backoff import Backoff, BackoffSettings, RefusedCredential
from obt_agent.errors import (
    AdmissionRefused,
    AgentError,
    ConfigError,
    DeadlineExceeded,
    LinkLost,
    Unsupported,
)
from obt_agent.identity.credentials import Credential
from obt_agent.link.address import parse_address
from obt_agent.link.dial import dial
from obt_agent.link.liveness import LoopLag, Watchdog
from obt_agent.link.outcome import DialFailed, Ending, Next, of_close
from obt_agent.link.own import OwnMethods
from obt_agent.link.session import LinkSession, RequestHandler
from obt_agent.link.settings import LinkSettings
from obt_agent.link.wakeups import Wakeups
from obt_agent.link.wire import Wire, WireClosed
from obt_agent.protocol.admission import GoodbyeParams, HelloParams, HelloResult
from obt_agent.protocol.commands import LinkStatistics
from obt_agent.protocol.limits import Close
from obt_agent.protocol.state import StateKind

log = structlog.get_logger(__name__)

_SKEW_WORTH_SAYING_S = 60.0

State = Literal["idle", "dialling", "admitted", "waiting", "stopped"]
Reason = Literal["shutdown", "restart", "reload", "error"]


class Credentials(Protocol):
    """What the link needs of ``obt_agent.identity.credentials.Credentials``. Methods block shortly."""

    def for_next_dial(self) -> Credential | None:
        """What to show; None when there is nothing."""

    def admitted(self, credential: Credential) -> None:
        """The server took it."""

    def refused(self, credential: Credential, *, revoked: bool) -> None:
        """The server refused it."""

    def ever_admitted(self, credential: Credential) -> bool:
        """Whether a server ever took it."""

    def store_candidate(self, rotation_id: str | None = None) -> str:
        """Make and keep a candidate; gives its hash."""


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """Where the link stands. ``problem`` is why there is no session, for a person; times in seconds."""

    state: State
    problem: str | None = None
    session: int | None = None
    server: str = ""
    clock_skew_s: float | None = None
    next_dial_in_s: float | None = None


@dataclass(frozen=True, slots=True)
class LinkEvents:
    """What the link asks and tells; none may block.

    ``hello`` makes the introduction, at every dial. ``on_admitted`` is called with each admitted session,
    ``on_state_request`` with the states that the server asks for again.
    """

    hello: Callable[[], HelloParams]
    on_admitted: Callable[[LinkSession, HelloResult], None]
    on_state_request: Callable[[Sequence[StateKind]], None]


class Link:
    """The link to one server.

    Args:
        settings: where and how to dial.
        credentials: what to show.
        events: what the link asks and tells the rest of the agent.
        handler: who answers commands.
        backoff: numbers of the delays.
        clock: monotonic seconds.
        chance: a number from 0 (included) to 1 (excluded).
    """

    def __init__(
        self,
        settings: LinkSettings,
        *,
        credentials: Credentials,
        events: LinkEvents,
        handler: RequestHandler,
        backoff: BackoffSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._address = parse_address(settings.url, allow_insecure=settings.allow_insecure)
        self._credentials = credentials
        self._events = events
        self._handler = handler
        self._backoff_settings = backoff or BackoffSettings()
        self._clock = clock
        self._chance = chance
        self._backoff = Backoff(clock=clock, chance=chance, settings=self._backoff_settings)
        self._refusals: dict[str, RefusedCredential] = {}
        self._wake = asyncio.Event()
        self._stopping = False
        self._drain_floor_s = 0.0
        self._dialling: asyncio.Task[Wire] | None = None
        self._wire: Wire | None = None
        self._session: LinkSession | None = None
        self._watchdog: Watchdog | None = None
        self._problem: tuple[str, int] = ("", 0)
        self._counts = _Counts()
        self.lag = LoopLag()
        self.status = LinkStatus("idle")

    async def run(self) -> None:
        """Keep a session for ever; returns only after ``drain``.

        Raises:
            AdmissionRefused: the credential was never admitted and was refused for long enough, or the server
                says that it is revoked. The process exits 78.
            ConfigError: there is no credential.
        """
        wakeups = Wakeups(self._woke, self._route_changed, interval_s=self._settings.timings.route_poll_s)
        looking = asyncio.create_task(wakeups.run(), name="link-wakeups")
        try:
            while not self._stopping:
                self._wake.clear()
                credential = await asyncio.to_thread(self._credentials.for_next_dial)
                if credential is None:
                    raise ConfigError(
                        "This agent has no credential: run obt-agent enroll, or set server.token_file."
                    )
                ending = await self._attempt(credential)
                if not self._stopping:
                    await self._pause(await self._judge(credential, ending))
        finally:
            looking.cancel()
            self.status = LinkStatus("stopped", problem=self.status.problem)

    def dial_now(self) -> None:
        """Do not wait any longer: dial at once, unless there is a session."""
        self._wake.set()

    async def drain(self, reason: Reason, retry_after_s: float | None = None) -> None:
        """Say goodbye, let what was said go out, and close with 1001. Bounded; ``run`` returns afterwards."""
        self._stopping = True
        session, wire = self._session, self._wire
        if session is not None and wire is not None and session.hello_result is not None:
            try:
                session.notify("agent.goodbye", GoodbyeParams(reason=reason, retry_after_s=retry_after_s))
                async with asyncio.timeout(self._settings.timings.flush_s):
                    await session.flushed()
            except (LinkLost, TimeoutError):
                log.info("link.goodbye_unheard")
        if wire is not None:
            wire.fail(Close.GOING_AWAY, reason)
        if self._dialling is not None:
            self._dialling.cancel()
        self._wake.set()

    @property
    def session(self) -> LinkSession | None:
        """The admitted session."""
        return self._session if self._session is not None and self._session.hello_result is not None else None

    @property
    def statistics(self) -> LinkStatistics:
        """Figures since the process started."""
        counts, wire, session = self._counts, self._wire, self._session
        return LinkStatistics(
            session=session.session if session is not None and session.hello_result is not None else None,
            connected_s=self._clock() - counts.admitted_at_s if self.session is not None else 0.0,
            admissions=counts.admissions,
            dials=counts.dials,
            bytes_sent=counts.bytes_sent + (wire.written_bytes if wire is not None else 0),
            bytes_received=counts.bytes_received + (wire.received_bytes if wire is not None else 0),
            frames_sent=counts.frames_sent + (session.frames_sent if session is not None else 0),
            frames_received=counts.frames_received + (session.frames_received if session is not None else 0),
            last_disconnect=counts.last_disconnect,
            loop_lag_ms_max=self.lag.worst_ms,
        )

    # One attempt.

    async def _attempt(self, credential: Credential) -> Ending:
        self.status = LinkStatus("dialling", problem=self.status.problem)
        self._counts.dials += 1
        self._drain_floor_s = 0.0
        log.debug("link.dialling", server=self._address.authority)
        try:
            wire = await self._dial(credential)
        except DialFailed as failed:
            return failed.ending
        if wire is None:
            return Ending("stopped", "The agent is stopping.")
        try:
            return await self._serve(wire, credential)
        finally:
            self._wire = None
            wire.abort("no longer needed")

    async def _dial(self, credential: Credential) -> Wire | None:
        """In a task of its own, so that ``drain`` can stop it; None when it did."""
        self._dialling = asyncio.create_task(
            dial(self._address, self._settings, credential.secret), name="link-dial"
        )
        try:
            await asyncio.wait([self._dialling])
            return None if self._dialling.cancelled() else self._dialling.result()
        finally:
            self._dialling.cancel()
            self._dialling = None

    async def _serve(self, wire: Wire, credential: Credential) -> Ending:
        own = OwnMethods(
            self._credentials, on_state_request=self._events.on_state_request, on_drain=self._server_drains
        )
        session = LinkSession(
            wire,
            self._handler,
            own,
            timings=self._settings.timings,
            max_frame_bytes=self._settings.max_frame_bytes,
        )
        watchdog = Watchdog(wire, self._settings.timings, self.lag, session.tick)
        self._wire, self._session, self._watchdog = wire, session, watchdog
        watching = asyncio.create_task(watchdog.run(), name="link-watchdog")
        admission = asyncio.create_task(self._admit(wire, session, credential), name="link-hello")
        reason = "The agent closed the link."
        try:
            while True:
                session.receive(await wire.read())
        except WireClosed as closed:
            ending = self._why(closed, admission)
            reason = ending.message
            return ending
        finally:
            watching.cancel()
            admission.cancel()
            self._session = self._watchdog = None
            self._counts.add(wire, session, reason)
            session.end(reason)

    async def _admit(self, wire: Wire, session: LinkSession, credential: Credential) -> Ending | None:
        """Say hello; gives why the session was not admitted, None when it was."""
        try:
            result = await session.hello(self._events.hello())
        except LinkLost:
            return None
        except Unsupported as error:
            wire.fail(Close.NO_COMMON_VERSION, "no common version")
            return Ending("no_common_version", error.message, Next.AT_CAP)
        except DeadlineExceeded as error:
            wire.fail(Close.PROTOCOL_ERROR, "no answer to agent.hello")
            return Ending("hello_unanswered", error.message)
        except AgentError as error:
            wire.fail(Close.PROTOCOL_ERROR, "agent.hello was not answered with a result")
            return Ending("hello_refused", f"The server did not admit the agent: {error.message}")
        self._note_admitted(result)
        try:
            await asyncio.to_thread(self._credentials.admitted, credential)
        except AgentError as error:  # a full disk is no reason to be away
            log.warning("link.admission_not_noted", reason=error.message)
        if session.alive:
            self._events.on_admitted(session, result)
        return None

    def _note_admitted(self, result: HelloResult) -> None:
        self._backoff.admitted()
        self._refusals.clear()
        self._counts.admissions += 1
        self._counts.admitted_at_s = self._clock()
        skew_s = None if result.time is None else result.time - time.time()
        server = f"{result.server.name} {result.server.version}".strip()
        self.status = LinkStatus("admitted", session=result.session, server=server, clock_skew_s=skew_s)
        self._problem = ("", 0)
        log.info("link.admitted", session=result.session, server=self._address.authority)
        if skew_s is not None and abs(skew_s) > _SKEW_WORTH_SAYING_S:
            log.warning("link.clock_skew", server_ahead_s=round(skew_s, 1))

    def _why(self, closed: WireClosed, admission: asyncio.Task[Ending | None]) -> Ending:
        """The reason that came first: what the hello met with, else how the wire was closed."""
        if admission.done() and not admission.cancelled():
            refused = admission.result()
            if refused is not None:
                return refused
        if not closed.by_peer and closed.code == _BROKEN and closed.reason:
            return Ending("dead", f"The link was broken off: {closed.reason}.")
        return of_close(closed.code, closed.reason, floor_s=self._drain_floor_s)

    def _server_drains(self, retry_after_s: float) -> None:
        self._drain_floor_s = retry_after_s

    # Between attempts.

    async def _judge(self, credential: Credential, ending: Ending) -> float:
        """Seconds until the next dial."""
        self._backoff.ended()
        if ending.next is Next.REFUSED:
            return await self._judge_refusal(credential, ending)
        self._say(ending)
        floor_s = self._backoff_settings.maximum_s if ending.next is Next.AT_CAP else 0.0
        return self._backoff.delay(max(floor_s, ending.floor_s))

    async def _judge_refusal(self, credential: Credential, ending: Ending) -> float:
        await asyncio.to_thread(self._credentials.refused, credential, revoked=ending.revoked)
        counter = self._refusals.get(credential.sha256)
        if counter is None:
            known = await asyncio.to_thread(self._credentials.ever_admitted, credential)
            counter = self._refusals[credential.sha256] = RefusedCredential(
                admitted_before=known, clock=self._clock, chance=self._chance, settings=self._backoff_settings
            )
        refusal = counter.refused(revoked=ending.revoked)
        self._say(ending)
        if credential.source == "candidate":
            log.warning("link.candidate_refused", count=refusal.count)
            return self._backoff.delay()
        if refusal.give_up:
            raise AdmissionRefused(
                f"{ending.message} Enrol this agent anew (obt-agent enroll).",
                retryable=False,
                revoked=ending.revoked,
            )
        return max(refusal.delay_s, ending.floor_s)

    def _say(self, ending: Ending) -> None:
        """The first of a kind loudly, repeats quietly with their count."""
        kind, count = self._problem
        count = count + 1 if kind == ending.kind else 1
        self._problem = (ending.kind, count)
        self.status = LinkStatus("waiting", problem=ending.message)
        say = log.warning if count == 1 else log.debug
        say("link.down", kind=ending.kind, reason=ending.message, count=count, server=self._address.authority)

    async def _pause(self, delay_s: float) -> None:
        self.status = LinkStatus("waiting", problem=self.status.problem, next_dial_in_s=delay_s)
        log.debug("link.waiting", delay_s=round(delay_s, 1))
        try:
            async with asyncio.timeout(delay_s):
                await self._wake.wait()
        except TimeoutError:
            return
        log.debug("link.dial_now")

    def _woke(self, slept_s: float) -> None:
        log.info("link.woke_from_suspend", slept_s=round(slept_s))
        if self._wire is not None and slept_s >= self._settings.timings.silence_s:
            self._wire.abort("the machine was suspended")
        elif self._watchdog is not None:
            self._watchdog.probe()
        self.dial_now()

    def _route_changed(self) -> None:
        log.info("link.route_changed")
        if self._watchdog is not None:
            self._watchdog.probe()
        self.dial_now()


_BROKEN = 1006


@dataclass(slots=True)
class _Counts:
    """What outlives a session."""

    dials: int = 0
    admissions: int = 0
    admitted_at_s: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0
    frames_sent: int = 0
    frames_received: int = 0
    last_disconnect: str | None = None

    def add(self, wire: Wire, session: LinkSession, reason: str) -> None:
        self.bytes_sent += wire.written_bytes
        self.bytes_received += wire.received_bytes
        self.frames_sent += session.frames_sent
        self.frames_received += session.frames_received
        self.last_disconnect = reason
