"""What the REST interface needs of storage beyond the hub's part. Times are Unix seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Protocol

import msgspec

from obt_agent.errors import AgentError, StorageFailed
from obt_server.campaign_storage import CampaignStorage
from obt_server.hub.storage import AgentRecord, HubStorage, JobRecord
from obt_server.replica_storage import ReplicaStorage
from obt_server.rollout_storage import RolloutStorage
from obt_server.schedule_storage import ScheduleStorage
from obt_server.verdict_storage import VerdictStorage

MOST_REPORTED: Final = 2**48
"""The most that is believed of a whole number that an agent reports, a count of bytes for instance: far above
what there is, and ten thousand of them have a sum of 64 bits."""
Reported = Annotated[int, msgspec.Meta(ge=0, le=MOST_REPORTED)]
"""A whole number in an agent's own words. One that is too large makes the words unreadable, and no more."""


class StorageUnavailable(StorageFailed):
    """The server's own storage does not answer now; ``StorageFailed`` alone is what agents say of theirs."""


class NotStored(AgentError):
    """There is nothing of that id."""

    kind = "not_found"


class NameTaken(AgentError):
    """Another agent has the name from an operator, or it can be no name."""

    kind = "name_taken"


class AmbiguousJob(AgentError):
    """Several agents have a job of that id: name one."""

    kind = "job_ambiguous"


class JoinRefused(AgentError):
    """The join token is unknown, expired, revoked or used; ``reason`` in detail says which."""

    kind = "join_refused"


class IdentityTaken(AgentError):
    """An agent of that id is enrolled already, with a valid credential."""

    kind = "identity_taken"


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A digest seen under a name on an agent. ``current``: it was in the last list that the agent sent."""

    agent_id: str
    name: str
    digest: str
    current: bool
    first_seen: float
    last_seen: float
    details: bytes
    """The JSON of the ``InstalledModel`` as it was last seen."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """An agent's inventory, as the JSON text that it sent."""

    fingerprint: str
    inventory: bytes
    updated_at: float


@dataclass(frozen=True, kw_only=True)
class JoinToken:
    """A join token, without its secret.

    ``agent_id``: only this agent may use it, and may replace its credential with it.
    """

    id: int
    note: str
    agent_id: str | None
    created_at: float
    expires_at: float
    revoked_at: float | None
    used_at: float | None
    used_by: str | None


@dataclass(frozen=True, kw_only=True)
class CredentialInfo:
    """A credential as operators see it: never the secret, never its hash."""

    id: int
    agent_id: str
    state: Literal["current", "candidate", "revoked"]
    created_at: float
    last_used_at: float | None
    rotation_requested: bool


@dataclass(frozen=True, kw_only=True)
class Enrolment:
    """What an enrolling agent says; the secret itself never comes here."""

    agent_id: str
    name: str
    version: str
    secret_sha256: str


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """Which jobs to list; the newest come first. ``with_result``: only those whose result is stored.

    ``requested``: only those that this server started, or only those that it did not; None for both.
    ``before``: only those that were created earlier; with ``before_id`` and ``before_agent`` also those of
    that time that come after this job of this agent, by their ids.
    """

    agent_id: str | None = None
    kind: str | None = None
    model: str | None = None
    state: str | None = None
    before: float | None = None
    before_id: str | None = None
    before_agent: str | None = None
    limit: int = 100
    with_result: bool = False
    requested: bool | None = None


@dataclass(frozen=True, kw_only=True)
class StoredBenchmark:
    """A benchmark whose result is stored, without the result."""

    agent_id: str
    job_id: str
    sha256: str
    created_at: float
    finished_at: float | None
    model: str | None
    model_digest: str | None
    requested: bool


@dataclass(frozen=True, kw_only=True)
class SavedPlan:
    """A version of a plan under a name: the JSON of its fields, without ``model_name``.

    ``hash`` names what it measures; None where an older release stored what this one cannot read.
    """

    name: str
    plan: bytes
    saved_at: float
    version: int = 1
    hash: str | None = None
    comment: str | None = None
    saved_by: str = ""


