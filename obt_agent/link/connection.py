"""``Link``: dials, gets admitted, serves the session, and dials again, for ever.

 ┌─────────────────────────── delay ◄─────────────────────────────┐
 ▼                                                                │
dial ── DialFailed ─────────────────► DisconnectReason ──► ReconnectPolicy ── gives up: AdmissionRefused
 └─► ConnectionAttempt: agent.hello ─► frames until closed ─────┘
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
import structlog

from obt_agent.backoff import BackoffSettings
from obt_agent.config.schema import ServerConfig
from obt_agent.errors import ConfigError
from obt_agent.identity.credentials import AgentCredential, Credentials
from obt_agent.identity.folder import FolderError
from obt_agent.link.address import parse_address
from obt_agent.link.connection_attempt import ConnectionAttempt
from obt_agent.link.control import ControlMethods
from obt_agent.link.dial import dial
from obt_agent.link.disconnect import DialFailed, DisconnectReason
from obt_agent.link.liveness import LoopLag
from obt_agent.link.network_monitor import NetworkMonitor
from obt_agent.link.reconnect import ReconnectPolicy
from obt_agent.link.session import LinkSession, RequestHandler
from obt_agent.link.timings import LinkTimings
from obt_agent.link.tls import pins_in_force
from obt_agent.link.wire import Wire
from obt_agent.protocol.admission import GoodbyeParams, HelloParams, HelloResult
from obt_agent.protocol.byte_budget import ByteBudget
from obt_agent.protocol.commands import LinkStatistics
from obt_agent.protocol.state import StateKind

log = structlog.get_logger(__name__)

_NOTABLE_SKEW_S: Final = 60.0

State = Literal["idle", "dialling", "admitted", "waiting", "stopped"]
Reason = Literal["shutdown", "restart", "reload", "error"]


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
    """What the link calls of the rest of the agent; none may block.

    ``hello`` makes the introduction, at every dial. ``on_admitted`` is called with each admitted session,
    ``on_state_request`` with the states that the server asks for again.
    """

    hello: Callable[[], HelloParams]
    on_admitted: Callable[[LinkSession, HelloResult], None]
    on_state_request: Callable[[Sequence[StateKind]], None]


class LinkTotals:
    """Sums over the sockets that are gone, to which those of the present one are added."""

    def __init__(self) -> None:
        # Monotonic seconds of the last admission.
        self._admitted_at_s = 0.0
        # Of sockets that are gone; those of the present one are added when somebody asks.
        self._bytes_sent = self._bytes_received = self._frames_sent = self._frames_received = 0
        self._last_disconnect: str | None = None
        self.dials = 0
        self.admissions = 0

    def admitted(self) -> None:
        """A hello was answered."""
        self.admissions += 1
        self._admitted_at_s = time.monotonic()

    def add(self, attempt: ConnectionAttempt, reason: str) -> None:
        """A socket is gone, for this reason."""
        self._bytes_sent += attempt.wire.written_bytes
        self._bytes_received += attempt.wire.received_bytes
        self._frames_sent += attempt.session.frames_sent
        self._frames_received += attempt.session.frames_received
        self._last_disconnect = reason

    def statistics(self, attempt: ConnectionAttempt | None, lag: LoopLag) -> LinkStatistics:
        """The figures, with those of the present socket."""
        now = LinkTotals()
        if attempt is not None:
            now.add(attempt, "")
        admitted = attempt is not None and attempt.session.hello_result is not None
        return LinkStatistics(
            session=attempt.session.number if attempt is not None and admitted else None,
            connected_s=time.monotonic() - self._admitted_at_s if admitted else 0.0,
            admissions=self.admissions,
            dials=self.dials,
            bytes_sent=self._bytes_sent + now._bytes_sent,
            bytes_received=self._bytes_received + now._bytes_received,
            frames_sent=self._frames_sent + now._frames_sent,
            frames_received=self._frames_received + now._frames_received,
            last_disconnect=self._last_disconnect,
            loop_lag_ms_max=lag.worst_ms,
        )


class Link:
    """The link to one server.

    Args:
        server: where and how to dial.
        credentials: what to show.
        events: what the link calls of the rest of the agent.
        handler: who answers commands.
        timings: deadlines and intervals.
        backoff: numbers of the delays.
        budget: what may wait in the process; one of its own unless given.

    Raises:
        ConfigError: the server's address cannot be used.
    """

    def __init__(
        self,
        server: ServerConfig,
        *,
        credentials: Credentials,
        events: LinkEvents,
        handler: RequestHandler,
        timings: LinkTimings | None = None,
        backoff: BackoffSettings | None = None,
        budget: ByteBudget | None = None,
    ) -> None:
        self._server = server
        self._budget = budget or ByteBudget()
        self._timings = timings or LinkTimings()
        self._address = parse_address(server.url or "", allow_insecure=server.allow_insecure)
        self._credentials = credentials
        self._events = events
        self._handler = handler
        self._policy = ReconnectPolicy(credentials, backoff or BackoffSettings())
        # Ends the delay before the next dial. Cleared when a dial begins: what happens during one counts.
        self._wake = asyncio.Event()
        # Set once, by ``drain``: no dial follows.
        self._stopping = False
        # The credential of the last dial: it is shown again when the disk that holds it fails.
        self._shown: AgentCredential | None = None
        # At most one of these two is there: the dial under way, or the socket that it made.
        self._dialling: asyncio.Task[Wire] | None = None
        self._attempt: ConnectionAttempt | None = None
        # Kept over all sockets, for ``agent_info`` and the status file.
        self._totals = LinkTotals()
        self.lag = LoopLag()
        self.status = LinkStatus("idle")

    async def run(self) -> None:
        """Keep a session for ever; returns only after ``drain``.

        Raises:
            AdmissionRefused: the credential was never admitted and was refused for long enough, or the server
                says that it is revoked. The process exits 78.
            ConfigError: there is no credential, or the state folder cannot be read.
        """
        monitor = NetworkMonitor(self._woke, self._route_changed, interval_s=self._timings.route_poll_s)
        watching = asyncio.create_task(monitor.run(), name="link-network-monitor")
        try:
            while not self._stopping:
                # Read at every dial: the owner may have replaced it, a rotation may have made a candidate.
                credential = await self._credential()
                self._wake.clear()
                ending = await self._dial_and_serve(credential)
                self.status = LinkStatus("waiting", problem=ending.message)
                if not self._stopping:
                    await self._pause(ending, await self._policy.delay_s(credential, ending))
        finally:
            watching.cancel()
            self.status = LinkStatus("stopped", problem=self.status.problem)

    def dial_now(self) -> None:
        """Do not wait any longer: dial at once, unless there is a session."""
        if self._attempt is None:
            self._wake.set()

    async def drain(self, reason: Reason, retry_after_s: float | None = None) -> None:
        """Say goodbye, let what is queued go out, and close with 1001. Bounded; then ``run`` returns."""
        self._stopping = True
        if self._attempt is not None:
            await self._attempt.close(GoodbyeParams(reason=reason, retry_after_s=retry_after_s))
        if self._dialling is not None:
            self._dialling.cancel()
        self._wake.set()

    async def redial(self, reason: Reason) -> None:
        """Say goodbye and dial again at once, for the hello has changed. Without a session, do nothing."""
        if self._attempt is not None:
            # First, for the pause that follows the close: the new hello is to be said at once.
            self._wake.set()
            await self._attempt.close(GoodbyeParams(reason=reason))

    @property
    def session(self) -> LinkSession | None:
        """The admitted session."""
        session = self._attempt.session if self._attempt is not None else None
        return session if session is not None and session.hello_result is not None else None

    @property
    def statistics(self) -> LinkStatistics:
        """Figures since the process started."""
        return msgspec.structs.replace(self._totals.statistics(self._attempt, self.lag), pins=self.pins)

    @property
    def pins(self) -> tuple[str, ...]:
        """The keys that the server must show; none where authorities decide, or before the first dial."""
        if self._shown is None:
            return ()
        # What the session's admission announced is what the next dial goes by.
        hello = self.session.hello_result if self.session is not None else None
        announced = hello.pins if hello is not None and self._shown.pins else ()
        return pins_in_force(self._server, announced or self._shown.pins)

    async def _credential(self) -> AgentCredential:
        try:
            credential = await asyncio.to_thread(self._credentials.for_next_dial)
        except FolderError as error:
            if self._shown is None:
                raise
            log.warning("link.credential_not_read", reason=error.message)
            return self._shown  # a disk that fails is no reason to be away either
        if credential is None:
            raise ConfigError(
                "This agent has no credential. Enrol it: sudo obt-agent service install --token-file FILE; "
                "without the system's service: obt-agent enroll, or set server.token_file."
            )
        self._shown = credential
        return credential

    async def _dial_and_serve(self, credential: AgentCredential) -> DisconnectReason:
        self.status = LinkStatus("dialling", problem=self.status.problem)
        self._totals.dials += 1
        log.debug("link.dialling", server=self._address.authority)
        try:
            wire = await self._dial(credential)
        except DialFailed as failed:
            return failed.ending
        if wire is None or self._stopping:
            # ``drain`` came between the end of the dial and this: nobody serves the socket.
            if wire is not None:
                wire.abort("the agent is stopping")
            return DisconnectReason("stopped", "The agent is stopping.")
        return await self._serve(wire, credential)

    async def _dial(self, credential: AgentCredential) -> Wire | None:
        """In a task of its own, so that ``drain`` can stop it; None when it did."""
        dialling = self._dialling = asyncio.create_task(
            dial(self._address, self._server, self._timings, credential.secret, credential.pins),
            name="link-dial",
        )
        try:
            # Not awaited itself: its cancellation by ``drain`` is no cancellation of this task.
            await asyncio.wait([dialling])
            return None if dialling.cancelled() else dialling.result()
        finally:
            dialling.cancel()
            self._dialling = None

    async def _serve(self, wire: Wire, credential: AgentCredential) -> DisconnectReason:
        control = ControlMethods(self._handler, self._credentials, self._events.on_state_request)
        attempt = self._attempt = ConnectionAttempt(
            wire, self._timings, control=control, lag=self.lag, budget=self._budget
        )
        # What was to be dialled at once has been: a later end must not find an old wish.
        self._wake.clear()
        ending = DisconnectReason("stopped", "The agent closed the link.")
        try:
            ending = await attempt.run(
                self._events.hello(), lambda session, result: self._admitted(session, result, credential)
            )
            return ending
        finally:
            self._attempt = None
            self._totals.add(attempt, ending.message)
            wire.abort("no longer needed")

    async def _admitted(self, session: LinkSession, result: HelloResult, credential: AgentCredential) -> None:
        self._totals.admitted()
        skew_s = None if result.time is None else result.time - time.time()
        server = f"{result.server.name} {result.server.version}".strip()
        self.status = LinkStatus("admitted", session=result.session, server=server, clock_skew_s=skew_s)
        log.info("link.admitted", session=result.session, server=self._address.authority)
        if skew_s is not None and abs(skew_s) > _NOTABLE_SKEW_S:
            log.warning("link.clock_skew", server_ahead_s=round(skew_s, 1))
        await self._policy.admitted(credential, result.pins)
        # Noting the admission took a while: the session may be over.
        if session.alive:
            self._events.on_admitted(session, result)

    async def _pause(self, ending: DisconnectReason, delay_s: float) -> None:
        self.status = LinkStatus("waiting", problem=ending.message, next_dial_in_s=delay_s)
        log.debug("link.waiting", delay_s=round(delay_s, 1))
        try:
            async with asyncio.timeout(delay_s):
                await self._wake.wait()
        except TimeoutError:
            return
        log.debug("link.dial_now")

    def _woke(self, slept_s: float) -> None:
        log.info("link.woke_from_suspend", slept_s=round(slept_s))
        if self._attempt is None:
            self._wake.set()
        elif slept_s >= self._timings.silence_s:
            # The server has given the session up meanwhile: no use in asking whether it still lives.
            self._attempt.wire.abort("the machine was suspended")
            self._wake.set()
        else:
            self._attempt.probe()

    def _route_changed(self) -> None:
        log.info("link.route_changed")
        if self._attempt is not None:
            self._attempt.probe()
        self.dial_now()
