"""``SqlStorage``: the storage protocols on a ``Database``. Each method is one transaction."""

# ruff: noqa: D102 -- the protocols say what each method promises, and this implements them

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import msgspec

from obt_agent.ollama.payloads import InstalledModel, OllamaState
from obt_server.hub.storage import Admission, AgentRecord, JobChange, JobRecord, JobResult, StoredCredential
from obt_server.storage import CredentialInfo, Enrolment, Hardware, JobFilter, JoinToken, ModelVersion
from obt_server.store import agents, jobs, joining
from obt_server.store.database import Database
from obt_server.store.quota import AgentQuota


class SqlStorage:
    """See ``obt_server.storage.ServerStorage`` for what each method promises.

    Args:
        database: where everything goes.
        quota: what each agent may make it keep.
    """

    def __init__(self, database: Database, quota: AgentQuota | None = None) -> None:
        self._db = database
        self._quota = quota or AgentQuota()

    # -- for the hub --------------------------------------------------------------------------------

    async def agent(self, agent_id: str) -> AgentRecord | None:
        return await self._db.run(agents.get, agent_id)

    async def agents_named(self, name: str) -> Sequence[AgentRecord]:
        return await self._db.run(agents.named, name)

    async def credential(self, sha256: str) -> StoredCredential | None:
        return await self._db.run(agents.credential, sha256)

    async def revoked(self, credential_ids: Sequence[int]) -> Sequence[int]:
        return await self._db.run(agents.revoked, credential_ids) if credential_ids else ()

    async def admit(self, admission: Admission) -> int:
        return await self._db.run(agents.admit, admission)

    async def promote(self, credential_id: int) -> None:
        await self._db.run(agents.promote, credential_id, time.time())

    async def add_candidate(self, agent_id: str, sha256: str) -> None:
        await self._db.run(agents.add_candidate, agent_id, sha256, time.time())

    async def rotations_due(self) -> Sequence[str]:
        return await self._db.run(agents.rotations_due)

    async def mark_seen(self, agent_ids: Sequence[str], at: float) -> None:
        await self._db.run(agents.mark_seen, agent_ids, at)

    async def save_models(
        self, agent_id: str, models: Sequence[InstalledModel], ollama: OllamaState, at: float
    ) -> None:
        del ollama  # live state: the hub holds it
        await self._db.run(agents.save_models, agent_id, models, at, self._quota.model_versions)

    async def save_inventory(
        self, agent_id: str, fingerprint: str, inventory: msgspec.Raw, at: float
    ) -> None:
        await self._db.run(agents.save_inventory, agent_id, fingerprint, bytes(inventory), at)

    async def create_job(self, job: JobRecord) -> None:
        await self._db.run(jobs.create, job)

    async def job(self, agent_id: str, job_id: str) -> JobRecord | None:
        return await self._db.run(jobs.get, agent_id, job_id)

    async def open_jobs(self, agent_id: str) -> Sequence[JobRecord]:
        return await self._db.run(jobs.unfinished, agent_id)

    async def change_job(self, agent_id: str, job_id: str, change: JobChange) -> None:
        await self._db.run(jobs.change, agent_id, job_id, change)

    async def store_part(self, agent_id: str, job_id: str, offset: int, data: bytes, limit: int) -> int:
        return await self._db.run(jobs.store_part, agent_id, job_id, offset, data, limit, self._quota)

    async def parts(self, agent_id: str, job_id: str) -> bytes:
        return await self._db.run(jobs.parts, agent_id, job_id)

    async def finish_job(self, result: JobResult) -> Literal["stored", "repeated", "conflict"]:
        return await self._db.run(jobs.finish, result, self._quota)

    # -- for the interface --------------------------------------------------------------------------

    async def agents(self) -> Sequence[AgentRecord]:
        return await self._db.run(agents.everyone)

    async def delete_agent(self, agent_id: str) -> None:
        await self._db.run(agents.remove, agent_id)

    async def versions(
        self, *, agent_id: str | None = None, name: str | None = None
    ) -> Sequence[ModelVersion]:
        return await self._db.run(agents.versions, agent_id, name)

    async def hardware(self, agent_id: str) -> Hardware | None:
        return await self._db.run(agents.hardware, agent_id)

    async def jobs(self, which: JobFilter) -> Sequence[JobRecord]:
        return await self._db.run(jobs.find, which)

    async def job_by_id(self, job_id: str, agent_id: str | None = None) -> JobRecord:
        return await self._db.run(jobs.by_id, job_id, agent_id)

    async def result(self, agent_id: str, job_id: str) -> bytes | None:
        return await self._db.run(jobs.result_text, agent_id, job_id)

    async def delete_job(self, agent_id: str, job_id: str) -> None:
        await self._db.run(jobs.remove, agent_id, job_id)

    async def create_join_token(
        self, sha256: str, *, note: str, agent_id: str | None, at: float, expires_at: float
    ) -> JoinToken:
        return await self._db.run(
            joining.create, sha256, note=note, agent_id=agent_id, at=at, expires_at=expires_at
        )

    async def join_tokens(self) -> Sequence[JoinToken]:
        return await self._db.run(joining.everything)

    async def revoke_join_token(self, token_id: int, at: float) -> None:
        await self._db.run(joining.revoke, token_id, at)

    async def enroll(self, token_sha256: str, enrolment: Enrolment, at: float) -> AgentRecord:
        return await self._db.run(joining.enroll, token_sha256, enrolment, at)

    async def credentials(self) -> Sequence[CredentialInfo]:
        return await self._db.run(agents.credentials)

    async def issue_credential(self, enrolment: Enrolment, at: float) -> AgentRecord:
        return await self._db.run(agents.enrol, enrolment, at, retake=False)

    async def revoke_credentials(self, agent_id: str, at: float) -> int:
        del at
        return await self._db.run(agents.revoke, agent_id)

    async def request_rotation(self, agent_id: str, at: float) -> None:
        await self._db.run(agents.request_rotation, agent_id, at)
