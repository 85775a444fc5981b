"""``SqlStorage``: the storage protocols on a ``Database``. Each method is one transaction."""

# ruff: noqa: D102 -- the protocols say what each method promises, and this implements them

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, Self

from obt_agent.ollama.payloads import InstalledModel, OllamaState
from obt_server.hub.storage import Admission, AgentRecord, JobChange, JobResult, StoredCredential
from obt_server.replica_storage import BEAT_WITHIN_S, Beat, LeaderLease, Owner, ReplicaState
from obt_server.store import agent_removal, joining
from obt_server.store import agents as agent_rows
from obt_server.store import campaigns as campaign_rows
from obt_server.store import credentials as credential_rows
from obt_server.store import jobs as job_rows
from obt_server.store import machine as machine_rows
from obt_server.store import model_changes as change_rows
from obt_server.store import plans as plan_rows
from obt_server.store import replicas as replica_rows
from obt_server.store import results as result_rows
from obt_server.store import rollouts as rollout_rows
from obt_server.store import schedules as schedule_rows
from obt_server.store import verdicts as verdict_rows
from obt_server.store.clock import ClockWatch
from obt_server.store.database import AT_ONCE, Database, Stored, query, transaction
from obt_server.store.leases import FencedDatabase
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
        # shared by all that are made of this one
        self._clock = ClockWatch()

    # -- for the hub --------------------------------------------------------------------------------

    agent = query(agent_rows.get)
    agents_named = query(agent_rows.named)
    revoked = query(credential_rows.revoked)
    promote = transaction(credential_rows.promote)
    add_candidate = transaction(credential_rows.add_candidate)
    rotations_due = query(credential_rows.rotations_due)
    mark_seen = transaction(agent_rows.mark_seen)
    create_job = transaction(job_rows.create)
    job = query(job_rows.get)
    open_jobs = query(job_rows.unfinished)
    parts = query(job_rows.parts)

    async def credential(self, sha256: str) -> StoredCredential | None:
        found = await self._db.look_up(credential_rows.CREDENTIAL, sha256=sha256)
        return credential_rows.stored(found[0]) if found else None

    async def admit(self, admission: Admission) -> AgentRecord:
        # What an agent causes is written at its expense (run_for); what an operator asks for goes first.
        return await self._db.run_for(admission.agent_id, agent_rows.admit, admission)

    async def save_models(
        self, agent_id: str, models: Sequence[InstalledModel], ollama: OllamaState, at: float
    ) -> None:
        del ollama  # live state: the hub holds it
        # In pieces, so that no other agent's write waits for more than one. A death between two leaves a list
        # that was not answered, and that the agent sends again.
        unique = {(model.name, model.digest): model for model in models}
        every, size = list(unique.values()), AT_ONCE
        pieces = [every[start : start + size] for start in range(0, len(every), size)] or [[]]
        for piece in pieces[:-1]:
            await self._db.run_for(agent_id, machine_rows.save_models, agent_id, piece, at, self._quota)
        await self._db.run_for(
            agent_id, machine_rows.save_last_models, agent_id, pieces[-1], unique.keys(), at, self._quota
        )

    async def save_inventory(self, agent_id: str, fingerprint: str, inventory: bytes, at: float) -> None:
        await self._db.run_for(agent_id, machine_rows.save_inventory, agent_id, fingerprint, inventory, at)

    async def change_job(self, agent_id: str, job_id: str, change: JobChange) -> None:
        await self._db.run_for(agent_id, job_rows.apply_change, agent_id, job_id, change)

    async def store_part(self, agent_id: str, job_id: str, offset: int, data: bytes, limit: int) -> int:
        return await self._db.run_for(
            agent_id, job_rows.store_part, agent_id, job_id, offset, data, limit, self._quota
        )

    async def finish_job(self, result: JobResult) -> Literal["stored", "repeated", "conflict"]:
        return await self._db.run_for(result.agent_id, job_rows.finish, result, self._quota)

    # -- for several replicas ----------------------------------------------------------------------

    confirm = transaction(replica_rows.nothing)
    left = transaction(agent_rows.left)
    replicas = query(replica_rows.replicas)

    async def owner(self, agent_id: str) -> Owner | None:
        found = await self._db.look_up(replica_rows.OWNER, agent_id=agent_id)
        return Owner(session=found[0][0], replica=found[0][1]) if found else None

    async def beat(self, replica_id: str, *, lead: bool, state: ReplicaState | None = None) -> Beat:
        said = state or ReplicaState()
        asked_at = self._clock.now()
        found = await self._db.run_apart(BEAT_WITHIN_S, replica_rows.beat, replica_id, lead=lead, state=said)
        self._clock.compare(found.now, asked_at)
        return found

    async def leave(self, replica_id: str) -> None:
        await self._db.run_apart(BEAT_WITHIN_S, replica_rows.leave, replica_id)

    def fenced(self, lease: LeaderLease) -> Self:
        made = copy.copy(self)
        made._db = FencedDatabase(self._db, lease)  # noqa: SLF001 - of the same class
        return made

    # -- for the interface --------------------------------------------------------------------------

    async def ping(self) -> None:
        await self._db.look_up(job_rows.PING)

    async def delete_agent(self, agent_id: str) -> None:
        await agent_removal.remove(self._db, agent_id)

    agents = query(agent_rows.everyone)
    rename_agent = transaction(agent_rows.rename)
    label_agent = transaction(agent_rows.label)
    versions = query(machine_rows.versions)
    hardware = query(machine_rows.hardware)
    jobs = query(job_rows.find)
    job_by_id = query(job_rows.by_id)
    job_counts = query(job_rows.counts)
    result = query(job_rows.result_text)
    delete_job = transaction(job_rows.remove)
    stored_benchmarks = query(result_rows.stored_benchmarks)
    benchmarks_mark = query(result_rows.benchmarks_mark)
    digests = query(result_rows.digests)
    keep_digests = transaction(result_rows.keep_digests)
    plans = query(plan_rows.newest)
    plan_versions = query(plan_rows.versions)
    plans_of_hash = query(plan_rows.of_hash)
    save_plan = transaction(plan_rows.save)
    delete_plan = transaction(plan_rows.remove)
    create_rollout = transaction(rollout_rows.create)
    rollout = query(rollout_rows.get)
    rollouts = query(rollout_rows.find)
    rollout_targets = query(rollout_rows.targets)
    save_rollout = transaction(rollout_rows.save)
    delete_rollout = transaction(rollout_rows.remove)
    create_campaign = transaction(campaign_rows.create)
    campaign = query(campaign_rows.get)
    campaigns = query(campaign_rows.find)
    campaign_cells = query(campaign_rows.cells)
    save_campaign = transaction(campaign_rows.save)
    delete_campaign = transaction(campaign_rows.remove)
    late_results = query(campaign_rows.late_results)
    pin_baseline = transaction(verdict_rows.pin)
    unpin_baseline = transaction(verdict_rows.unpin)
    pinned_baselines = query(verdict_rows.pinned)
    save_verdicts = transaction(verdict_rows.save)
    verdicts = query(verdict_rows.of_campaign)
    regressions = query(verdict_rows.find)
    regression = query(verdict_rows.get)
    acknowledge = transaction(verdict_rows.acknowledge)
    schedules = query(schedule_rows.every)
    schedule = query(schedule_rows.get)
    save_schedule = transaction(schedule_rows.save)
    pause_schedule = transaction(schedule_rows.pause)
    delete_schedule = transaction(schedule_rows.remove)
    note_runs = transaction(schedule_rows.note_runs)
    schedule_runs = query(schedule_rows.runs)
    note_causes = transaction(change_rows.note_causes)
    model_changes = query(change_rows.find)
    model_sets = query(rollout_rows.model_sets)
    save_model_set = transaction(rollout_rows.save_model_set)
    delete_model_set = transaction(rollout_rows.delete_model_set)
    create_join_token = transaction(joining.create)
    join_tokens = query(joining.everything)
    join_token = query(joining.of_secret)
    revoke_join_token = transaction(joining.revoke)
    join_pins = query(joining.pins)
    keep_join_pins = transaction(joining.keep_pins)
    enroll = transaction(joining.enroll)
    credentials = query(credential_rows.credentials)
    revoke_credentials = transaction(credential_rows.revoke)
    request_rotation = transaction(credential_rows.request_rotation)
