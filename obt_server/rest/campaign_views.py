"""Campaigns as the interface shows them: what is stored, with the progress of live sessions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from obt_agent.protocol.errors import WireError
from obt_agent.protocol.jobs import JobProgress
from obt_server.campaign_storage import (
    CELL_STATES,
    Campaign,
    CampaignBaseline,
    CampaignCell,
    CampaignMachine,
    CampaignOrder,
    CampaignPlan,
    CampaignQuietHours,
    CampaignSettle,
    CampaignState,
    CampaignTotals,
    CellState,
    CellWaitingFor,
    VerdictCounts,
)
from obt_server.campaigns.preview import longest, total
from obt_server.hub import Hub
from obt_server.rest.views import PlanFields

_ALMOST = 0.99
"""The most that progress says of a job that has not ended: an adaptive plan may go on."""


class CellCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many cells are in each state."""

    waiting: int = 0
    pulling: int = 0
    starting: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    refused: int = 0
    cancelled: int = 0
    skipped: int = 0


class CellView(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement of a campaign: a plan on a model on a machine.

    ``waiting_for`` says why it waits, ``reason`` the same, or why it ended so, in words. ``remedy`` is the
    line of the owner's configuration that would allow it; ``policy_key`` the one that forbids it.
    ``retry_helps``: whether the same may succeed later. ``progress`` is 0 to 1 of a running job, or of the
    pull of its model, whose bytes are ``completed_bytes`` of ``total_bytes``. ``value`` is the campaign's
    metric, a mean, ``low`` and ``high`` its interval. Times are Unix seconds.
    """

    id: str
    agent_id: str
    agent_name: str
    model: str
    plan_hash: str
    repeat: int
    state: CellState
    attempt: int
    job_id: str | None
    waiting_for: CellWaitingFor | None
    reason: str | None
    error: WireError | None
    policy_key: str | None
    remedy: str | None
    retry_helps: bool | None
    cancelling: bool
    progress: float | None
    completed_bytes: int | None
    total_bytes: int | None
    bytes_per_second: float | None
    estimate_s: float | None
    remaining_s: float | None
    started_at: float | None
    finished_at: float | None
    value: float | None
    low: float | None
    high: float | None
    flags: tuple[str, ...]
    digest: str | None


class CampaignPlanView(msgspec.Struct, frozen=True, kw_only=True):
    """A plan of a campaign, as it is measured."""

    name: str | None
    version: int | None
    hash: str
    label: str
    plan: PlanFields


class CampaignSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A campaign with its cells counted. ``done``: every cell has ended, well or not: see ``counts``.

    ``remaining_s``: until its slowest machine is through, null where that is not known. ``verdicts``: what
    comparing it with its baseline gave.
    """

    id: str
    name: str | None
    schedule: str | None
    state: CampaignState
    created_at: float
    created_by: str
    finished_at: float | None
    counts: CellCounts
    total: int
    remaining_s: float | None
    verdicts: VerdictCounts | None


class CampaignView(CampaignSummary, frozen=True, kw_only=True):
    """A campaign with what it measures, and its cells in the order in which each machine takes its own."""

    plans: list[CampaignPlanView]
    models: tuple[str, ...]
    agents: tuple[CampaignMachine, ...]
    metric: str
    order: CampaignOrder
    repeat: int
    not_after: float | None
    on_offline: Literal["skip", "wait"]
    pull_missing: bool
    quiet_hours: CampaignQuietHours | None
    settle: CampaignSettle | None
    baseline: CampaignBaseline
    cells: list[CellView]


class CampaignEvent(CampaignSummary, frozen=True, kw_only=True):
    """A campaign as it is, with those of its cells that changed since the event before."""

    changed: list[CellView]


_LIVE = ("progress", "completed_bytes", "total_bytes", "bytes_per_second", "remaining_s")


def cell_view(hub: Hub, cell: CampaignCell) -> CellView:
    """Return a cell as it is now: while its job runs, or its pull, how far it is comes from the session."""
    presence = hub.presence(cell.agent_id)
    pulls = cell.state == "pulling"
    job_id = cell.pull_job_id if pulls else cell.job_id
    said = None
    if cell.begun and job_id is not None and presence is not None:
        said = presence.progress.get(job_id)
    progress = None if said is None else said.progress
    share = None if progress is None else _pulled(progress) if pulls else _share(progress)
    pull = progress if pulls else None
    return CellView(
        **{name: getattr(cell, name) for name in CellView.__struct_fields__ if name not in _LIVE},
        progress=share,
        completed_bytes=getattr(pull, "completed_bytes", None),
        total_bytes=getattr(pull, "total_bytes", None),
        bytes_per_second=getattr(pull, "bytes_per_second", None),
        remaining_s=_pull_left_s(cell, pull) if pulls else _remaining_s(cell, progress, share),
    )


def _pulled(progress: JobProgress) -> float | None:
    if progress.completed_bytes is None or not progress.total_bytes:
        return None
    return max(0.0, min(1.0, progress.completed_bytes / progress.total_bytes))


def _pull_left_s(cell: CampaignCell, pull: JobProgress | None) -> float | None:
    """Of the pull, and the measurement after it; null where one of them is not known."""
    if pull is None or pull.remaining_s is None or cell.estimate_s is None:
        return None
    return pull.remaining_s + cell.estimate_s


def _share(progress: JobProgress) -> float | None:
    if progress.iteration is None or not progress.iterations_planned:
        return None
    # The iteration that it counts is the one at work.
    return max(0.0, min(_ALMOST, (progress.iteration - 1) / progress.iterations_planned))


def _remaining_s(cell: CampaignCell, progress: JobProgress | None, share: float | None) -> float | None:
    if cell.ended:
        return 0.0
    if progress is not None and progress.remaining_s is not None:
        return progress.remaining_s
    return None if cell.estimate_s is None else cell.estimate_s * (1 - (share or 0.0))


def summary(totals: CampaignTotals) -> CampaignSummary:
    """Return a campaign of a list, as it is stored."""
    return CampaignSummary(**_fields(totals.campaign, totals.counts, None))


def live_summary(hub: Hub, campaign: Campaign, cells: Sequence[CampaignCell]) -> CampaignSummary:
    """Return a running campaign, with the time that is left by the live sessions."""
    return CampaignSummary(**_live_fields(campaign, [cell_view(hub, cell) for cell in cells]))


def view(hub: Hub, campaign: Campaign, cells: Sequence[CampaignCell]) -> CampaignView:
    """Return a campaign with all its cells."""
    shown = [cell_view(hub, cell) for cell in cells]
    own = ("models", "metric", "order", "repeat", "not_after", "on_offline", "pull_missing")
    objects = ("quiet_hours", "settle", "baseline")
    return CampaignView(
        **_live_fields(campaign, shown),
        **{name: getattr(campaign, name) for name in (*own, *objects)},
        plans=[_plan_view(plan) for plan in campaign.plans],
        agents=campaign.machines,
        cells=shown,
    )


def _plan_view(plan: CampaignPlan) -> CampaignPlanView:
    own = {name: getattr(plan, name) for name in ("name", "version", "hash", "label")}
    return CampaignPlanView(**own, plan=msgspec.Raw(msgspec.json.encode(plan.plan)))


def news(
    hub: Hub, campaign: Campaign, cells: Sequence[CampaignCell], changed: Iterable[CampaignCell]
) -> CampaignEvent:
    """Return a campaign with the cells that changed."""
    named = {cell.id for cell in changed}
    shown = [cell_view(hub, cell) for cell in cells]
    return CampaignEvent(
        **_live_fields(campaign, shown), changed=[cell for cell in shown if cell.id in named]
    )


def _live_fields(campaign: Campaign, shown: Sequence[CellView]) -> dict[str, Any]:
    counts: dict[str, int] = dict.fromkeys(CELL_STATES, 0)
    left: dict[str, list[float | None]] = defaultdict(list)
    for cell in shown:
        counts[cell.state] += 1
        left[cell.agent_id].append(cell.remaining_s)
    remaining_s = longest(total(of_machine) for of_machine in left.values())
    return _fields(campaign, counts, remaining_s if campaign.state == "running" else None)


def _fields(campaign: Campaign, counts: Mapping[str, int], remaining_s: float | None) -> dict[str, Any]:
    names = ("id", "name", "schedule", "state", "created_at", "created_by", "finished_at", "verdicts")
    own = {name: getattr(campaign, name) for name in names}
    known = {"counts": CellCounts(**counts), "total": sum(counts.values())}
    return own | known | {"remaining_s": remaining_s}
