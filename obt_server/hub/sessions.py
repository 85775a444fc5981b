"""The sessions of a process: from an accepted socket to an admitted agent, and to the end of both."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Final

import structlog

from obt_agent.errors import Busy, StorageFailed
from obt_agent.protocol.admission import DrainParams
from obt_agent.protocol.limits import Close
from obt_agent.protocol.rates import TokenBucket
from obt_server.hub import admission
from obt_server.hub.budget import WaitingBudget
from obt_server.hub.counters import LinkCounters
from obt_server.hub.directory import AgentDirectory
from obt_server.hub.errors import AgentOffline, Draining
from obt_server.hub.incoming import Incoming
from obt_server.hub.other_replicas import ALONE
from obt_server.hub.presence import Presence
from obt_server.hub.session import AgentSession
from obt_server.hub.settings import HubSettings
from obt_server.hub.sockets import HubSocket, SocketClosed
from obt_server.hub.storage import Admission, HubStorage, StoredCredential
from obt_server.hub.turns import Turns

log = structlog.get_logger(__name__)

MAX_UNADMITTED: Final = 8
"""Sockets of one agent before admission; an honest one has two at most, while it redials."""
_STOPPING: Final = "the server is stopping"
_REPLACED: Final = "replaced by a newer connection of this agent"
_NOT_STORED: Final = "the server cannot store anything now"


class Sessions:
    """Admits agents, and knows which session each has.

    Args:
        storage: where admissions go.
        incoming: what agents may ask and tell.
        directory: learns who comes and goes.
        settings: the hub's numbers.
        budget: of all that waits in this process.
    """

    def __init__(
        self,
        storage: HubStorage,
        incoming: Incoming,
        directory: AgentDirectory,
        settings: HubSettings,
        budget: WaitingBudget,
    ) -> None:
        self.settings = settings
        self._directory = directory
        self._storage = storage
        self._incoming = incoming
        self._budget = budget
        self._turns = Turns()
        # by agent, of those that are known: how often each has dialled
        self._dials: dict[str, TokenBucket] = {}
        # by agent: the newest admission; an older one may still be closing
        self._sessions: dict[str, AgentSession] = {}
        # one admission of an agent at a time: session numbers must follow the order of the sockets
        self._admitting: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        # sockets before admission, by agent
        self._waiting: Counter[str] = Counter()
        # admitted or not: what max_sessions bounds
        self._open_sockets = 0
        # agents whose leaving is not stored yet; one write at a time takes them all
        self._left: set[str] = set()
        self._storing_left = asyncio.Lock()
        # whom admissions are agreed with
        self.others = ALONE
        # set once and for good: nobody is admitted any more
        self._draining = False
        # for whoever watches the server; nothing here goes by it
        self.counters = LinkCounters()

    @property
    def draining(self) -> bool:
        """Whether the server stops, and admits nobody more."""
        return self._draining

    # -- live sessions -------------------------------------------------------------------------------

    def get(self, agent_id: str) -> AgentSession | None:
        """The agent's live session."""
        session = self._sessions.get(agent_id)
        return session if session is not None and session.alive else None

    def require(self, agent_id: str) -> AgentSession:
        """The agent's live session.

        Raises:
            AgentOffline: it has none.
        """
        session = self.get(agent_id)
        if session is None:
            raise AgentOffline(
                "The agent is not connected. Look at its log on its machine (journalctl -u obt-agent)."
            )
        return session

    def live(self) -> list[AgentSession]:
        """All live sessions."""
        return [session for session in self._sessions.values() if session.alive]

    # -- sockets ------------------------------------------------------------------------------------

    def check_capacity(self) -> None:
        """Check that another socket may be accepted.

        Raises:
            Draining: the server stops, or is full.
        """
        if self._draining:
            raise Draining("The server is stopping.", retry_after_ms=int(self.settings.drain_retry_s * 1000))
        if self._open_sockets >= self.settings.max_sessions:
            raise Draining("The server has as many agents as it takes.", retry_after_ms=60_000)

    def check_dials(self, agent_id: str) -> None:
        """Called before a socket of a known agent is accepted.

        Each admission costs a transaction, and begins with a full burst of whatever is bounded by rate.

        Raises:
            Busy: the agent dials too often.
        """
        now = time.monotonic()
        settings = self.settings
        bucket = self._dials.setdefault(
            agent_id, TokenBucket(settings.dials_per_s, settings.dials_at_once, now)
        )
        wait_s = bucket.take(now)
        if wait_s > 0:
            raise Busy("The agent dials too often.", retry_after_ms=int(wait_s * 1000) + 1)

    def forget_dials(self, agent_id: str) -> None:
        """The agent was deleted or lost its credential."""
        self._dials.pop(agent_id, None)

    async def serve(self, socket: HubSocket, credential: StoredCredential) -> None:
        """Serve one accepted socket: hello, admission, session. Return when it has ended."""
        self._open_sockets += 1
        try:
            with self._limit_unadmitted(credential.agent_id):
                # No name for the hello: it would stay in memory for as long as the session lasts.
                session = await self._admit(
                    socket, credential, await admission.read_hello(socket, credential, self.settings)
                )
            await self._run(session)
        except admission.AdmissionDenied as refused:
            self.counters.refuse(refused.code)
            log.info("agent.refused", agent=credential.agent_id, code=refused.code, reason=refused.reason)
            await self._refuse(socket, refused)
        except StorageFailed as failed:
            # It comes back as after a restart: what it brings cannot be stored now.
            log.warning("agent.not_stored", agent=credential.agent_id, error=failed.message)
            await self._refuse(socket, admission.AdmissionDenied(Close.DRAINING, _NOT_STORED))
        except SocketClosed as closed:
            log.info("agent.left_before_hello", agent=credential.agent_id, code=closed.code)
        finally:
            self._open_sockets -= 1

    @contextlib.contextmanager
    def _limit_unadmitted(self, agent_id: str) -> Iterator[None]:
        """One agent's sockets that are not admitted yet: a few, or it would keep every other agent out."""
        if self._waiting[agent_id] >= MAX_UNADMITTED:
            raise admission.AdmissionDenied(
                Close.TOO_MUCH, "too many sockets of this agent wait for admission"
            )
        self._waiting[agent_id] += 1
        try:
            yield
        finally:
            self._waiting[agent_id] -= 1
            if not self._waiting[agent_id]:
                del self._waiting[agent_id]

    async def _refuse(self, socket: HubSocket, refused: admission.AdmissionDenied) -> None:
        with contextlib.suppress(SocketClosed, TimeoutError):
            async with asyncio.timeout(self.settings.close_timeout_s):
                if refused.answer is not None:
                    await socket.send(refused.answer)
                await socket.close(refused.code, refused.reason)
                return
        socket.abort()

    async def _admit(
        self, socket: HubSocket, credential: StoredCredential, hello: admission.Hello
    ) -> AgentSession:
        lock = self._admitting.setdefault(credential.agent_id, asyncio.Lock())
        async with lock:
            await self._replace_old_session(credential.agent_id, hello)
            if await self.others.in_use(credential.agent_id, hello.params.agent.instance):
                raise _in_use()
            self._refuse_when_draining()
            stored = _admission(credential, hello, self.others.own_id)
            record = await self._storage.admit(stored)
            self._directory.stored(record)
            number = record.session
            try:
                # Again after each wait: a drain that has begun meanwhile does not know of this session.
                self._refuse_when_draining()
                session = self._session(socket, credential, hello, number)
                await self._answer_hello(socket, hello, number)
                if credential.state == "candidate":
                    # After the answer went out: by it the agent knows that the old credential may go.
                    await self._storage.promote(credential.id)
            except BaseException:
                # It is stored, and nobody has it.
                self.others.left(credential.agent_id, number)
                raise
            # Only now can anybody reach it: nothing may go out before the answer to the hello.
            self._sessions[session.agent_id] = session
            self.counters.admitted += 1
            self.others.admitted(stored, number)
        log.info("agent.admitted", agent=session.agent_id, session=number, name=hello.params.agent.name)
        return session

    def _refuse_when_draining(self) -> None:
        if self._draining:
            raise admission.AdmissionDenied(Close.DRAINING, _STOPPING)

    async def _answer_hello(self, socket: HubSocket, hello: admission.Hello, number: int) -> None:
        try:
            async with asyncio.timeout(self.settings.hello_within_s):
                await socket.send(admission.hello_answer(hello.request, number, self.settings))
        except TimeoutError as error:
            raise admission.AdmissionDenied(Close.SILENT, "the agent does not read") from error

    async def _replace_old_session(self, agent_id: str, hello: admission.Hello) -> None:
        """A redial of the same process replaces the old socket; another process must find it dead."""
        old = self._sessions.get(agent_id)
        if old is None or not old.alive:
            return
        if old.presence.instance != hello.params.agent.instance and await old.probe(self.settings.probe_s):
            raise _in_use()
        old.end(Close.GOING_AWAY, _REPLACED)

    def end_older(self, agent_id: str, number: int) -> None:
        """End the agent's session where its number is lower: it was admitted elsewhere since."""
        session = self.get(agent_id)
        if session is not None and session.presence.session < number:
            session.end(Close.GOING_AWAY, _REPLACED)

    def _session(
        self, socket: HubSocket, credential: StoredCredential, hello: admission.Hello, number: int
    ) -> AgentSession:
        presence = Presence(
            session=number,
            instance=hello.params.agent.instance,
            version=hello.params.agent.version,
            capabilities=hello.params.capabilities,
            connected_at=time.time(),
        )
        return AgentSession(
            socket,
            agent_id=credential.agent_id,
            credential_id=credential.id,
            presence=presence,
            requests=self._incoming.requests,
            notifications=self._incoming.notifications,
            settings=self.settings,
            peer_max_frame_bytes=hello.params.limits.max_frame_bytes,
            budget=self._budget,
            turns=self._turns,
        )

    async def _run(self, session: AgentSession) -> None:
        if self._draining:  # since the last look: its admission was on the way
            session.spawn(self._drain_one(session, self.settings.close_timeout_s), "drain")
        try:
            self._directory.session_changed(session.agent_id)
            ending = await session.run()
            self.counters.end(ending.code)
            log.info("agent.left", agent=session.agent_id, code=ending.code, reason=ending.reason)
        finally:
            self._incoming.forget(session)
            # A newer session of the same agent may stand there already.
            if self._sessions.get(session.agent_id) is session:
                del self._sessions[session.agent_id]
            self._directory.session_changed(session.agent_id)
            self.others.left(session.agent_id, session.presence.session)
            if (
                not self._draining
            ):  # then all are stored at once: a thousand commits take longer than there is
                await self._store_left(session.agent_id)

    async def _store_left(self, agent_id: str) -> None:
        """Store when an agent left: in one write with those that leave while another is on its way."""
        self._left.add(agent_id)
        async with self._storing_left:
            left, self._left = sorted(self._left), set()
            if left:
                await self._storage.mark_seen(left, time.time())

    async def store_last_seen(self) -> None:
        """Store that the live agents are there: one write for all of them."""
        live = [session.agent_id for session in self.live()]
        if live:
            await self._storage.mark_seen(live, time.time())

    # -- draining ------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Admit nobody more; tell every agent to come back later, close with 4503, store when it was seen.

        All at once, so that it takes as long as the slowest; whoever does not read is dropped after
        ``drain_within_s`` seconds.
        """
        within_s = self.settings.drain_within_s
        self._draining = True
        sessions = self.live()
        per_s = self.settings.drain_dials_per_s
        for number, session in enumerate(sessions):
            self._send_drain(session, number / per_s if per_s else 0.0)
        await asyncio.gather(*(self._flush_and_end(session, within_s) for session in sessions))
        if sessions:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._storage.mark_seen([session.agent_id for session in sessions], time.time())
            log.info("agents.drained", agents=len(sessions))

    def _send_drain(self, session: AgentSession, later_s: float = 0.0) -> None:
        retry_after_s = self.settings.drain_retry_s + later_s
        session.notify("server.drain", DrainParams(retry_after_s=retry_after_s))

    async def _drain_one(self, session: AgentSession, within_s: float) -> None:
        self._send_drain(session)
        await self._flush_and_end(session, within_s)

    async def _flush_and_end(self, session: AgentSession, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                await session.flush()
                session.end(Close.DRAINING, _STOPPING)
                await session.ended.wait()
        except TimeoutError:
            session.end(Close.DRAINING, _STOPPING)
            session.abort()


def _in_use() -> admission.AdmissionDenied:
    return admission.AdmissionDenied(Close.IDENTITY_IN_USE, "another process of this agent is connected")


def _admission(credential: StoredCredential, hello: admission.Hello, replica: str | None) -> Admission:
    agent = hello.params.agent
    return Admission(
        agent_id=agent.id,
        credential_id=credential.id,
        name=agent.name,
        version=agent.version,
        store_id=hello.params.store_id,
        capabilities=hello.params.capabilities,
        own_labels=tuple(sorted(set(agent.labels))),
        replica=replica,
        at=time.time(),
    )
