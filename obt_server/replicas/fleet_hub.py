"""``FleetHub``: the hub of a server process that is one of several on one database."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import msgspec

from obt_agent.protocol import codec, methods
from obt_agent.protocol.commands import BenchmarkMetricsParams, CancelResult, HardwareWatchParams
from obt_agent.protocol.jobs import JobStarted
from obt_server.bus import Bus, Exchanges, ExchangeSettings
from obt_server.hub import (
    AgentHub,
    AgentStream,
    CommandParams,
    Presence,
    Viewer,
)
from obt_server.hub.command_params import NO_PARAMS, checked
from obt_server.hub.commands import call_timeout_s, check_plain, check_streamed, start_params
from obt_server.hub.directory import after_hello
from obt_server.hub.errors import Draining
from obt_server.hub.events import AgentChanged, Event, JobChanged
from obt_server.hub.jobs import KIND_OF_METHOD
from obt_server.hub.shared_series import SharedWatches
from obt_server.hub.storage import Fence
from obt_server.replicas.admissions import FleetAdmissions, FleetStorage
from obt_server.replicas.agent_server import AgentServer
from obt_server.replicas.errors import CARRIED
from obt_server.replicas.event_bridge import EventBridge
from obt_server.replicas.fence import lease_of
from obt_server.replicas.local_side import LocalSide
from obt_server.replicas.membership import Membership
from obt_server.replicas.messages import (
    Asked,
    CallText,
    CancelJob,
    OpenStream,
    Rotate,
    StartJob,
    WatchBenchmark,
    WatchHardware,
)
from obt_server.replicas.own_agents import OwnAgents
from obt_server.replicas.presence_exchange import PresenceExchange
from obt_server.replicas.recorded_agents import RecordedAgents
from obt_server.replicas.remote_agents import RemoteAgent, RemoteAgents
from obt_server.replicas.routing import AgentRoutes
from obt_server.replicas.subjects import Subjects
from obt_server.tasks import Tasks

FIRST_LISTS_S: Final = 2.0
"""For the others' lists when this process begins: with them its first answers name all agents."""


@dataclasses.dataclass(frozen=True)
class _Links:
    """The ways to the other processes, while this one serves."""

    subjects: Subjects
    exchanges: Exchanges
    routes: AgentRoutes


