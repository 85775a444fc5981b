"""``AgentHub``: every admitted agent, and the ways to ask something of one. Knows neither HTTP nor SQL."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import structlog

from obt_agent.errors import AgentError, InvalidParams, UnknownCommand
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
from obt_server.hub.budget import WaitingBudget
from obt_server.hub.calls import AgentStream
from obt_server.hub.command_params import NO_PARAMS, CommandParams, checked, json_object
from obt_server.hub.counters import LinkCounters
from obt_server.hub.directory import AgentDirectory
from obt_server.hub.errors import AmbiguousAgent, UnknownAgent
from obt_server.hub.events import EventBus
from obt_server.hub.incoming import Incoming
from obt_server.hub.jobs import KIND_OF_METHOD, JobTracker, check_job_id, new_job_id
from obt_server.hub.presence import Presence
from obt_server.hub.sessions import Sessions
from obt_server.hub.settings import HubSettings
from obt_server.hub.shared_series import SharedSeries, Viewer
from obt_server.hub.sockets import HubSocket
from obt_server.hub.storage import AgentRecord, HubStorage, StoredCredential

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
        self._jobs = JobTracker(storage, self.events, self.settings)
        # one for everything that waits in this process, whoever makes it wait
        self._budget = budget = WaitingBudget(self.settings.max_waiting_bytes)
        incoming = Incoming(storage, self._jobs, self.events, self.settings, budget)
        self.directory = AgentDirectory(storage, self.events)
        self._sessions = Sessions(storage, incoming, self.directory, self.settings, budget)
        # open watches, by agent, command and parameters: equal ones are shared
        self._series: dict[tuple[str, str, bytes], SharedSeries] = {}

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
    ) -> bytes:
        """Do the same, and return the result as the JSON text that the agent sent. Raises as ``call``."""
        if method not in _COMMANDS or method in STREAMED:
            raise UnknownCommand(f"There is no command {method[:64]!r} with a single answer.")
        if method in KIND_OF_METHOD:
            return msgspec.json.encode(await self.start_job(agent_id, method, params))
        text = checked(method, params)
        session = self._sessions.require(agent_id)
        timeout = timeout_s or _CALL_TIMEOUT_S.get(method, self.settings.call_timeout_s)
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
        if method not in STREAMED:
            raise UnknownCommand(f"{method[:64]!r} is no streamed command.")
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
        key = (agent_id, method, params)
        series = self._series.get(key)
        # One that has ended stays until its last viewer has left, and can take no more.
        if series is None or not series.live:
            series = SharedSeries(
                lambda: session.calls.stream(
                    method, msgspec.Raw(params), silence_s=self.settings.stream_silence_s
                ),
                keep_history=keep_history,
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

    async def start_job(self, agent_id: str, method: str, params: CommandParams) -> JobStarted:
        """Start a benchmark, pull or creation; ``job_id`` is made here unless ``params`` names one.

        An agent that is offline is refused, and nothing is stored: what runs later, unasked, on a machine
        that somebody uses would surprise them. Once the start was sent it is stored, and repeated with the
        same id when the link was lost before the answer.

        Raises:
            AgentOffline: the agent has no session.
            InvalidParams: the parameters do not fit the command.
            LinkLost: the session ended before the answer; the job will be started again.
            AgentError: what the agent answered.
        """
        session = self._sessions.require(agent_id)
        body = codec.convert(json_object(params), dict[str, Any])
        # Here, and not by the agent: a start that is repeated must name the job that the first one named.
        body.setdefault("job_id", new_job_id())
        checked(method, body)
        check_job_id(body["job_id"], "params.job_id")
        return await self._jobs.start(session, method, body)

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
        await self._storage.add_candidate(agent_id, sha256)
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
        for agent_id in await self._storage.rotations_due():
            if agent_id in self.online():
                await self._try_rotation(agent_id)

    async def _try_rotation(self, agent_id: str) -> None:
        try:
            await self.rotate(agent_id, new_job_id())
        except AgentError as error:
            log.warning("agent.rotation_failed", agent=agent_id, error=error.message)

    async def store_last_seen(self) -> None:
        """Store that the live agents are there. Call it every ``settings.seen_interval_s``."""
        await self._sessions.store_last_seen()

    # -- for whoever watches the server ----------------------------------------------------------------

    @property
    def counters(self) -> LinkCounters:
        """What became of agents' sockets since this hub was made."""
        return self._sessions.counters

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
        for series in list(self._series.values()):
            await series.close()
        self.events.close()

    async def end_agent(self, agent_id: str) -> None:
        """End an agent's session because it was deleted or lost its credential."""
        self._sessions.forget_dials(agent_id)
        session = self._sessions.get(agent_id)
        if session is not None:
            session.end(Close.CREDENTIAL_REFUSED, "revoked")
