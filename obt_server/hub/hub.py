"""``AgentHub``: every admitted agent, and the ways to ask something of one. Knows neither HTTP nor SQL."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import structlog

from obt_agent.errors import AgentError, InvalidParams, UnknownCommand
from obt_agent.protocol import codec, methods
from obt_agent.protocol.admission import DrainParams, RotateParams, RotateResult
from obt_agent.protocol.commands import (
    BenchmarkMetricsParams,
    CancelParams,
    CancelResult,
    HardwareWatchParams,
)
from obt_agent.protocol.jobs import JobStarted
from obt_agent.protocol.limits import Close
from obt_server.hub import admission, images
from obt_server.hub.errors import AgentOffline, AmbiguousAgent, Draining, UnknownAgent
from obt_server.hub.events import EventBus
from obt_server.hub.incoming import Incoming
from obt_server.hub.jobs import KIND_OF_METHOD, JobDesk, new_job_id
from obt_server.hub.presence import Presence
from obt_server.hub.series import SharedSeries, Viewer
from obt_server.hub.session import AgentSession, AgentStream
from obt_server.hub.settings import HubSettings
from obt_server.hub.sockets import HubSocket, SocketClosed
from obt_server.hub.storage import Admission, AgentRecord, Credential, HubStorage

log = structlog.get_logger(__name__)

STREAMED = frozenset(method.name for method in methods.COMMANDS if method.shape in ("stream", "series"))
_COMMANDS = frozenset(method.name for method in methods.COMMANDS)
_CALL_TIMEOUT_S = {
    # Ollama loads a model before it answers these; the agent's own deadlines for Ollama are shorter.
    "load_model": 1800.0,
    "unload_model": 300.0,
    "embed": 1800.0,
    "copy_model": 600.0,
}


class AgentHub:
    """The server half of ``obt.v1``.

    Whoever serves the sockets gives each accepted one to ``serve``; everybody else asks by agent id.

    Args:
        storage: where everything that must last goes.
        settings: numbers; the protocol's when omitted.
    """

    def __init__(self, storage: HubStorage, settings: HubSettings | None = None) -> None:
        self.settings = settings or HubSettings()
        self.events = EventBus()
        self._storage = storage
        self._jobs = JobDesk(storage, self.events, self.settings)
        self._incoming = Incoming(storage, self._jobs, self.events, self.settings)
        self._sessions: dict[str, AgentSession] = {}
        self._admitting: dict[str, asyncio.Lock] = {}
        self._series: dict[tuple[str, str, bytes], SharedSeries] = {}
        self._open_sockets = 0
        self._draining = False

    # -- sockets ------------------------------------------------------------------------------------

    def check_capacity(self) -> None:
        """Called before a socket is accepted.

        Raises:
            Draining: the server stops, or is full.
        """
        if self._draining:
            raise Draining("The server is stopping.", retry_after_ms=int(self.settings.drain_retry_s * 1000))
        if self._open_sockets >= self.settings.max_sessions:
            raise Draining("The server has as many agents as it takes.", retry_after_ms=60_000)

    async def serve(self, socket: HubSocket, credential: Credential) -> None:
        """One accepted socket's life: hello, admission, session; returns when it has ended."""
        self._open_sockets += 1
        try:
            if credential.state == "revoked":
                raise admission.Refused(Close.CREDENTIAL_REFUSED, "revoked")
            hello = await admission.read_hello(socket, credential, self.settings)
            session = await self._admit(socket, credential, hello)
            await self._run(session)
        except admission.Refused as refused:
            log.info("agent.refused", agent=credential.agent_id, code=refused.code, reason=refused.reason)
            await self._refuse(socket, refused)
        except SocketClosed as closed:
            log.info("agent.left_before_hello", agent=credential.agent_id, code=closed.code)
        finally:
            self._open_sockets -= 1

    async def _refuse(self, socket: HubSocket, refused: admission.Refused) -> None:
        with contextlib.suppress(SocketClosed, TimeoutError):
            async with asyncio.timeout(self.settings.close_timeout_s):
                if refused.answer is not None:
                    await socket.send(refused.answer)
                await socket.close(refused.code, refused.reason)
                return
        socket.abort()

    async def _admit(self, socket: HubSocket, credential: Credential, hello: admission.Hello) -> AgentSession:
        lock = self._admitting.setdefault(credential.agent_id, asyncio.Lock())
        async with lock:
            await self._clear_way(credential.agent_id, hello)
            if self._draining:
                raise admission.Refused(Close.DRAINING, "the server is stopping")
            number = await self._storage.admit(_admission(hello))
            session = self._session(socket, credential, hello, number)
            await self._answer_hello(socket, hello, number)
            self._sessions[session.agent_id] = session
        if credential.state == "candidate":
            await self._storage.promote(credential.id)
        log.info("agent.admitted", agent=session.agent_id, session=number, name=hello.params.agent.name)
        return session

    async def _answer_hello(self, socket: HubSocket, hello: admission.Hello, number: int) -> None:
        try:
            async with asyncio.timeout(self.settings.hello_within_s):
                await socket.send(admission.hello_answer(hello.request, number, self.settings))
        except TimeoutError as error:
            raise admission.Refused(Close.SILENT, "the agent does not read") from error

    async def _clear_way(self, agent_id: str, hello: admission.Hello) -> None:
        """A redial of the same process replaces the old socket; another process waits for the old to be dead."""
        old = self._sessions.get(agent_id)
        if old is None or not old.alive:
            return
        if old.presence.instance != hello.params.agent.instance and await old.probe(self.settings.probe_s):
            raise admission.Refused(Close.IDENTITY_IN_USE, "another process of this agent is connected")
        old.end(Close.GOING_AWAY, "replaced by a newer connection of this agent")

    def _session(
        self, socket: HubSocket, credential: Credential, hello: admission.Hello, number: int
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
            handlers=self._incoming,
            settings=self.settings,
            peer_max_frame_bytes=hello.params.limits.max_frame_bytes,
        )

    async def _run(self, session: AgentSession) -> None:
        self.events.agent_changed(session.agent_id)
        session.spawn(self._keep_seen(session), "store last seen")
        try:
            ending = await session.run()
            log.info("agent.left", agent=session.agent_id, code=ending.code, reason=ending.reason)
        finally:
            self._incoming.forget(session)
            if self._sessions.get(session.agent_id) is session:
                del self._sessions[session.agent_id]
            self.events.agent_changed(session.agent_id)
            await self._storage.seen(session.agent_id, time.time())

    async def _keep_seen(self, session: AgentSession) -> None:
        while True:
            await asyncio.sleep(self.settings.seen_interval_s)
            await self._storage.seen(session.agent_id, time.time())

    # -- who is there -------------------------------------------------------------------------------

    async def find(self, id_or_name: str) -> AgentRecord:
        """The agent of that id, else the only one of that name.

        Raises:
            UnknownAgent, AmbiguousAgent.
        """
        agent = await self._storage.agent(id_or_name)
        if agent is not None:
            return agent
        named = await self._storage.agents_named(id_or_name)
        if not named:
            raise UnknownAgent(f"No agent has the id or name {id_or_name[:200]!r}.")
        if len(named) > 1:
            ids = ", ".join(sorted(one.id for one in named)[:10])
            raise AmbiguousAgent(f"{len(named)} agents are called {id_or_name[:200]!r}; use an id: {ids}.")
        return named[0]

    def presence(self, agent_id: str) -> Presence | None:
        """What the agent's live session has told; None when it has none."""
        session = self._sessions.get(agent_id)
        return session.presence if session is not None and session.alive else None

    def heard_ago_s(self, agent_id: str) -> float | None:
        """Seconds since anything was heard of a live agent."""
        session = self._sessions.get(agent_id)
        return None if session is None else asyncio.get_running_loop().time() - session.last_heard

    def online(self) -> frozenset[str]:
        """Ids of the agents that have a session."""
        return frozenset(agent_id for agent_id, session in self._sessions.items() if session.alive)

    def _live(self, agent_id: str) -> AgentSession:
        session = self._sessions.get(agent_id)
        if session is None or not session.alive:
            raise AgentOffline(
                "The agent is not connected. Look at its log on its machine (journalctl -u obt-agent)."
            )
        return session

    # -- asking -------------------------------------------------------------------------------------

    async def call(
        self, agent_id: str, method: str, params: msgspec.Raw, *, timeout_s: float | None = None
    ) -> msgspec.Raw:
        """A command with one answer; a job is started through ``start_job``.

        Raises:
            AgentOffline, UnknownCommand, InvalidParams, or what the agent answered.
        """
        if method not in _COMMANDS or method in STREAMED:
            raise UnknownCommand(f"There is no command {method[:64]!r} with a single answer.")
        if method in KIND_OF_METHOD:
            return msgspec.Raw(msgspec.json.encode(await self.start_job(agent_id, method, params)))
        session = self._live(agent_id)
        timeout = timeout_s or _CALL_TIMEOUT_S.get(method, self.settings.call_timeout_s)
        return await session.call(method, params, timeout_s=timeout)

    @contextlib.asynccontextmanager
    async def stream(self, agent_id: str, method: str, params: msgspec.Raw) -> AsyncIterator[AgentStream]:
        """A streamed command; leaving the context cancels it.

        Raises:
            AgentOffline, UnknownCommand, TooLarge, Busy, LinkLost.
        """
        if method not in STREAMED:
            raise UnknownCommand(f"{method[:64]!r} is no streamed command.")
        session = self._live(agent_id)
        prepared = images.prepare(method, params, session.peer_max_frame_bytes)
        for piece in prepared.pieces():
            await session.call("blob.put", piece, timeout_s=self.settings.call_timeout_s)
        async with session.stream(method, prepared.params) as stream:
            yield stream

    def watch_hardware(self, agent_id: str, interval_ms: int = 1000) -> AbstractAsyncContextManager[Viewer]:
        """Live samples of a machine; viewers of the same interval share one watch."""
        params = msgspec.json.encode(HardwareWatchParams(interval_ms=interval_ms))
        return self._watch(agent_id, "hardware_watch", params, None, keep_history=False)

    def watch_benchmark(
        self, agent_id: str, job_id: str, after: int | None = None
    ) -> AbstractAsyncContextManager[Viewer]:
        """Live samples of a running benchmark, those after sample ``after`` first."""
        params = msgspec.json.encode(BenchmarkMetricsParams(job_id=job_id, after=0))
        return self._watch(agent_id, "benchmark_metrics", params, after, keep_history=True)

    @contextlib.asynccontextmanager
    async def _watch(
        self, agent_id: str, method: str, params: bytes, after: int | None, *, keep_history: bool
    ) -> AsyncIterator[Viewer]:
        session = self._live(agent_id)
        key = (agent_id, method, params)
        series = self._series.get(key)
        if series is None or not series.live:
            series = SharedSeries(
                lambda: session.stream(method, msgspec.Raw(params)), keep_history=keep_history
            )
            series.start(f"{agent_id} {method}")
            self._series[key] = series
        try:
            async with series.view(after) as viewer:
                yield viewer
        finally:
            if not series.live and self._series.get(key) is series:
                del self._series[key]

    # -- jobs ---------------------------------------------------------------------------------------

    async def start_job(self, agent_id: str, method: str, params: msgspec.Raw) -> JobStarted:
        """Start a benchmark, pull or creation; ``job_id`` is made here unless ``params`` names one.

        An agent that is offline is refused, and nothing is stored: what runs later, unasked, on a machine
        that somebody uses would surprise them. Once the start was sent it is stored, and repeated with the
        same id when the link was lost before the answer.

        Raises:
            AgentOffline, InvalidParams, LinkLost (it will be started again), or what the agent answered.
        """
        session = self._live(agent_id)
        body = codec.convert(params, dict[str, Any])
        body.setdefault("job_id", new_job_id())
        codec.convert(msgspec.Raw(msgspec.json.encode(body)), methods.METHODS[method].params)
        return await self._jobs.start(session, method, body)

    async def cancel_job(self, agent_id: str, job_id: str) -> CancelResult:
        """Cancel a job at the agent. Raises AgentOffline or what the agent answered."""
        session = self._live(agent_id)
        answer = await session.call(
            "cancel", CancelParams(job_id=job_id), timeout_s=self.settings.call_timeout_s
        )
        return codec.convert(answer, CancelResult, where="result")

    # -- credentials --------------------------------------------------------------------------------

    async def rotate(self, agent_id: str, rotation_id: str, *, reconnect: bool = False) -> str:
        """Let a live agent make its next credential; the old one stays valid until the new one was admitted.

        Args:
            reconnect: close the session afterwards, so that the new one is used at once.

        Returns:
            The sha256 of the candidate.

        Raises:
            AgentOffline, InvalidParams (the answer holds no sha256), or what the agent answered.
        """
        session = self._live(agent_id)
        params = RotateParams(rotation_id=rotation_id)
        answer = await session.call("credentials.rotate", params, timeout_s=self.settings.call_timeout_s)
        sha256 = codec.convert(answer, RotateResult, where="result").sha256
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):  # noqa: PLR2004 -- sha256 in hexadecimal
            raise InvalidParams("result.sha256: not a sha256 in hexadecimal.", field="result.sha256")
        await self._storage.add_candidate(agent_id, sha256)
        if reconnect:
            session.end(Close.GOING_AWAY, "the credential was rotated: dial again")
        return sha256

    async def enforce_credentials(self) -> None:
        """End sessions whose credential was revoked, and start rotations that were asked for.

        Call it after a revocation, and every few seconds: another process (the command line) may have
        written to the same storage.
        """
        live = {session.credential_id: session for session in self._sessions.values() if session.alive}
        for credential_id in await self._storage.revoked(tuple(live)):
            live[credential_id].end(Close.CREDENTIAL_REFUSED, "revoked")
        for agent_id in await self._storage.rotations_due():
            if agent_id in self.online():
                await self._try_rotation(agent_id)

    async def _try_rotation(self, agent_id: str) -> None:
        try:
            await self.rotate(agent_id, new_job_id())
        except AgentError as error:
            log.warning("agent.rotation_failed", agent=agent_id, error=error.message)

    # -- the end ------------------------------------------------------------------------------------

    async def drain(self, *, within_s: float = 5.0) -> None:
        """Tell every agent to come back later, close with 4503, and wait for the sessions' ends."""
        self._draining = True
        sessions = list(self._sessions.values())
        for session in sessions:
            session.notify("server.drain", DrainParams(retry_after_s=self.settings.drain_retry_s))
        await asyncio.gather(*(self._flush_and_end(session, within_s) for session in sessions))
        for series in list(self._series.values()):
            await series.close()

    async def _flush_and_end(self, session: AgentSession, within_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await session.flush()
                session.end(Close.DRAINING, "the server is stopping")
                await session.ended.wait()
        session.end(Close.DRAINING, "the server is stopping")

    async def end_agent(self, agent_id: str) -> None:
        """End an agent's session because it was deleted or lost its credential."""
        session = self._sessions.get(agent_id)
        if session is not None:
            session.end(Close.CREDENTIAL_REFUSED, "revoked")


def _admission(hello: admission.Hello) -> Admission:
    agent = hello.params.agent
    return Admission(
        agent_id=agent.id,
        name=agent.name,
        version=agent.version,
        store_id=hello.params.store_id,
        capabilities=hello.params.capabilities,
        at=time.time(),
    )