class FleetHub(LocalSide):
    """Reaches the agents of all processes: its own by their sockets, the others' through their processes.

    Own agents need no other process. While the bus is away the others' are shown as they were last heard of,
    or as the database says who has them, and what is asked of them raises ``OutOfReach``.

    Args:
        local: the agents whose sockets this process has.
        storage: which process has which agent.
        bus: to the other processes; started and closed with ``serving``.
        membership: which processes run.
    """

    def __init__(self, local: AgentHub, storage: FleetStorage, bus: Bus, membership: Membership) -> None:
        super().__init__(local)
        self._storage = storage
        self.bus = bus
        self.membership = membership
        self._remote = RemoteAgents()
        self._own = OwnAgents(local)
        self._presence = PresenceExchange(self._own, self._remote, membership, self._on_remote)
        self._recorded = RecordedAgents(
            membership.replica_id, self._remote, membership.alive, self._presence.heard
        )
        self._bridge = EventBridge(
            local.events, membership.replica_id, local.directory.changed_elsewhere, self._end_here
        )
        self._admissions = FleetAdmissions(
            membership.replica_id, local, storage, own=self._own, remote=self._remote, presence=self._presence
        )
        self._watches = SharedWatches()
        self._tasks = Tasks("fleet")
        # None before and after ``serving``
        self._links: _Links | None = None

    # -- lifetime -----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Be one of the processes for as long as the context lasts.

        Raises:
            StorageFailed: the database does not answer at the beginning.
        """
        local, own_id = self._local, self.membership.replica_id
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.bus.close)
            # Returns within seconds whether the bus is there or not: own agents need none.
            await self.bus.start()
            await self.membership.start()
            stack.push_async_callback(self.membership.close)
            subjects = Subjects(self.membership.cluster)
            settings = ExchangeSettings(prefix=subjects.prefix, errors=CARRIED)
            exchanges = Exchanges(self.bus, own_id, local.budget, settings)
            await exchanges.start()
            stack.push_async_callback(exchanges.close)
            routes = AgentRoutes(self._storage, exchanges, subjects, self._presence.gone)
            self._links = _Links(subjects, exchanges, routes)
            stack.callback(self._unlink)
            serving = await exchanges.serve(
                subjects.replica(own_id, "agents"), AgentServer(local, self._storage).handle
            )
            stack.push_async_callback(serving.close)
            stack.push_async_callback(self._admissions.close)
            self._admissions.begin(exchanges, subjects)
            local.join(self._admissions)
            local.directory.on_changed = self._bridge.record_changed
            stack.callback(local.events.observe(self._on_event))
            await local.directory.current()
            await stack.enter_async_context(self._bridge.running(self.bus, subjects))
            await stack.enter_async_context(self._presence.running(self.bus, exchanges, subjects))
            stack.push_async_callback(self._tasks.close)
            stack.push_async_callback(self._watches.close)
            await self._presence.first_lists(FIRST_LISTS_S)
            self._take_records()
            yield

    @property
    def exchanges(self) -> Exchanges:
        """Carries what is asked of other processes. Raises Draining while this one does not serve."""
        return self._ways.exchanges

    @property
    def subjects(self) -> Subjects:
        """What messages are addressed to. Raises Draining while this one does not serve."""
        return self._ways.subjects

    @property
    def _ways(self) -> _Links:
        if self._links is None:
            raise Draining("The server is starting.", retry_after_ms=1000)
        return self._links

    def _unlink(self) -> None:
        self._links = None

    def _on_event(self, event: Event) -> None:
        if isinstance(event, AgentChanged | JobChanged):
            self._presence.changed(event.agent_id)

    def _on_remote(self, agent_id: str) -> None:
        """Another process told of an agent."""
        known = self._remote.get(agent_id)
        self._recorded.ended(agent_id, self._remote.last_ended(agent_id))
        if known is not None:
            self._local.end_older(agent_id, known.session)
            self._note_admission(agent_id, known)
        self._local.events.relay(AgentChanged(agent_id))

    def _note_admission(self, agent_id: str, known: RemoteAgent) -> None:
        """Have the directory say of an agent what it said at its admission elsewhere, without a read."""
        directory = self._local.directory
        record, hello = directory.records.get(agent_id), self._remote.hello(agent_id)
        # Enrolled elsewhere a moment ago: whoever asks next waits for a read.
        if record is None:
            directory.changed_elsewhere(agent_id)
        elif record.session < known.session and hello is not None:
            # Its name is not what it calls itself: whether another has that is the storage's to say, which
            # is read in a moment.
            directory.stored(
                after_hello(record, hello, session=known.session, replica=known.replica, at=hello.at)
            )

    def _end_here(self, agent_id: str) -> None:
        self._tasks.start(self._local.end_agent(agent_id), f"end {agent_id}")

    async def drain(self) -> None:
        """See ``AgentHub.drain``: agents of other processes stay there, and who watches them here is told."""
        await self._local.drain()
        if self._links is not None:
            self._links.routes.end_streams("This server process stops.")

    # -- again and again -------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Read what other processes wrote of agents; end sessions here that are older than what is stored.

        By this a session ends within seconds of the agent's admission elsewhere, also without the bus.
        """
        try:
            await self._local.refresh()
        # Also where the database is away: of admissions elsewhere the others told.
        finally:
            self._take_records()
            self._end_older()

    def _end_older(self) -> None:
        records = self._local.directory.records
        for agent_id in self._local.online():
            record = records.get(agent_id)
            if record is not None:
                self._local.end_older(agent_id, record.session)

    def _take_records(self) -> None:
        for agent_id in self._recorded.take(self._local.directory.records):
            self._local.events.relay(AgentChanged(agent_id))

    # -- presence -----------------------------------------------------------------------------------

    def presence(self, agent_id: str) -> Presence | None:
        """Return what the agent's live session has reported, wherever that is.

        Of a process that runs and is not heard: which session it is, as the database says.
        """
        return (
            self._local.presence(agent_id)
            or self._remote.presence(agent_id)
            or self._recorded.presence(agent_id)
        )

    def heard_ago_s(self, agent_id: str) -> float | None:
        """Return the seconds since anything was heard of a live agent.

        Of another process's agent as of what that told last: signs of life between two heartbeats are not
        passed on. None where that process is not heard.
        """
        here = self._local.heard_ago_s(agent_id)
        if here is not None:
            return here
        known = self._remote.get(agent_id)
        return None if known is None else time.monotonic() - known.heard_at

    def online(self) -> frozenset[str]:
        """Return the ids of the agents that have a session anywhere."""
        return self._local.online().union(self._remote, self._recorded)

    def _is_here(self, agent_id: str) -> bool:
        return self._local.presence(agent_id) is not None

    # -- commands -----------------------------------------------------------------------------------

    async def call(
        self,
        agent_id: str,
        method: str,
        params: CommandParams = NO_PARAMS,
        *,
        timeout_s: float | None = None,
    ) -> Any:
        """See ``AgentHub.call``. Raises, besides, as ``AgentRoutes.call``."""
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
        """See ``AgentHub.call_text``. Raises, besides, as ``AgentRoutes.call``."""
        if self._is_here(agent_id):
            return await self._local.call_text(agent_id, method, params, timeout_s=timeout_s, fence=fence)
        check_plain(method)
        if method in KIND_OF_METHOD:
            return msgspec.json.encode(await self.start_job(agent_id, method, params, fence=fence))
        # Refused here, and not after a way through two processes.
        text = bytes(checked(method, params))
        within_s = call_timeout_s(method, timeout_s, self.settings)
        asked = CallText(method, text, within_s, lease_of(fence))
        return await self._ways.routes.call(agent_id, asked, within_s)

    @contextlib.asynccontextmanager
    async def stream(
        self, agent_id: str, method: str, params: CommandParams = NO_PARAMS
    ) -> AsyncIterator[AgentStream]:
        """See ``AgentHub.stream``. Raises, besides, as ``AgentRoutes.call``, here or while it is read."""
        if self._is_here(agent_id):
            async with self._local.stream(agent_id, method, params) as here:
                yield here
            return
        check_streamed(method)
        asked = OpenStream(method, bytes(checked(method, params)))
        silence_s = self.settings.stream_silence_s
        async with self._ways.routes.stream(agent_id, asked, method, silence_s) as there:
            yield there

    def watch_hardware(self, agent_id: str, interval_ms: int = 1000) -> AbstractAsyncContextManager[Viewer]:
        """See ``AgentHub.watch_hardware``; viewers of all processes share one watch at the agent."""
        if self._is_here(agent_id):
            return self._local.watch_hardware(agent_id, interval_ms)
        params = msgspec.json.encode(HardwareWatchParams(interval_ms=interval_ms))
        key = (agent_id, "hardware_watch", params)
        return self._watch(key, WatchHardware(interval_ms), -1, keep_history=False)

    def watch_benchmark(
        self, agent_id: str, job_id: str, after: int = -1
    ) -> AbstractAsyncContextManager[Viewer]:
        """See ``AgentHub.watch_benchmark``; viewers of all processes share one watch at the agent."""
        if self._is_here(agent_id):
            return self._local.watch_benchmark(agent_id, job_id, after)
        params = msgspec.json.encode(BenchmarkMetricsParams(job_id=job_id, after=0))
        key = (agent_id, "benchmark_metrics", params)
        return self._watch(key, WatchBenchmark(job_id), after, keep_history=True)

    @contextlib.asynccontextmanager
    async def _watch(
        self, key: tuple[str, str, bytes], asked: Asked, after: int, *, keep_history: bool
    ) -> AsyncIterator[Viewer]:
        agent_id, method, _ = key
        routes = self._ways.routes
        # Before a viewer is there: whether there is such an agent is no news of a watch.
        await routes.check(agent_id)

        def open_stream() -> AbstractAsyncContextManager[AgentStream]:
            return routes.stream(agent_id, asked, method, self.settings.stream_silence_s)

        async with self._watches.view(key, open_stream, after, keep_history=keep_history) as viewer:
            yield viewer

    # -- jobs and credentials ----------------------------------------------------------------------------

    async def start_job(
        self, agent_id: str, method: str, params: CommandParams, *, fence: Fence | None = None
    ) -> JobStarted:
        """See ``AgentHub.start_job``: the process that has the agent stores the job, and asks the agent.

        Raises, besides, as ``AgentRoutes.call``. After ``LinkLost`` the job may be stored: the same id again
        is the same job, and one that is stored as ``starting`` is started at the agent's next admission,
        wherever that is.
        """
        if self._is_here(agent_id):
            return await self._local.start_job(agent_id, method, params, fence=fence)
        body = msgspec.json.encode(start_params(method, params))
        within_s = self.settings.call_timeout_s
        asked = StartJob(method, body, lease_of(fence))
        answer = await self._ways.routes.call(agent_id, asked, within_s)
        return codec.convert(answer, JobStarted, where="result")

    async def cancel_job(self, agent_id: str, job_id: str) -> CancelResult:
        """See ``AgentHub.cancel_job``. Raises, besides, as ``AgentRoutes.call``."""
        if self._is_here(agent_id):
            return await self._local.cancel_job(agent_id, job_id)
        within_s = self.settings.call_timeout_s
        answer = await self._ways.routes.call(agent_id, CancelJob(job_id), within_s)
        return codec.convert(answer, CancelResult, where="result")

    async def rotate(self, agent_id: str, rotation_id: str, *, reconnect: bool = False) -> str:
        """See ``AgentHub.rotate``. Raises, besides, as ``AgentRoutes.call``."""
        if self._is_here(agent_id):
            return await self._local.rotate(agent_id, rotation_id, reconnect=reconnect)
        within_s = self.settings.call_timeout_s
        asked = Rotate(rotation_id, reconnect)
        return (await self._ways.routes.call(agent_id, asked, within_s)).decode()

    async def end_agent(self, agent_id: str) -> None:
        """End the agent's session wherever it is; while the bus is away, its process finds it in seconds."""
        self._bridge.end(agent_id)
        await self._local.end_agent(agent_id)
