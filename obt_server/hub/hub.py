"""``AgentHub``: every admitted agent, and the ways to ask something of one. Knows neither HTTP nor SQL."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import structlog

from obt_agent.errors import AgentError, InvalidParams, LinkLost, StorageFailed
from obt_agent.protocol import codec, methods
from obt_agent.protocol.admission import RotateParams, RotateResult
from obt_agent.protocol.commands import (
    BenchmarkMetricsParams,
    CancelParams,
    CancelResult,
    HardwareWatchParams,
)
from obt_agent.protocol.jobs import JobStarted
from obt_agent.protocol.limits import Close
from obt_server.hub import images
from obt_server.hub.agent_stream import AgentStream
from obt_server.hub.budget import WaitingBudget
from obt_server.hub.command_params import NO_PARAMS, CommandParams, checked
from obt_server.hub.commands import call_timeout_s, check_plain, check_streamed, start_params
from obt_server.hub.counters import LinkCounters
from obt_server.hub.directory import AgentDirectory
from obt_server.hub.errors import AmbiguousAgent, UnknownAgent
from obt_server.hub.events import EventBus
from obt_server.hub.incoming import Incoming
from obt_server.hub.jobs import KIND_OF_METHOD, JobTracker, new_job_id
from obt_server.hub.other_replicas import OtherReplicas
from obt_server.hub.presence import Presence
from obt_server.hub.sessions import Sessions
from obt_server.hub.settings import HubSettings
from obt_server.hub.shared_series import SharedWatches, Viewer
from obt_server.hub.sockets import HubSocket
from obt_server.hub.storage import AgentRecord, Fence, HubStorage, StoredCredential

log = structlog.get_logger(__name__)


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
        self._jobs = JobTracker(storage, self.events, self.settings)
        # one for everything that waits in this process, whoever makes it wait
        self._budget = budget = WaitingBudget(self.settings.max_waiting_bytes)
        incoming = Incoming(storage, self._jobs, self.events, self.settings, budget)
        self.directory = AgentDirectory(storage, self.events)
        self._sessions = Sessions(storage, incoming, self.directory, self.settings, budget)
        self._watches = SharedWatches()
        # rotations that are under way, by agent
        self._rotating: dict[str, asyncio.Task[None]] = {}

    def serving(self) -> AbstractAsyncContextManager[None]:
        """Nothing: sessions bring what they need."""
        return contextlib.nullcontext()

    # -- sockets ------------------------------------------------------------------------------------

    def check_capacity(self) -> None:
        """Check that another socket may be accepted; call it before accepting one.

        Raises:
            Draining: the server stops, or is full.
        """
        self._sessions.check_capacity()

    def check_dials(self, agent_id: str) -> None:
        """Called before a socket of a known agent is accepted.

        Raises:
            Busy: it dials so often that its admissions would take the time of others.
        """
        self._sessions.check_dials(agent_id)

    async def serve(self, socket: HubSocket, credential: StoredCredential) -> None:
        """Serve one accepted socket: hello, admission, session. Return when it has ended."""
        await self._sessions.serve(socket, credential)

    # -- presence ------------------------------------------------------------------------------------

    async def find(self, id_or_name: str) -> AgentRecord:
        """Return the agent of that id, else the only one of that name.

        Raises:
            UnknownAgent: no agent has that id or name.
            AmbiguousAgent: several agents have that name.
        """
        await self.directory.current()
        named = self.directory.find(id_or_name) or await self._stored(id_or_name)
        if not named:
            raise UnknownAgent(f"No agent has the id or name {id_or_name[:200]!r}.")
        if len(named) > 1:
            ids = ", ".join(sorted(one.id for one in named)[:10])
            raise AmbiguousAgent(f"{len(named)} agents are called {id_or_name[:200]!r}; use an id: {ids}.")
        return named[0]

    async def _stored(self, id_or_name: str) -> Sequence[AgentRecord]:
        """Agents that another process (the command line) enrolled or renamed since the directory was read."""
        agent = await self._storage.agent(id_or_name)
        return [agent] if agent is not None else await self._storage.agents_named(id_or_name)

    def presence(self, agent_id: str) -> Presence | None:
        """Return what the agent's live session has reported; None when it has none."""
        session = self._sessions.get(agent_id)
        return None if session is None else session.presence

    def heard_ago_s(self, agent_id: str) -> float | None:
        """Return the seconds since anything was heard of a live agent; None of one that is offline."""
        session = self._sessions.get(agent_id)
        return None if session is None else asyncio.get_running_loop().time() - session.last_heard

    def online(self) -> frozenset[str]:
        """Return the ids of the agents that have a session."""
        return frozenset(session.agent_id for session in self._sessions.live())

    # -- commands ------------------------------------------------------------------------------------

    async def call(
        self,
        agent_id: str,
        method: str,
        params: CommandParams = NO_PARAMS,
        *,
        timeout_s: float | None = None,
    ) -> Any:
        """Send a command with one answer; a job is started through ``start_job``.

        Returns:
            The result, of the type that ``METHODS[method].result`` of ``obt_agent.protocol.methods`` names.

        Raises:
            AgentOffline: the agent has no session.
            UnknownCommand: the protocol has no such command, or it is no plain one.
            InvalidParams: the parameters do not fit the command, or the result not its type.
            AgentError: what the agent answered.
        """
        text = await self.call_text(agent_id, method, params, timeout_s=timeout_s)
        return codec.convert(text, methods.METHODS[method].result, where="result")

    async def call_text(
        self,
        agent_id: str,
        method: str,
        params: CommandParams = NO_PARAMS,
        *,
        timeout_s: float | None = None,
        fence: Fence | None = None,
    ) -> bytes:
        """Do the same, and return the result as the JSON text that the agent sent. Raises as ``call``.

        With a ``fence``, nothing is sent where that is refused; then it raises Busy.
        """
        check_plain(method)
        if method in KIND_OF_METHOD:
            return msgspec.json.encode(await self.start_job(agent_id, method, params, fence=fence))
        text = checked(method, params)
        session = self._sessions.require(agent_id)
        timeout = call_timeout_s(method, timeout_s, self.settings)
        # Last of all: what is sent after it waits for nothing.
        if fence is not None:
            await fence.check()
        return bytes(await session.calls.call(method, text, timeout_s=timeout))

    @contextlib.asynccontextmanager
    async def stream(
        self, agent_id: str, method: str, params: CommandParams = NO_PARAMS
    ) -> AsyncIterator[AgentStream]:
        """Send a streamed command; leaving the context cancels it.

        Raises:
            AgentOffline: the agent has no session.
            UnknownCommand: the protocol has no such streamed command.
            InvalidParams: the parameters do not fit the command.
            TooLarge: the parameters do not fit into a frame.
            Busy: the agent has as many commands in flight as it takes.
            LinkLost: the session ended.
        """
        check_streamed(method)
        text = checked(method, params)
        session = self._sessions.require(agent_id)
        prepared = images.prepare(method, text, session.calls.peer_max_frame_bytes)
        for piece in prepared.pieces(session.calls.piece_bytes):
            await session.calls.call("blob.put", piece, timeout_s=self.settings.call_timeout_s)
        async with session.calls.stream(
            method, prepared.params, silence_s=self.settings.stream_silence_s
        ) as stream:
            yield stream

    def watch_hardware(self, agent_id: str, interval_ms: int = 1000) -> AbstractAsyncContextManager[Viewer]:
        """Watch a machine's live samples, the newest at once; viewers of one interval share one watch."""
        params = msgspec.json.encode(HardwareWatchParams(interval_ms=interval_ms))
        return self._watch(agent_id, "hardware_watch", params, -1, keep_history=False)

    def watch_benchmark(
        self, agent_id: str, job_id: str, after: int = -1
    ) -> AbstractAsyncContextManager[Viewer]:
        """Watch a running benchmark's live samples; those after sample ``after`` come first."""
        params = msgspec.json.encode(BenchmarkMetricsParams(job_id=job_id, after=0))
        return self._watch(agent_id, "benchmark_metrics", params, after, keep_history=True)

    @contextlib.asynccontextmanager
    async def _watch(
        self, agent_id: str, method: str, params: bytes, after: int, *, keep_history: bool
    ) -> AsyncIterator[Viewer]:
        session = self._sessions.require(agent_id)

        def open_stream() -> AbstractAsyncContextManager[AgentStream]:
            silence_s = self.settings.stream_silence_s
            return session.calls.stream(method, msgspec.Raw(params), silence_s=silence_s)

        key = (agent_id, method, params)
        async with self._watches.view(key, open_stream, after, keep_history=keep_history) as viewer:
            yield viewer

    # -- jobs ---------------------------------------------------------------------------------------

    async def start_job(
        self, agent_id: str, method: str, params: CommandParams, *, fence: Fence | None = None
    ) -> JobStarted:
        """Start a benchmark, pull or creation; ``job_id`` is made here unless ``params`` names one.

        An agent that is offline is refused, and nothing is stored: what runs later, unasked, on a machine
        that somebody uses would surprise them. Once the start was sent it is stored, and repeated with the
        same id when the link was lost before the answer.

        With a ``fence`` the start is stored through that, and not sent where it is refused.

        Raises:
            AgentOffline: the agent has no session.
            InvalidParams: the parameters do not fit the command.
            Busy: the fence refused it.
            LinkLost: the session ended before the answer; the job will be started again.
            AgentError: what the agent answered.
        """
        session = self._sessions.require(agent_id)
        body = start_params(method, params)
        return await self._jobs.start(session, method, body, fence)

    async def cancel_job(self, agent_id: str, job_id: str) -> CancelResult:
        """Cancel a job at the agent. Raises AgentOffline or what the agent answered."""
        session = self._sessions.require(agent_id)
        answer = await session.calls.call(
            "cancel", CancelParams(job_id=job_id), timeout_s=self.settings.call_timeout_s
        )
        return codec.convert(answer, CancelResult, where="result")

    # -- credentials --------------------------------------------------------------------------------

    async def rotate(self, agent_id: str, rotation_id: str, *, reconnect: bool = False) -> str:
        """Let a live agent make its next credential; the old one stays valid until the new one was admitted.

        Args:
            agent_id: whose.
            rotation_id: names this rotation in the agent's log.
            reconnect: close the session afterwards, so that the new one is used at once.

        Returns:
            The sha256 of the candidate.

        Raises:
            AgentOffline: the agent has no session.
            InvalidParams: the answer holds no sha256.
            LinkLost: the session ended before the answer, or ends because its credential was revoked.
            AgentError: what the agent answered.
        """
        session = self._sessions.require(agent_id)
        params = RotateParams(rotation_id=rotation_id)
        answer = await session.calls.call(
            "credentials.rotate", params, timeout_s=self.settings.call_timeout_s
        )
        sha256 = codec.convert(answer, RotateResult, where="result").sha256
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):  # noqa: PLR2004 -- sha256 in hexadecimal
            raise InvalidParams("result.sha256: not a sha256 in hexadecimal.", field="result.sha256")
        if not await self._storage.add_candidate(session.credential_id, sha256):
            session.end(Close.CREDENTIAL_REFUSED, "revoked")
            raise LinkLost("The agent's credential was revoked.")
        if reconnect:
            session.end(Close.GOING_AWAY, "the credential was rotated: dial again")
        return sha256

    async def enforce_credentials(self) -> None:
        """End sessions whose credential was revoked, and start rotations that were asked for.

        Call it after a revocation, and every few seconds: another process (the command line) may have
        written to the same storage.
        """
        live = {session.credential_id: session for session in self._sessions.live()}
        for credential_id in await self._storage.revoked(tuple(live)):
            live[credential_id].end(Close.CREDENTIAL_REFUSED, "revoked")
        online = self.online()
        for agent_id in await self._storage.rotations_due():
            if agent_id in online and agent_id not in self._rotating:
                # Not waited for: an agent that does not answer must not keep others from being locked out.
                task = asyncio.create_task(self._try_rotation(agent_id), name=f"rotate {agent_id}")
                self._rotating[agent_id] = task

    async def _try_rotation(self, agent_id: str) -> None:
        try:
            await self.rotate(agent_id, new_job_id())
        except AgentError as error:
            log.warning("agent.rotation_failed", agent=agent_id, error=error.message)
        except Exception:
            log.exception("agent.rotation_failed", agent=agent_id)
        finally:
            del self._rotating[agent_id]

    async def refresh(self) -> None:
        """Read what other processes (the command line) wrote of agents, and publish it.

        Call it every few seconds.
        """
        await self.directory.refresh()

    async def store_last_seen(self) -> None:
        """Store that the live agents are there. Call it every ``settings.seen_interval_s``."""
        await self._sessions.store_last_seen()

    # -- for whoever watches the server ----------------------------------------------------------------

    @property
    def counters(self) -> LinkCounters:
        """What became of agents' sockets since this hub was made."""
        return self._sessions.counters

    @property
    def budget(self) -> WaitingBudget:
        """Of all that waits in this process, whoever makes it wait."""
        return self._budget

    @property
    def waiting_bytes(self) -> int:
        """What waits in this process for agents, and for those who asked them (``max_waiting_bytes``)."""
        return self._budget.held

    @property
    def draining(self) -> bool:
        """Whether the server stops: every agent is told to come back later."""
        return self._sessions.draining

    # -- draining ------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Tell every agent to come back later, close with 4503, and wait for the sessions' ends."""
        await self._sessions.drain()
        # Their sessions have ended, and so do they.
        await asyncio.gather(*self._rotating.values())
        await self._watches.close()
        self.events.close()

    async def end_agent(self, agent_id: str) -> None:
        """End an agent's session because it was deleted or lost its credential.

        One that enrolled again meanwhile has a credential that is good, and its session goes on.
        """
        self._sessions.forget_dials(agent_id)
        session = self._sessions.get(agent_id)
        # Where the storage does not answer, ``enforce_credentials`` finds it within seconds.
        with contextlib.suppress(StorageFailed):
            if session is not None and await self._storage.revoked((session.credential_id,)):
                session.end(Close.CREDENTIAL_REFUSED, "revoked")

    # -- beside other processes ----------------------------------------------------------------------

    def join(self, others: OtherReplicas) -> None:
        """Ask and tell ``others`` of every admission from now on; called before any."""
        self._sessions.others = others

    async def probe(self, agent_id: str) -> bool:
        """Whether the agent's session, if it has one, gives a sign of life within ``settings.probe_s``."""
        session = self._sessions.get(agent_id)
        return session is not None and await session.probe(self.settings.probe_s)

    def end_older(self, agent_id: str, session: int) -> None:
        """End the agent's session where it has a lower number: another process admitted the agent since."""
        self._sessions.end_older(agent_id, session)
