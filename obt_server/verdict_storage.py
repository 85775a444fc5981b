"""What lasts of verdicts: pinned baselines, what campaigns gave, and regressions. Times are Unix seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import msgspec

VerdictWord = Literal["slower", "faster", "no_difference_shown", "not_comparable"]


class LineKey(NamedTuple):
    """What nights are compared within: a machine, a model (its key), and a plan's hash."""

    agent_id: str
    model: str
    plan_hash: str


class ResultRef(msgspec.Struct, frozen=True, kw_only=True):
    """A result, and when it was measured."""

    job_id: str
    at: float


class EnvironmentChange(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was another one before, in words."""

    what: str
    before: str | None
    after: str | None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A model and plan on a machine, compared with its baseline.

    ``point`` names the point of a plan that sweeps, ``point_index`` is its place in the plan's order.
    ``ratio`` is the figure over the baseline's, as the metric is: of times more is slower. Its interval is
    the one that decides: at the level that the correction for the campaign's comparisons leaves.
    ``changed`` is what changed beside it. ``since``: the night with which it began. ``back_since``: the night
    from which on it is back at its baseline, of what was slower.
    """

    agent_id: str
    agent_name: str
    model: str
    plan_hash: str
    metric: str
    verdict: VerdictWord
    text: str
    point: str | None = None
    point_index: int = 0
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    baseline: tuple[ResultRef, ...] = ()
    changed: tuple[EnvironmentChange, ...] = ()
    since: ResultRef | None = None
    back_since: ResultRef | None = None


class Acknowledgement(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody knows of a regression: from then on its nights are what later ones are compared with.

    Unless it was back at its baseline: then its nights stay left out.
    """

    by: str
    at: float
    note: str | None = None


class Regression(Verdict, frozen=True, kw_only=True):
    """A verdict that said slower, once however many nights say it again.

    ``campaign_id`` and ``at`` are of the campaign that found it, ``last_at`` of the newest that says it. It
    stays open until somebody acknowledges it, also when it is back at its baseline.
    """

    id: int
    campaign_id: str
    at: float
    last_at: float
    acknowledged: Acknowledgement | None = None


@dataclass(frozen=True, kw_only=True)
class PinnedBaseline:
    """The result that one machine's model and plan are compared with; ``model`` is its key."""

    agent_id: str
    model: str
    plan_hash: str
    job_id: str
    at: float
    by: str


@dataclass(frozen=True, kw_only=True)
class RegressionFilter:
    """Which regressions to list; the newest come first.

    ``before``: only those found earlier; with ``before_id`` also those of that time with a smaller id.
    """

    state: Literal["open", "acknowledged"] | None = None
    agent_id: str | None = None
    before: float | None = None
    before_id: int | None = None
    limit: int = 100


class VerdictStorage(Protocol):
    """What baselines, verdicts and regressions need of storage. Durable when a call returns."""

    async def pin_baseline(self, pinned: PinnedBaseline) -> None:
        """Store a pinned baseline, in place of an earlier one of the same machine, model and plan."""

    async def unpin_baseline(self, key: LineKey) -> None:
        """Forget a pinned baseline. Raises NotStored."""

    async def pinned_baselines(self) -> Sequence[PinnedBaseline]:
        """All of them, by machine, model and plan."""

    async def save_verdicts(self, campaign_id: str, at: float, verdicts: Sequence[Verdict]) -> list[int]:
        """Store what a campaign gave, in place of what it gave before, and the regressions in it.

        A verdict that says slower where a regression is open is that regression again, and one that says
        since when it is back is noted with it. One that this campaign alone had found, and no longer says,
        goes.

        Returns:
            The ids of the regressions that are new, changed or gone.
        """

    async def verdicts(self, campaign_id: str) -> Sequence[Verdict]:
        """What a campaign gave; none where it was not compared."""

    async def regressions(self, which: RegressionFilter) -> Sequence[Regression]:
        """Regressions that pass the filter."""

    async def regression(self, regression_id: int) -> Regression:
        """One regression. Raises NotStored."""

    async def acknowledge(self, regression_id: int, acknowledged: Acknowledgement | None) -> Regression:
        """Store that somebody knows of a regression, or (None) take that back. Raises NotStored."""
