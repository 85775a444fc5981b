"""``SqlStorage``: the storage protocols on a ``Database``. Each method is one transaction."""

# ruff: noqa: D102 -- the protocols say what each method promises, and this implements them

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from obt_agent.ollama.payloads import InstalledModel, OllamaState
from obt_server.hub.storage import JobResult
from obt_server.store import agents as agent_rows
from obt_server.store import jobs as job_rows
from obt_server.store import joining
from obt_server.store.database import Database, Stored, transaction
from obt_server.store.quota import AgentQuota


class SqlStorage(Stored):
    """See ``obt_server.storage.ServerStorage`` for what each method promises.

    Args:
        database: where everything goes.
        quota: what each agent may make it keep.
    """

    def __init__(self, database: Database, quota: AgentQuota | None = None) -> None:
        super().__init__(database)
        # bounds for each agent, checked inside the transaction that stores
        self._quota = quota or AgentQuota()

    # -- for the hub --------------------------------------------------------------------------------

    agent = transaction(agent_rows.get)
    agents_named = transaction(agent_rows.named)
    credential = transaction(agent_rows.credential)
    revoked = transaction(agent_rows.revoked)
    admit = transaction(agent_rows.admit)
    promote = transaction(agent_rows.promote)
    add_candidate = transaction(agent_rows.add_candidate)
    rotations_due = transaction(agent_rows.rotations_due)
    mark_seen = transaction(agent_rows.mark_seen)
    save_inventory = transaction(agent_rows.save_inventory)
    create_job = transaction(job_rows.create)
    job = transaction(job_rows.get)
    open_jobs = transaction(job_rows.unfinished)
    change_job = transaction(job_rows.apply_change)
    parts = transaction(job_rows.parts)

    async def save_models(
        self, agent_id: str, models: Sequence[InstalledModel], ollama: OllamaState, at: float
    ) -> None:
        del ollama  # live state: the hub holds it
        await self._db.run(agent_rows.save_models, agent_id, models, at, self._quota.model_versions)

    async def store_part(self, agent_id: str, job_id: str, offset: int, data: bytes, limit: int) -> int:
        return await self._db.run(job_rows.store_part, agent_id, job_id, offset, data, limit, self._quota)

    async def finish_job(self, result: JobResult) -> Literal["stored", "repeated", "conflict"]:
        return await self._db.run(job_rows.finish, result, self._quota)

    # -- for the interface --------------------------------------------------------------------------

    agents = transaction(agent_rows.everyone)
    rename_agent = transaction(agent_rows.rename)
    delete_agent = transaction(agent_rows.remove)
    versions = transaction(agent_rows.versions)
    hardware = transaction(agent_rows.hardware)
    jobs = transaction(job_rows.find)
    job_by_id = transaction(job_rows.by_id)
    result = transaction(job_rows.result_text)
    delete_job = transaction(job_rows.remove)
    create_join_token = transaction(joining.create)
    join_tokens = transaction(joining.everything)
    revoke_join_token = transaction(joining.revoke)
    enroll = transaction(joining.enroll)
    credentials = transaction(agent_rows.credentials)
    issue_credential = transaction(agent_rows.enrol)
    revoke_credentials = transaction(agent_rows.revoke)
    request_rotation = transaction(agent_rows.request_rotation)