class ServerStorage(HubStorage, RolloutStorage, CampaignStorage, VerdictStorage, ScheduleStorage, Protocol):
    """All that the router needs. ``obt_server.store.SqlStorage`` implements it."""

    async def rename_agent(self, agent_id: str, name: str | None) -> AgentRecord:
        """Give an agent a name that no hello of its own changes; None lets it choose at its next hello.

        An agent that only calls itself so is shown with its id from then on. Raise NotStored, NameTaken.
        """

    async def label_agent(self, agent_id: str, labels: Sequence[str]) -> AgentRecord:
        """Replace the labels that operators gave an agent; its own stay. Raise NotStored."""

    async def delete_agent(self, agent_id: str) -> None:
        """Forget an agent with everything that it reported.

        Raises:
            NotStored: there is none.
            IdentityTaken: it enrolled again meanwhile, and stays.
        """

    async def versions(
        self, *, agent_id: str | None = None, name: str | None = None, details: bool = True
    ) -> Sequence[ModelVersion]:
        """Every digest seen, by name, agent and first seen. Without ``details`` those may be empty."""

    async def hardware(self, agent_id: str) -> Hardware | None:
        """The agent's last inventory."""

    async def jobs(self, which: JobFilter) -> Sequence[JobRecord]:
        """Jobs that pass the filter."""

    async def job_by_id(self, job_id: str, agent_id: str | None = None) -> JobRecord:
        """Return the job of that id.

        A job is an agent and an id. Where no agent is named, a requested job comes before results that nobody
        asked for: an agent must not answer for another by storing a final under its job's id.

        Raises:
            NotStored: there is none.
            AmbiguousJob: no agent is named, and several jobs are equally good.
        """

    async def result(self, agent_id: str, job_id: str) -> bytes | None:
        """The JSON text of a job's result, exactly as the agent stored it."""

    async def stored_benchmarks(self) -> Sequence[StoredBenchmark]:
        """Every benchmark whose result is stored, the newest first."""

    async def benchmarks_mark(self) -> str:
        """A text that is another one whenever ``stored_benchmarks`` would answer with another list."""

    async def digests(self) -> Sequence[tuple[str, str, str, bytes]]:
        """All that ``keep_digests`` stored: agent, job, sha256 of the result, digest."""

    async def keep_digests(self, made: Sequence[tuple[str, str, str, bytes]]) -> None:
        """Store what lists show of results, each in place of an earlier one. They can be computed again."""

    async def plans(self) -> Sequence[SavedPlan]:
        """The newest version of each saved plan, by name."""

    async def plan_versions(self, name: str) -> Sequence[SavedPlan]:
        """The versions that are kept under a name, the newest first; none where it is not there."""

    async def plans_of_hash(self, plan_hash: str) -> Sequence[SavedPlan]:
        """The versions that measure this, those of deleted names too, by name."""

    async def save_plan(self, plan: SavedPlan) -> SavedPlan:
        """Store a plan as the next version of its name, and return it; the last one where the hash is equal.

        Raises:
            StorageFull: there are as many names as are kept.
        """

    async def delete_plan(self, name: str) -> None:
        """Forget a saved plan's name; its versions can be found by their hashes. Raises NotStored."""

    async def delete_job(self, agent_id: str, job_id: str) -> None:
        """Forget a job that has ended, with its result. Raises NotStored."""

    async def create_join_token(
        self, sha256: str, *, note: str, agent_id: str | None, at: float, expires_at: float
    ) -> JoinToken:
        """Store a new join token by its hash."""

    async def join_tokens(self) -> Sequence[JoinToken]:
        """All join tokens, the newest first."""

    async def join_token(self, sha256: str) -> JoinToken | None:
        """The join token whose secret has that hash, whether it may still be used or not."""

    async def revoke_join_token(self, token_id: int, at: float) -> None:
        """Make a join token useless. Raises NotStored."""

    async def enroll(self, token_sha256: str, enrolment: Enrolment, at: float) -> AgentRecord:
        """Use up a join token: store agent and credential. A repeat with the same secret repeats the answer.

        Raises:
            JoinRefused: the join token cannot be used.
            IdentityTaken: an agent of that id is enrolled already.
        """

    async def credentials(self) -> Sequence[CredentialInfo]:
        """All credentials, by agent."""

    async def revoke_credentials(self, agent_id: str, at: float) -> int:
        """Revoke every credential of an agent; returns how many. Raises NotStored."""

    async def request_rotation(self, agent_id: str, at: float) -> None:
        """Note that the agent's credential is to be rotated when it is next there. Raises NotStored."""


class SharedStorage(ServerStorage, ReplicaStorage, Protocol):
    """What several server processes need that share a database."""
