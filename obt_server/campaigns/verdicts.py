"""What a campaign's comparison means in words, with what changed beside it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from obt_agent.benchmark.metrics_registry import BY_NAME
from obt_server.campaign_storage import VerdictCounts
from obt_server.campaigns import baselines, comparison, history
from obt_server.campaigns.baselines import ChosenBaseline, LineRecord, NotCompared
from obt_server.campaigns.comparison import LAST_NIGHTS, LEAST_BASELINE, MARGIN, LineOutcome
from obt_server.campaigns.history import NightResults
from obt_server.campaigns.sweep import SweepPoint
from obt_server.verdict_storage import EnvironmentChange, LineKey, ResultRef, Verdict

SHOWN: Final = 0.0005
"""A ratio nearer to 1 than this is shown as no difference at all."""


class MeasuredLine(NamedTuple):
    """A line of a campaign: its nights, oldest first, the campaign's own last; or why that is not there.

    ``figures``: of the nights, by the job that stands for each. ``point``: of a plan that sweeps.
    """

    key: LineKey
    agent_name: str
    model: str
    metric: str
    nights: Sequence[NightResults]
    figures: baselines.Figures
    known: LineRecord = LineRecord()
    missing: str | None = None
    point: SweepPoint | None = None


def judge(lines: Sequence[MeasuredLine], last: int = LAST_NIGHTS) -> list[Verdict]:
    """Return the verdict of each line, corrected for the number of those that can be compared."""
    chosen = [
        NotCompared(line.missing)
        if line.missing is not None
        else baselines.choose(line.nights, line.figures, line.metric, line.known, last)
        for line in lines
    ]
    outcomes = iter(comparison.compare([one.line for one in chosen if isinstance(one, ChosenBaseline)]))
    return [
        _refused(line, one) if isinstance(one, NotCompared) else _compared(line, one, next(outcomes))
        for line, one in zip(lines, chosen, strict=True)
    ]


def counts(verdicts: Sequence[Verdict]) -> VerdictCounts:
    """Return how many there are of each."""
    found = Counter(one.verdict for one in verdicts)
    return VerdictCounts(**{word: found[word] for word in found})


def _refused(line: MeasuredLine, refused: NotCompared) -> Verdict:
    word = "No difference shown" if refused.few else "Not comparable"
    changed: tuple[EnvironmentChange, ...] = ()
    if refused.nearest is not None:
        changed = tuple(history.changes(refused.nearest.first, line.nights[-1].first))
    return Verdict(
        **_named(line),
        verdict="no_difference_shown" if refused.few else "not_comparable",
        text=f"{word}{_at(line)}: {refused.reason}.",
        changed=changed,
    )


def _named(line: MeasuredLine) -> dict[str, Any]:
    """What a verdict is about."""
    point = {} if line.point is None else {"point": line.point.label, "point_index": line.point.place}
    return {
        "agent_id": line.key.agent_id,
        "agent_name": line.agent_name,
        "model": line.model,
        "plan_hash": line.key.plan_hash,
        "metric": line.metric,
    } | point


def _at(line: MeasuredLine) -> str:
    return "" if line.point is None else f" at {line.point.label}"


def _compared(line: MeasuredLine, chosen: ChosenBaseline, outcome: LineOutcome) -> Verdict:
    since = _since(line, chosen, outcome)
    back = bool(chosen.back) and outcome.direction != "slower"
    return Verdict(
        **_named(line),
        verdict=outcome.direction,
        text=_text(line, chosen, outcome) + (_back_for(len(chosen.back)) if back else ""),
        ratio=outcome.ratio,
        ratio_low=outcome.low,
        ratio_high=outcome.high,
        p=outcome.p,
        p_adjusted=outcome.p_adjusted,
        baseline=tuple(night.ref for night in chosen.baseline),
        changed=_changed(chosen, since),
        since=since,
        back_since=chosen.back[0].ref if back else None,
    )


def _since(line: MeasuredLine, chosen: ChosenBaseline, outcome: LineOutcome) -> ResultRef | None:
    """The night with which it began: of a regression that is open, the one that it has."""
    if outcome.direction == "no_difference_shown":
        return None
    # Of one that no night has said lately, the machine had recovered.
    lately = chosen.nights[-1 - LEAST_BASELINE :][0].at
    opened = [
        one.since
        for one in line.known.regressions
        if not one.acknowledged and one.since and one.last_at >= lately
    ]
    if outcome.direction == "slower" and opened:
        return min(opened, key=lambda one: one.at)
    return chosen.nights[-1 - outcome.began].ref


def _changed(chosen: ChosenBaseline, since: ResultRef | None) -> tuple[EnvironmentChange, ...]:
    """What changed from the night before it began to the first of it; of no difference, up to tonight."""
    nights = chosen.nights
    index = len(nights) - 1
    if since is not None:
        index = next((i for i, night in enumerate(nights) if night.ref == since), index)
    # The first that is looked at has none before it here: then the newest of the baseline.
    before = nights[index - 1] if index > 0 else chosen.baseline[-1]
    return tuple(history.changes(before.first, nights[index].first))


def _text(line: MeasuredLine, chosen: ChosenBaseline, outcome: LineOutcome) -> str:
    label = BY_NAME[line.metric].label
    by = _compared_with(outcome.ratio, _baseline(line, chosen))
    interval = f"the interval is {percent(outcome.low)} to {percent(outcome.high)}"
    if outcome.direction == "no_difference_shown":
        if outcome.alone:
            return (
                f"No difference shown yet{_at(line)}: {label} is {by}, but single nights of this "
                "campaign lie as far out; the next night decides."
            )
        return (
            f"No difference shown{_at(line)}: {label} is {by}; {interval}, which does not "
            f"exclude a change of {MARGIN:.0%} or less."
        )
    word = outcome.direction.capitalize()
    nights = "tonight" if outcome.began == 0 else f"for {outcome.began + 1} nights"
    return f"{word}, {nights}{_at(line)}: {label} is {by}; {interval}."


def _back_for(nights: int) -> str:
    return f" It was slower, and is back {'tonight' if nights == 1 else f'for {nights} nights'}."


def _compared_with(ratio: float, baseline: str) -> str:
    equal = abs(ratio - 1) < SHOWN
    return f"as {baseline}" if equal else f"{percent(ratio)} than {baseline}"


def _baseline(line: MeasuredLine, chosen: ChosenBaseline) -> str:
    if line.known.pinned is not None:
        return "the pinned baseline"
    return f"on the {len(chosen.baseline)} nights before"


def percent(ratio: float) -> str:
    """Return a ratio in words."""
    if abs(ratio - 1) < SHOWN:
        return "equal"
    return f"{abs(ratio - 1) * 100:.1f} % {'higher' if ratio > 1 else 'lower'}"
