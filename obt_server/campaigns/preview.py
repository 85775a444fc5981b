"""What a campaign would do in each cell, from what is known here; nothing is asked or sent. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from obt_server.campaign_storage import Campaign, CampaignCell
from obt_server.campaigns.outcomes import METHOD
from obt_server.hub.storage import AgentRecord
from obt_server.rollout_storage import model_key
from obt_server.rollouts.permissions import method_permission
from obt_server.rollouts.preview import FleetView

CellWould = Literal["run", "pull", "wait", "skip", "refused"]


class CellPreview(msgspec.Struct, frozen=True, kw_only=True):
    """What would become of a cell. ``plan`` is the plan's label."""

    agent_id: str
    agent_name: str
    model: str
    plan: str
    plan_hash: str
    repeat: int
    would: CellWould
    reason: str | None
    policy_key: str | None
    remedy: str | None
    estimate_s: float | None


class MachineEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """How many cells a machine would measure, and how long; null where no result tells of one of them."""

    agent_id: str
    agent_name: str
    cells: int
    estimate_s: float | None


class CampaignPreview(msgspec.Struct, frozen=True, kw_only=True):
    """What a campaign would do. ``estimate_s``: of the slowest machine, for they measure side by side."""

    cells: list[CellPreview]
    machines: list[MachineEstimate]
    estimate_s: float | None


def preview(
    campaign: Campaign,
    cells: Sequence[CampaignCell],
    records: Mapping[str, AgentRecord],
    view: FleetView,
) -> CampaignPreview:
    """Return what would happen in each cell, in the order in which each machine takes its own."""
    shown = [_cell(campaign, cell, records[cell.agent_id], view) for cell in cells]
    measured: dict[str, list[CellPreview]] = defaultdict(list)
    for one in shown:
        measured[one.agent_id].append(one)
    machines = [
        MachineEstimate(
            agent_id=machine.id,
            agent_name=machine.name,
            cells=len(measured[machine.id]),
            # What is refused or skipped takes no time.
            estimate_s=total(
                one.estimate_s for one in measured[machine.id] if one.would not in ("refused", "skip")
            ),
        )
        for machine in campaign.machines
    ]
    return CampaignPreview(
        cells=shown, machines=machines, estimate_s=longest(one.estimate_s for one in machines)
    )


def total(seconds: Iterable[float | None]) -> float | None:
    """The sum; None where one of them is not known."""
    known = list(seconds)
    return None if None in known else sum(one for one in known if one is not None)


def longest(seconds: Iterable[float | None]) -> float | None:
    """The largest; None where one of them is not known."""
    known = list(seconds)
    return None if None in known else max((one for one in known if one is not None), default=0.0)


def _cell(campaign: Campaign, cell: CampaignCell, record: AgentRecord, view: FleetView) -> CellPreview:
    would, reason, policy_key, remedy = _would(campaign, cell, record, view)
    if would != "refused" and record.id not in view.online:
        would, reason = ("wait" if campaign.on_offline == "wait" else "skip"), "The machine is offline."
    return CellPreview(
        agent_id=cell.agent_id,
        agent_name=cell.agent_name,
        model=cell.model,
        plan=campaign.plan_of(cell.plan_hash).label,
        plan_hash=cell.plan_hash,
        repeat=cell.repeat,
        would=would,
        reason=reason,
        policy_key=policy_key,
        remedy=remedy,
        estimate_s=cell.estimate_s,
    )


def _would(
    campaign: Campaign, cell: CampaignCell, record: AgentRecord, view: FleetView
) -> tuple[CellWould, str | None, str | None, str | None]:
    """What would happen if the machine were here; why not, the owner's key, and the line that would help."""
    methods = [METHOD]
    # Of a machine that was never here nothing is known; one without any model is in no list.
    known = record.id in view.models or record.id in view.online
    missing = known and model_key(cell.model) not in view.models.get(record.id, {})
    if missing and not campaign.pull_missing:
        return "refused", "It does not have the model; pull it, or ask for pull_missing.", None, None
    if missing:
        methods.append("pull_model")
    for method in methods:
        allowed = method_permission(method, record.capabilities)
        # A machine that never said what it allows is asked.
        if record.capabilities and not allowed.allowed:
            reason = f"Its owner does not allow it: {allowed.remedy}."
            return "refused", reason, allowed.policy_key, allowed.remedy
    return ("pull" if missing else "run"), None, None, None
