"""A foreign application's own storage: dictionaries, written against the protocols alone."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from obt_agent.ollama.payloads import InstalledModel, OllamaState
from obt_server.campaign_storage import (
    CELL_STATES,
    Campaign,
    CampaignCell,
    CampaignFilter,
    CampaignTotals,
    LateResult,
)
from obt_server.hub.storage import (
    ENDED_STATES,
    Admission,
    AgentRecord,
    JobChange,
    JobRecord,
    JobResult,
    StoredCredential,
)
from obt_server.rollout_storage import (
    TARGET_STATES,
    ChangeCause,
    ChangeFilter,
    ModelChange,
    ModelSet,
    Rollout,
    RolloutFilter,
    RolloutTarget,
    RolloutTotals,
)
from obt_server.schedule_storage import SchedulePause, ScheduleRun, StoredSchedule
from obt_server.storage import (
    CredentialInfo,
    Enrolment,
    Hardware,
    JobFilter,
    JoinRefused,
    JoinToken,
    ModelVersion,
    NotStored,
    SavedPlan,
    StoredBenchmark,
)
from obt_server.verdict_storage import (
    Acknowledgement,
    LineKey,
    PinnedBaseline,
    Regression,
    RegressionFilter,
    Verdict,
)

JobKey = tuple[str, str]


class MemoryStorage:
    """Implements ``ServerStorage``."""

    def __init__(self) -> None:
        self.records: dict[str, AgentRecord] = {}
        self.secrets: dict[str, StoredCredential] = {}
        self.models: dict[tuple[str, str, str], ModelVersion] = {}
        self.machines: dict[str, Hardware] = {}
        self.all_jobs: dict[JobKey, JobRecord] = {}
        self.pieces: dict[JobKey, bytes] = {}
        self.results: dict[JobKey, bytes] = {}
        self.tokens: dict[str, JoinToken] = {}
        self.digested: dict[JobKey, tuple[str, bytes]] = {}
        self.saved: dict[str, list[SavedPlan]] = {}
        self.all_campaigns: dict[str, Campaign] = {}
        self.cells: dict[str, dict[str, CampaignCell]] = {}
        self.all_rollouts: dict[str, Rollout] = {}
        self.targets: dict[str, dict[str, RolloutTarget]] = {}
        self.sets: dict[str, ModelSet] = {}
        self.pinned: dict[LineKey, PinnedBaseline] = {}
        self.all_verdicts: dict[str, Sequence[Verdict]] = {}
        self.all_schedules: dict[str, StoredSchedule] = {}
        self.all_runs: dict[str, list[ScheduleRun]] = {}

    async def agent(self, agent_id: str) -> AgentRecord | None:
        return self.records.get(agent_id)

    async def agents_named(self, name: str) -> Sequence[AgentRecord]:
        return [record for record in self.records.values() if record.name == name]

    async def agents(self) -> Sequence[AgentRecord]:
        return list(self.records.values())

    async def rename_agent(self, agent_id: str, name: str | None) -> AgentRecord:
        raise NotImplementedError

    async def label_agent(self, agent_id: str, labels: Sequence[str]) -> AgentRecord:
        self.records[agent_id] = dataclasses.replace(self.records[agent_id], labels=tuple(labels))
        return self.records[agent_id]

    async def delete_agent(self, agent_id: str) -> None:
        del self.records[agent_id]

    async def credential(self, sha256: str) -> StoredCredential | None:
        return self.secrets.get(sha256)

    async def revoked(self, credential_ids: Sequence[int]) -> Sequence[int]:
        good = {one.id for one in self.secrets.values() if one.state != "revoked"}
        return [one for one in credential_ids if one not in good]

    async def admit(self, admission: Admission) -> AgentRecord:
        record = self.records[admission.agent_id]
        self.records[record.id] = dataclasses.replace(
            record,
            session=record.session + 1,
            name=admission.name,
            version=admission.version,
            store_id=admission.store_id,
            capabilities=admission.capabilities,
            own_labels=admission.own_labels,
            last_seen=admission.at,
            replica=admission.replica,
        )
        return self.records[record.id]

    async def left(self, sessions: Mapping[str, int]) -> None:
        for agent_id, session in sessions.items():
            if self.records[agent_id].session == session:
                self.records[agent_id] = dataclasses.replace(self.records[agent_id], replica=None)

    async def promote(self, credential_id: int) -> None:
        return None

    async def add_candidate(self, credential_id: int, sha256: str) -> bool:
        (agent_id,) = [one.agent_id for one in self.secrets.values() if one.id == credential_id]
        self.secrets[sha256] = StoredCredential(id=len(self.secrets), agent_id=agent_id, state="candidate")
        return True

    async def rotations_due(self) -> Sequence[str]:
        return ()

    async def mark_seen(self, agent_ids: Sequence[str], at: float) -> None:
        for agent_id in agent_ids:
            if agent_id in self.records:
                self.records[agent_id] = dataclasses.replace(self.records[agent_id], last_seen=at)

    async def save_models(
        self, agent_id: str, models: Sequence[InstalledModel], ollama: OllamaState, at: float
    ) -> None:
        for model in models:
            self.models[agent_id, model.name, model.digest] = ModelVersion(
                agent_id=agent_id,
                name=model.name,
                digest=model.digest,
                current=True,
                first_seen=at,
                last_seen=at,
                details=msgspec.json.encode(model),
            )

    async def save_inventory(self, agent_id: str, fingerprint: str, inventory: bytes, at: float) -> None:
        self.machines[agent_id] = Hardware(fingerprint=fingerprint, inventory=inventory, updated_at=at)

    async def create_job(self, job: JobRecord) -> None:
        self.all_jobs.setdefault((job.agent_id, job.job_id), job)

    async def job(self, agent_id: str, job_id: str) -> JobRecord | None:
        return self.all_jobs.get((agent_id, job_id))

    async def open_jobs(self, agent_id: str) -> Sequence[JobRecord]:
        mine = (job for job in self.all_jobs.values() if job.agent_id == agent_id)
        return [job for job in mine if job.state not in ENDED_STATES]

    async def change_job(self, agent_id: str, job_id: str, change: JobChange) -> None:
        job = self.all_jobs[agent_id, job_id]
        given = {key: value for key, value in vars(change).items() if value is not None}
        self.all_jobs[agent_id, job_id] = dataclasses.replace(job, **given)

    async def store_part(self, agent_id: str, job_id: str, offset: int, data: bytes, limit: int) -> int:
        held = self.pieces.get((agent_id, job_id), b"")[:offset]
        self.pieces[agent_id, job_id] = held + data
        return len(held + data)

    async def parts(self, agent_id: str, job_id: str) -> bytes:
        return self.pieces.pop((agent_id, job_id), b"")

    async def finish_job(self, result: JobResult) -> Literal["stored", "repeated", "conflict"]:
        key = (result.agent_id, result.job_id)
        self.all_jobs[key] = dataclasses.replace(self.all_jobs[key], state=result.state, sha256=result.sha256)
        self.results[key] = result.text
        return "stored"

    async def versions(
        self, *, agent_id: str | None = None, name: str | None = None, details: bool = True
    ) -> Sequence[ModelVersion]:
        return [one for one in self.models.values() if agent_id in (None, one.agent_id)]

    async def hardware(self, agent_id: str) -> Hardware | None:
        return self.machines.get(agent_id)

    async def jobs(self, which: JobFilter) -> Sequence[JobRecord]:
        return [job for job in self.all_jobs.values() if job.sha256 is not None or not which.with_result]

    async def job_by_id(self, job_id: str, agent_id: str | None = None) -> JobRecord:
        for job in self.all_jobs.values():
            if job.job_id == job_id:
                return job
        raise NotStored(f"no job {job_id}")

    async def result(self, agent_id: str, job_id: str) -> bytes | None:
        return self.results.get((agent_id, job_id))

    async def benchmarks_mark(self) -> str:
        return repr(await self.stored_benchmarks())

    async def stored_benchmarks(self) -> Sequence[StoredBenchmark]:
        return [
            StoredBenchmark(
                agent_id=job.agent_id,
                job_id=job.job_id,
                sha256=job.sha256,
                created_at=job.created_at,
                finished_at=job.finished_at,
                model=job.model,
                model_digest=job.model_digest,
                requested=job.requested,
            )
            for job in self.all_jobs.values()
            if job.kind == "benchmark" and job.sha256 is not None
        ]

    async def digests(self) -> Sequence[tuple[str, str, str, bytes]]:
        return [(*key, sha256, digest) for key, (sha256, digest) in self.digested.items()]

    async def keep_digests(self, made: Sequence[tuple[str, str, str, bytes]]) -> None:
        for agent_id, job_id, sha256, digest in made:
            self.digested[agent_id, job_id] = (sha256, digest)

    async def plans(self) -> Sequence[SavedPlan]:
        return [self.saved[name][-1] for name in sorted(self.saved)]

    async def plan_versions(self, name: str) -> Sequence[SavedPlan]:
        return self.saved.get(name, [])[::-1]

    async def plans_of_hash(self, plan_hash: str) -> Sequence[SavedPlan]:
        return [one for versions in self.saved.values() for one in versions if one.hash == plan_hash]

    async def save_plan(self, plan: SavedPlan) -> SavedPlan:
        known = self.saved.setdefault(plan.name, [])
        if not known or known[-1].hash != plan.hash:
            known.append(dataclasses.replace(plan, version=len(known) + 1))
        return known[-1]

    async def delete_plan(self, name: str) -> None:
        if self.saved.pop(name, None) is None:
            raise NotStored(f"no plan {name}")

    async def create_rollout(self, rollout: Rollout, targets: Sequence[RolloutTarget]) -> Rollout:
        for known in self.all_rollouts.values():
            if rollout.key is not None and known.key == rollout.key:
                return known
        self.all_rollouts[rollout.id] = rollout
        self.targets[rollout.id] = {target.agent_id: target for target in targets}
        return rollout

    async def rollout(self, rollout_id: str) -> Rollout:
        if rollout_id not in self.all_rollouts:
            raise NotStored(f"no rollout {rollout_id}")
        return self.all_rollouts[rollout_id]

    async def rollouts(self, which: RolloutFilter) -> Sequence[RolloutTotals]:
        found = [one for one in self.all_rollouts.values() if which.state in (None, one.state)]
        return [
            RolloutTotals(
                rollout=one,
                counts={
                    state: sum(target.state == state for target in self.targets[one.id].values())
                    for state in TARGET_STATES
                },
            )
            for one in reversed(found)
        ]

    async def rollout_targets(self, rollout_id: str) -> Sequence[RolloutTarget]:
        return list(self.targets[rollout_id].values())

    async def save_rollout(
        self, rollout: Rollout, targets: Sequence[RolloutTarget], causes: Sequence[ChangeCause] = ()
    ) -> None:
        self.all_rollouts[rollout.id] = rollout
        self.targets[rollout.id] |= {target.agent_id: target for target in targets}

    async def delete_rollout(self, rollout_id: str) -> None:
        del self.all_rollouts[rollout_id], self.targets[rollout_id]

    async def create_campaign(self, campaign: Campaign, cells: Sequence[CampaignCell]) -> Campaign:
        for known in self.all_campaigns.values():
            if campaign.key is not None and known.key == campaign.key:
                return known
        self.all_campaigns[campaign.id] = campaign
        self.cells[campaign.id] = {cell.id: cell for cell in cells}
        return campaign

    async def campaign(self, campaign_id: str) -> Campaign:
        if campaign_id not in self.all_campaigns:
            raise NotStored(f"no campaign {campaign_id}")
        return self.all_campaigns[campaign_id]

    async def campaigns(self, which: CampaignFilter) -> Sequence[CampaignTotals]:
        found = [one for one in self.all_campaigns.values() if which.state in (None, one.state)]
        return [
            CampaignTotals(
                campaign=one,
                counts={
                    state: sum(cell.state == state for cell in self.cells[one.id].values())
                    for state in CELL_STATES
                },
            )
            for one in reversed(found)
            if which.judged in (None, one.judged) and which.ended in (None, one.state != "running")
        ]

    async def campaign_cells(self, campaign_id: str) -> Sequence[CampaignCell]:
        return list(self.cells[campaign_id].values())

    async def save_campaign(self, campaign: Campaign, cells: Sequence[CampaignCell]) -> None:
        self.all_campaigns[campaign.id] = campaign
        self.cells[campaign.id] |= {cell.id: cell for cell in cells}

    async def delete_campaign(self, campaign_id: str) -> None:
        del self.all_campaigns[campaign_id], self.cells[campaign_id]

    async def late_results(self) -> Sequence[LateResult]:
        return ()

    async def note_causes(self, causes: Sequence[ChangeCause]) -> None:
        return None

    async def model_changes(self, which: ChangeFilter) -> Sequence[ModelChange]:
        return ()

    async def model_sets(self) -> Sequence[ModelSet]:
        return [self.sets[name] for name in sorted(self.sets)]

    async def save_model_set(self, wanted: ModelSet) -> None:
        self.sets[wanted.name] = wanted

    async def delete_model_set(self, name: str) -> None:
        if self.sets.pop(name, None) is None:
            raise NotStored(f"no set {name}")

    async def delete_job(self, agent_id: str, job_id: str) -> None:
        del self.all_jobs[agent_id, job_id]

    async def create_join_token(
        self, sha256: str, *, note: str, agent_id: str | None, at: float, expires_at: float
    ) -> JoinToken:
        token = JoinToken(
            id=len(self.tokens),
            note=note,
            agent_id=agent_id,
            created_at=at,
            expires_at=expires_at,
            revoked_at=None,
            used_at=None,
            used_by=None,
        )
        self.tokens[sha256] = token
        return token

    async def join_tokens(self) -> Sequence[JoinToken]:
        return list(self.tokens.values())

    async def join_token(self, sha256: str) -> JoinToken | None:
        return self.tokens.get(sha256)

    async def revoke_join_token(self, token_id: int, at: float) -> None:
        self.tokens = {key: token for key, token in self.tokens.items() if token.id != token_id}

    async def enroll(self, token_sha256: str, enrolment: Enrolment, at: float) -> AgentRecord:
        if self.tokens.pop(token_sha256, None) is None:
            raise JoinRefused("no such token", reason="unknown")
        self.secrets[enrolment.secret_sha256] = StoredCredential(
            id=len(self.secrets), agent_id=enrolment.agent_id, state="current"
        )
        record = AgentRecord(
            id=enrolment.agent_id,
            name=enrolment.name,
            version=enrolment.version,
            session=0,
            store_id=None,
            capabilities=(),
            enrolled_at=at,
            last_seen=None,
        )
        self.records[record.id] = record
        return record

    async def credentials(self) -> Sequence[CredentialInfo]:
        return ()

    async def revoke_credentials(self, agent_id: str, at: float) -> int:
        return 0

    async def request_rotation(self, agent_id: str, at: float) -> None:
        return None

    async def pin_baseline(self, pinned: PinnedBaseline) -> None:
        self.pinned[LineKey(pinned.agent_id, pinned.model, pinned.plan_hash)] = pinned

    async def unpin_baseline(self, key: LineKey) -> None:
        del self.pinned[key]

    async def pinned_baselines(self) -> Sequence[PinnedBaseline]:
        return list(self.pinned.values())

    async def save_verdicts(self, campaign_id: str, at: float, verdicts: Sequence[Verdict]) -> list[int]:
        self.all_verdicts[campaign_id] = verdicts
        return []

    async def verdicts(self, campaign_id: str) -> Sequence[Verdict]:
        return self.all_verdicts.get(campaign_id, ())

    async def regressions(self, which: RegressionFilter) -> Sequence[Regression]:
        return ()

    async def regression(self, regression_id: int) -> Regression:
        raise NotStored(f"no regression {regression_id}")

    async def acknowledge(self, regression_id: int, acknowledged: Acknowledgement | None) -> Regression:
        raise NotStored(f"no regression {regression_id}")

    async def schedules(self) -> Sequence[StoredSchedule]:
        return list(self.all_schedules.values())

    async def schedule(self, name: str) -> StoredSchedule:
        return self.all_schedules[name]

    async def save_schedule(self, schedule: StoredSchedule) -> StoredSchedule:
        self.all_schedules[schedule.name] = schedule
        return schedule

    async def pause_schedule(self, name: str, paused: SchedulePause | None) -> StoredSchedule:
        self.all_schedules[name] = msgspec.structs.replace(self.all_schedules[name], paused=paused)
        return self.all_schedules[name]

    async def delete_schedule(self, name: str) -> None:
        del self.all_schedules[name]

    async def note_runs(self, name: str, runs: Sequence[ScheduleRun], done_until: float, at: float) -> None:
        del at
        self.all_runs.setdefault(name, []).extend(runs)
        changed = msgspec.structs.replace(self.all_schedules[name], done_until=done_until)
        self.all_schedules[name] = changed

    async def schedule_runs(self, name: str, limit: int) -> Sequence[ScheduleRun]:
        return self.all_runs.get(name, [])[-limit:]
