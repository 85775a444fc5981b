"""What lasts of campaigns: what is measured, each cell of it, and how it ended. Times are Unix seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Protocol

import msgspec
from msgspec import Meta

from obt_agent.errors import AgentError
from obt_agent.protocol.errors import WireError

CampaignOrder = Literal["model", "plan", "random"]
"""How the cells of a machine follow each other: all of a model, all of a plan, or shuffled."""
CampaignState = Literal["running", "done", "cancelled"]
CellState = Literal[
    "waiting", "pulling", "starting", "running", "done", "failed", "refused", "cancelled", "skipped"
]
CellWaitingFor = Literal["turn", "machine", "campaign", "quiet_hours", "rollout", "job"]
"""Why a cell waits: for its turn on its machine, for a machine that is offline or busy, for another campaign
on it, for the end of the campaign's quiet hours, for another rollout on the model that is pulled, or for
another job of the machine."""

CELL_STATES: Final[tuple[CellState, ...]] = (
    "waiting",
    "pulling",
    "starting",
    "running",
    "done",
    "failed",
    "refused",
    "cancelled",
    "skipped",
)
ENDED_CELLS: Final[frozenset[str]] = frozenset({"done", "failed", "refused", "cancelled", "skipped"})
UNMEASURED: Final[frozenset[str]] = ENDED_CELLS - {"done"}
"""States of a cell that has ended without a result; a late result of it counts."""
KEPT_EARLIER_JOBS: Final = 5
"""Attempts of a cell whose late results still count."""


class TooManyCampaigns(AgentError):
    """As many campaigns run as the storage keeps: wait, or cancel some."""

    kind = "busy"
    retryable_by_default = True


class CampaignBaseline(msgspec.Struct, frozen=True, kw_only=True):
    """What results are compared with: the last ones of the same cell, pinned ones, or nothing.

    ``results`` are ids of jobs; where ``pinned`` names none, those that operators pinned count.
    """

    mode: Literal["rolling", "pinned", "none"] = "rolling"
    last: Annotated[int, Meta(ge=1, le=100)] = 7
    results: Annotated[tuple[Annotated[str, Meta(max_length=128)], ...], Meta(max_length=1000)] = ()


class CampaignSettle(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine waits for before a cell: ``idle_for_s`` without other work, ``max_wait_s`` at most."""

    idle_for_s: Annotated[float, Meta(ge=0, le=3600)]
    max_wait_s: Annotated[float, Meta(ge=0, le=86_400)]


class CampaignQuietHours(msgspec.Struct, frozen=True, kw_only=True):
    """Local times, such as 07:00 to 22:00, in which no cell begins. Without a zone, the server's own."""

    from_: Annotated[str, Meta(max_length=5)] = msgspec.field(name="from")
    to: Annotated[str, Meta(max_length=5)]
    time_zone: Annotated[str, Meta(max_length=64)] | None = None

    @property
    def range(self) -> str:
        """As ``obt_agent.quiet_hours`` reads it."""
        return f"{self.from_}-{self.to}"


class CampaignPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A plan as it is measured, without a model. ``name`` and ``version`` of a saved one."""

    name: str | None = None
    version: int | None = None
    hash: str
    label: str
    plan: dict[str, object]


class CampaignMachine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine of a campaign, as it was called when it was added. ``not_before``: when it may begin."""

    id: str
    name: str
    not_before: float | None = None


class VerdictCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many lines of a campaign got which verdict: machines, models and plans, and points of a sweep."""

    slower: int = 0
    faster: int = 0
    no_difference_shown: int = 0
    not_comparable: int = 0


class Campaign(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Plans on models on machines, each combination ``repeat`` times.

    ``key`` names the request: a second one with it is the same campaign. ``schedule``: which one began it.
    ``cancelling``: somebody cancelled it as a whole. ``judged``: its results were compared with its baseline
    since it ended, or since a result came late; ``verdicts`` are what that gave.
    """

    id: str
    name: str | None = None
    schedule: str | None = None
    key: str | None = None
    plans: tuple[CampaignPlan, ...]
    models: tuple[str, ...]
    machines: tuple[CampaignMachine, ...]
    metric: str = "headline"
    order: CampaignOrder = "model"
    repeat: int = 1
    not_after: float | None = None
    on_offline: Literal["skip", "wait"] = "wait"
    pull_missing: bool = False
    quiet_hours: CampaignQuietHours | None = None
    settle: CampaignSettle | None = None
    baseline: CampaignBaseline = CampaignBaseline()
    state: CampaignState = "running"
    created_at: float
    created_by: str
    finished_at: float | None = None
    cancelling: bool = False
    judged: bool = False
    verdicts: VerdictCounts | None = None

    def plan_of(self, plan_hash: str) -> CampaignPlan:
        """The plan of that hash."""
        return next(plan for plan in self.plans if plan.hash == plan_hash)


class CampaignCell(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One measurement: a plan on a model on a machine.

    ``job_id`` is fixed for an attempt before its start is sent, and stored; of a cell that has a result it
    is the job with the result. ``earlier_jobs`` are attempts that ended without one. ``value``, ``low`` and
    ``high`` are the campaign's metric with its interval. ``pull_job_id``: the job that brings its model,
    while that is pulled. ``cancelling``: somebody cancelled it, and the machine has not said how it ended.
    """

    id: str
    agent_id: str
    agent_name: str
    model: str
    plan_hash: str
    repeat: int = 1
    state: CellState = "waiting"
    attempt: int = 1
    job_id: str | None = None
    earlier_jobs: tuple[str, ...] = ()
    pull_job_id: str | None = None
    waiting_for: CellWaitingFor | None = "turn"
    reason: str | None = None
    error: WireError | None = None
    policy_key: str | None = None
    remedy: str | None = None
    retry_helps: bool | None = None
    estimate_s: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    flags: tuple[str, ...] = ()
    digest: str | None = None
    cancelling: bool = False

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it, unless somebody asks for it again or a result comes late."""
        return self.state in ENDED_CELLS

    @property
    def begun(self) -> bool:
        """Whether the machine may have been asked already."""
        return not self.ended and (self.state != "waiting" or self.job_id is not None)


@dataclass(frozen=True, kw_only=True)
class CampaignTotals:
    """A campaign with its cells counted by state."""

    campaign: Campaign
    counts: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class CampaignFilter:
    """Which campaigns to list; the newest come first.

    ``before``: only those that were created earlier; with ``before_id`` also those of that time with a
    smaller id. ``ended``: only those that run, or only those that do not. ``judged``: see ``Campaign``.
    """

    state: CampaignState | None = None
    ended: bool | None = None
    judged: bool | None = None
    schedule: str | None = None
    before: float | None = None
    before_id: str | None = None
    limit: int = 100


@dataclass(frozen=True, kw_only=True)
class LateResult:
    """A stored result of a cell that ended without one."""

    campaign_id: str
    cell_id: str
    job_id: str


class CampaignStorage(Protocol):
    """What campaigns need of storage. Durable when a call returns."""

    async def create_campaign(self, campaign: Campaign, cells: Sequence[CampaignCell]) -> Campaign:
        """Store a campaign, or return the one that was stored with the same ``key``.

        The oldest ones that have ended go beyond the number that is kept.

        Raises:
            TooManyCampaigns: all that are kept still run.
        """

    async def campaign(self, campaign_id: str) -> Campaign:
        """One campaign. Raises NotStored."""

    async def campaigns(self, which: CampaignFilter) -> Sequence[CampaignTotals]:
        """Campaigns that pass the filter."""

    async def campaign_cells(self, campaign_id: str) -> Sequence[CampaignCell]:
        """The cells of a campaign, in their order."""

    async def save_campaign(self, campaign: Campaign, cells: Sequence[CampaignCell]) -> None:
        """Store a campaign and these of its cells at once; new ones come after those that are there."""

    async def delete_campaign(self, campaign_id: str) -> None:
        """Forget a campaign; results stay. Raises NotStored."""

    async def late_results(self) -> Sequence[LateResult]:
        """Cells that ended without a result, and whose last job has one that is complete."""
