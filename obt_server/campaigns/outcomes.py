"""How a cell ends: from an error, a pull or a job's final to its state, in words and for programs. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from obt_agent.errors import AgentError, ModelNotFound
from obt_agent.protocol.errors import WireError
from obt_server.campaign_storage import KEPT_EARLIER_JOBS, UNMEASURED, Campaign, CampaignCell
from obt_server.campaigns.figures import CellFigures, doubtful
from obt_server.hub.storage import JobRecord
from obt_server.machine_jobs import failures
from obt_server.machine_jobs.failures import Changes
from obt_server.rollout_storage import RolloutTarget

METHOD: Final = "run_benchmark"
_NO_REASON: Final[Changes] = {"error": None, "policy_key": None, "remedy": None, "retry_helps": None}


def measured(job_id: str, figures: CellFigures, at: float) -> Changes:
    """A cell that has a result."""
    shown = msgspec.structs.asdict(figures)
    if figures.digest is None:
        # The one that the machine had when it began stays.
        del shown["digest"]
    return failures.ended("done", None, at) | _NO_REASON | shown | {"job_id": job_id}


def by_error(error: AgentError, campaign: Campaign, cell: CampaignCell, at: float) -> Changes:
    """A cell whose start the machine refused."""
    return _in_time(failures.by_error(error, METHOD, cell.model, at), campaign, at)


def by_job(job: JobRecord, campaign: Campaign, cell: CampaignCell, at: float) -> Changes:
    """A cell whose job ended without a complete result."""
    return _in_time(failures.by_job_state(job.state, job.error, METHOD, cell.model, at), campaign, at)


def _in_time(changes: Changes, campaign: Campaign, at: float) -> Changes:
    """What the machine would not begin any more was skipped, and did not fail."""
    error: WireError | None = changes.get("error")
    late = campaign.not_after is not None and at >= campaign.not_after
    if late and error is not None and failures.kind_of(error) == "timeout":
        return failures.ended("skipped", "It was not begun in time.", at)
    return changes


def missing(model: str, at: float) -> Changes:
    """A cell whose machine lacks the model, and that was not to pull it."""
    reason = "The machine does not have the model; pull it, or ask for pull_missing."
    error = failures.kept_error(ModelNotFound(f"model {model!r} not found"))
    return failures.ended("refused", reason, at) | {"error": error, "retry_helps": False}


def by_pull(target: RolloutTarget, at: float) -> Changes:
    """A cell whose model could not be pulled: why, and what would help."""
    words = {
        "refused": "The machine may not pull the model",
        "failed": "The model could not be pulled",
        "cancelled": "The pull of its model was cancelled",
        "skipped": "The model was not pulled",
    }[target.state]
    reason = f"{words}: {target.reason}" if target.reason else f"{words}."
    kept = {name: getattr(target, name) for name in ("error", "policy_key", "remedy", "retry_helps")}
    return failures.ended(target.state, reason, at) | kept


def wanted_again(cell: CampaignCell, cell_ids: Collection[str] | None, *, flagged: bool) -> bool:
    """Whether a cell is measured again: one that is named; else one without a result, or a doubtful one."""
    if not cell.ended:
        return False
    if cell_ids is not None:
        return cell.id in cell_ids
    return doubtful(cell.flags) if flagged else cell.state in UNMEASURED


def fresh(cell: CampaignCell) -> Changes:
    """A cell as before its first attempt, but for the number of the attempt, and jobs that may yet end."""
    earlier = cell.earlier_jobs
    # A result that somebody wants measured again does not count again.
    if cell.job_id is not None and cell.state in UNMEASURED:
        earlier = (*earlier, cell.job_id)[-KEPT_EARLIER_JOBS:]
    blank = CampaignCell(
        id=cell.id,
        agent_id=cell.agent_id,
        agent_name=cell.agent_name,
        model=cell.model,
        plan_hash=cell.plan_hash,
        repeat=cell.repeat,
        attempt=cell.attempt + 1,
        earlier_jobs=earlier,
        estimate_s=cell.estimate_s,
    )
    return msgspec.structs.asdict(blank)
