"""What the hub needs of storage. Everything is durable when the call returns; times are Unix seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from obt_agent.ollama.payloads import InstalledModel, OllamaState
from obt_agent.protocol.errors import WireError
from obt_agent.protocol.jobs import JobKind, JobProgress

CredentialState = Literal["current", "candidate", "revoked"]
StoredJobState = Literal[
    "starting", "accepted", "queued", "running", "completed", "failed", "cancelled", "interrupted", "lost"
]
"""The protocol's states; ``starting``: the start was not answered yet; ``lost``: no result will come."""

ENDED_STATES = frozenset({"completed", "failed", "cancelled", "interrupted", "lost"})


@dataclass(frozen=True, kw_only=True)
class StoredCredential:
    """A stored credential, found by its hash."""

    id: int
    agent_id: str
    state: CredentialState


@dataclass(frozen=True, kw_only=True)
class Admission:
    """What an admitted hello says of the agent, and the credential that it came with.

    ``replica``: the server process that has the session, where several share the storage.
    """

    agent_id: str
    credential_id: int
    name: str
    version: str
    store_id: str
    capabilities: tuple[str, ...]
    own_labels: tuple[str, ...] = ()
    replica: str | None = None
    at: float


@dataclass(frozen=True, kw_only=True)
class AgentRecord:
    """An enrolled agent. ``labels`` are the operators', ``own_labels`` those of its configuration.

    ``replica``: the server process that admitted it last, where several share the storage; None when it left.
    """

    id: str
    name: str
    version: str
    session: int
    store_id: str | None
    capabilities: tuple[str, ...]
    enrolled_at: float
    last_seen: float | None
    labels: tuple[str, ...] = ()
    own_labels: tuple[str, ...] = ()
    replica: str | None = None


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A job as the server knows it. ``params`` is the JSON of the command's parameters, id included."""

    job_id: str
    agent_id: str
    kind: JobKind
    state: StoredJobState
    params: bytes
    model: str | None = None
    model_digest: str | None = None
    created_at: float
    started_session: int | None = None
    finished_at: float | None = None
    progress: JobProgress | None = None
    error: WireError | None = None
    bytes: int | None = None
    sha256: str | None = None
    requested: bool = True
    """Whether this storage started it; else a final came for it that nobody here had asked for."""


@dataclass(frozen=True, kw_only=True)
class JobChange:
    """What changed about a job; None leaves a field as it is."""

    state: StoredJobState | None = None
    started_session: int | None = None
    finished_at: float | None = None
    progress: JobProgress | None = None
    error: WireError | None = None


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """A job's final: its JSON text exactly as the agent stored it."""

    agent_id: str
    job_id: str
    kind: JobKind
    state: StoredJobState
    text: bytes
    sha256: str
    model: str | None
    model_digest: str | None
    error: WireError | None
    at: float


class Fence(Protocol):
    """The right by which somebody has something begun, which another one may have taken over since.

    Looked at by whoever has the agent, right before anything is sent there.
    """

    async def check(self) -> None:
        """Raise Busy where another one has it."""

    async def create_job(self, job: JobRecord) -> None:
        """Store a job that is to be started, as ``HubStorage.create_job`` does. Raise Busy likewise."""


class HubStorage(Protocol):
    """The hub's storage. ``obt_server.store.SqlStorage`` is one; another application may bring its own."""

    async def agent(self, agent_id: str) -> AgentRecord | None:
        """One agent."""

    async def agents(self) -> Sequence[AgentRecord]:
        """All enrolled agents, by name."""

    async def agents_named(self, name: str) -> Sequence[AgentRecord]:
        """All agents of that name."""

    async def credential(self, sha256: str) -> StoredCredential | None:
        """The credential of that hash (hexadecimal), revoked ones included."""

    async def revoked(self, credential_ids: Sequence[int]) -> Sequence[int]:
        """Which of these credentials are revoked or gone."""

    async def admit(self, admission: Admission) -> AgentRecord:
        """Store what the hello says; return the agent as it is stored then.

        Its ``session`` is one more than at the last admission, and its name one that no other agent has. A
        ``store_id`` other than the stored one makes every job of the agent that has no result ``lost``. The
        replica is stored with the session's number, as one change.
        """

    async def left(self, sessions: Mapping[str, int]) -> None:
        """These sessions, by agent, ended: each has no replica any more, unless a later one is admitted.

        Asked for only where admissions name a replica.
        """

    async def promote(self, credential_id: int) -> None:
        """Make it the agent's only valid credential: it was used in a hello that was answered."""

    async def add_candidate(self, credential_id: int, sha256: str) -> bool:
        """Store the hash of the credential that follows this one, in place of an earlier candidate.

        Returns False, and stores nothing, where this one is revoked or gone.
        """

    async def rotations_due(self) -> Sequence[str]:
        """Agents whose credential somebody asked to rotate, and that have no candidate yet."""

    async def mark_seen(self, agent_ids: Sequence[str], at: float) -> None:
        """These agents, with the models that they had last, were there at that time."""

    async def save_models(
        self, agent_id: str, models: Sequence[InstalledModel], ollama: OllamaState, at: float
    ) -> None:
        """Replace the agent's models; versions (digests) that were seen before are kept with their times."""

    async def save_inventory(self, agent_id: str, fingerprint: str, inventory: bytes, at: float) -> None:
        """Replace the agent's hardware; ``inventory`` is its JSON text."""

    async def create_job(self, job: JobRecord) -> None:
        """Store a job that is about to be started."""

    async def job(self, agent_id: str, job_id: str) -> JobRecord | None:
        """One job."""

    async def open_jobs(self, agent_id: str) -> Sequence[JobRecord]:
        """The agent's jobs that have not ended."""

    async def change_job(self, agent_id: str, job_id: str, change: JobChange) -> None:
        """Apply a change to a job that has no result; one with a result stays as it is."""

    async def store_part(self, agent_id: str, job_id: str, offset: int, data: bytes, limit: int) -> int:
        """Keep a piece of a result at ``offset``; 0 starts anew.

        Returns:
            The next offset that is expected: ``offset + len(data)``, or what is held already where the piece
            leaves a hole.

        Raises:
            TooLarge: the agent's unfinished results would hold more than ``limit`` bytes.
            StorageFull: no more is kept of this agent, so that the final would not be taken either.
        """

    async def parts(self, agent_id: str, job_id: str) -> bytes:
        """The pieces that are held, joined."""

    async def finish_job(self, result: JobResult) -> Literal["stored", "repeated", "conflict"]:
        """Commit a result, the first one for good; drop the pieces. A different one is set aside.

        A result of a job that is not known here is taken too: the database that knew it may be gone.

        Raises:
            StorageFull: no more is kept of this agent; it keeps the result itself, and sends it again.
        """
