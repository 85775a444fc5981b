"""``Hub``: what everything above the hub asks, whether this process has all agents or a part of them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from obt_agent.protocol.commands import CancelResult
from obt_agent.protocol.jobs import JobStarted
from obt_server.hub.agent_stream import AgentStream
from obt_server.hub.command_params import NO_PARAMS, CommandParams
from obt_server.hub.counters import LinkCounters
from obt_server.hub.directory import AgentDirectory
from obt_server.hub.events import EventBus
from obt_server.hub.presence import Presence
from obt_server.hub.settings import HubSettings
from obt_server.hub.shared_series import Viewer
from obt_server.hub.sockets import HubSocket
from obt_server.hub.storage import AgentRecord, Fence, StoredCredential


class Hub(Protocol):
    """Every admitted agent, and the ways to ask something of one.

    ``AgentHub`` is the hub of a process that has all agents; its methods say what each of these raises.
    Of several processes that share a database each has one that reaches the agents of all: there whatever is
    asked of an agent may raise ``OutOfReach``, too.
    """

    @property
    def settings(self) -> HubSettings:
        """Its numbers."""

    @property
    def events(self) -> EventBus:
        """What happens to agents and jobs, here and elsewhere."""

    @property
    def directory(self) -> AgentDirectory:
        """The records of all enrolled agents."""

    def serving(self) -> AbstractAsyncContextManager[None]:
        """Whatever the hub needs while it serves: entered before anything else of the server begins."""

    # -- sockets ------------------------------------------------------------------------------------

    def check_capacity(self) -> None:
        """Check that another socket may be accepted. Raises Draining."""

    def check_dials(self, agent_id: str) -> None:
        """Called before a socket of a known agent is accepted. Raises Busy."""

    async def serve(self, socket: HubSocket, credential: StoredCredential) -> None:
        """Serve one accepted socket: hello, admission, session. Return when it has ended."""

    # -- presence -----------------------------------------------------------------------------------

    async def find(self, id_or_name: str) -> AgentRecord:
        """Return the agent of that id or name. Raises UnknownAgent, AmbiguousAgent."""

    def presence(self, agent_id: str) -> Presence | None:
        """Return what the agent's live session has reported; None when it has none."""

    def heard_ago_s(self, agent_id: str) -> float | None:
        """Return the seconds since a live agent was heard of, as far as is known here; None: offline."""

    def online(self) -> frozenset[str]:
        """Return the ids of the agents that have a session."""

    # -- commands -----------------------------------------------------------------------------------

    async def call(
        self,
        agent_id: str,
        method: str,
        params: CommandParams = NO_PARAMS,
        *,
        timeout_s: float | None = None,
    ) -> Any:
        """Send a command with one answer, and return its result decoded."""

    async def call_text(
        self,
        agent_id: str,
        method: str,
        params: CommandParams = NO_PARAMS,
        *,
        timeout_s: float | None = None,
        fence: Fence | None = None,
    ) -> bytes:
        """Do the same, and return the result as the JSON text that the agent sent.

        ``fence``: nothing is sent where it refuses that, and Busy is raised.
        """

    def stream(
        self, agent_id: str, method: str, params: CommandParams = NO_PARAMS
    ) -> AbstractAsyncContextManager[AgentStream]:
        """Send a streamed command; leaving the context cancels it."""

    def watch_hardware(self, agent_id: str, interval_ms: int = 1000) -> AbstractAsyncContextManager[Viewer]:
        """Watch a machine's live samples, the newest at once."""

    def watch_benchmark(
        self, agent_id: str, job_id: str, after: int = -1
    ) -> AbstractAsyncContextManager[Viewer]:
        """Watch a running benchmark's live samples; those after sample ``after`` come first."""

    # -- jobs ---------------------------------------------------------------------------------------

    async def start_job(
        self, agent_id: str, method: str, params: CommandParams, *, fence: Fence | None = None
    ) -> JobStarted:
        """Start a benchmark, pull or creation; ``fence`` as with ``call_text``."""

    async def cancel_job(self, agent_id: str, job_id: str) -> CancelResult:
        """Cancel a job at the agent."""

    # -- credentials --------------------------------------------------------------------------------

    async def rotate(self, agent_id: str, rotation_id: str, *, reconnect: bool = False) -> str:
        """Let a live agent make its next credential; return the candidate's sha256."""

    async def end_agent(self, agent_id: str) -> None:
        """End an agent's session because it was deleted or lost its credential."""

    # -- what is done again and again ----------------------------------------------------------------

    async def enforce_credentials(self) -> None:
        """End sessions whose credential was revoked, and start rotations that were asked for."""

    async def refresh(self) -> None:
        """Read what other processes wrote of agents, and act on it."""

    async def store_last_seen(self) -> None:
        """Store that the live agents are there."""

    # -- for whoever watches the server, and its end -------------------------------------------------

    @property
    def counters(self) -> LinkCounters:
        """What became of the sockets of this process."""

    @property
    def waiting_bytes(self) -> int:
        """What waits in this process for agents, and for those who asked them."""

    @property
    def draining(self) -> bool:
        """Whether this process stops."""

    async def drain(self) -> None:
        """Tell every agent of this process to come back later, and wait for the sessions' ends."""
