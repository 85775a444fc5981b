"""What a night is compared with: the last nights of its line, or a pinned result. Pure.

Only nights of the same machine, plan and version of the model count, without those on which the machine was
not alone. Nights of a regression that nobody has acknowledged are left out: else a slow machine would be
its own baseline after a week, and the alarm would end by itself. Once it is acknowledged, its nights are
the new level, and those before it are left out; unless the line was back at its baseline by then.

A line is back when a night lies nearer to the baseline than to the nights of its regression. From then on the
nights of the regression are left out of its history as well: else it would look faster for a week.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from obt_agent.benchmark import statistics
from obt_agent.benchmark.metrics_registry import BY_NAME
from obt_agent.benchmark.semantics import version_class
from obt_server.campaigns import change_points, history
from obt_server.campaigns.comparison import HISTORY, LAST_NIGHTS, LEAST_BASELINE, MARGIN, Night, NightLine
from obt_server.campaigns.history import NightResults
from obt_server.verdict_storage import Regression

MOST_NIGHTS: Final = 100
"""Of one line that are looked at; half a year is more than a machine stays the same."""
Figures = Mapping[str, Night]
"""Figures of nights by the job that stands for each; nights without one have no such figure."""


class ChosenBaseline(NamedTuple):
    """A line that can be compared, with the nights of its baseline; ``nights``: all, and tonight last.

    ``back``: the nights since which it is back at its baseline, tonight last; of what was slower.
    """

    line: NightLine
    baseline: list[NightResults]
    nights: list[NightResults]
    back: list[NightResults]


class NotCompared(NamedTuple):
    """Why a line is not compared. ``few``: nothing speaks against it, there are too few nights yet."""

    reason: str
    few: bool = False
    nearest: NightResults | None = None


class LineRecord(NamedTuple):
    """What was found about a line before: its regressions, and the jobs that are pinned as its baseline."""

    regressions: Sequence[Regression] = ()
    pinned: Collection[str] | None = None


def choose(
    nights: Sequence[NightResults], figures: Figures, metric: str, known: LineRecord, last: int = LAST_NIGHTS
) -> ChosenBaseline | NotCompared:
    """Return the line of the last of ``nights`` (oldest first) with what it is compared with."""
    tonight, earlier = nights[-1], list(nights[:-1])[-MOST_NIGHTS:]
    if tonight.first.stored.job_id not in figures:
        return NotCompared(f"the result has no {BY_NAME[metric].label}")
    if not earlier:
        return NotCompared("it is the first result of this model and plan on this machine")
    same = [night for night in earlier if comparable(night, tonight, metric)]
    if not same:
        return NotCompared(_difference(earlier[-1], tonight, metric), nearest=earlier[-1])
    reason = history.unusable(tonight, same)
    if reason is not None:
        return NotCompared(reason, nearest=same[-1])
    usable = [
        night
        for night in same
        if night.first.stored.job_id in figures
        and history.unusable(night, [tonight, *(one for one in same if one is not night)]) is None
    ]
    return _of_usable(usable, tonight, figures, metric, (known, last))


def comparable(night: NightResults, other: NightResults, metric: str) -> bool:
    """Whether two nights of a line measured the same thing."""
    return night.digest == other.digest and _semantics(night, metric) == _semantics(other, metric)


def _semantics(night: NightResults, metric: str) -> str | None:
    # Ollama's versions differ in what they mean by their own figures; the agent's clock stays the same.
    if BY_NAME[metric].clock != "ollama":
        return None
    return str(version_class(night.first.digest.environment.ollama_version))


def _difference(before: NightResults, tonight: NightResults, metric: str) -> str:
    if before.digest != tonight.digest:
        return "the model is another version (digest) than on all nights before"
    return f"Ollama's versions mean different things by {BY_NAME[metric].label}"


def _of_usable(
    usable: Sequence[NightResults],
    tonight: NightResults,
    figures: Figures,
    metric: str,
    how: tuple[LineRecord, int],
) -> ChosenBaseline | NotCompared:
    known, last = how
    known_of = [one for one in known.regressions if one.acknowledged]
    accepted = max((one.since.at for one in known_of if one.since and not one.back_since), default=0.0)
    # What was back by itself was no new level: its nights are as if they had not been.
    over = [one for one in known_of if one.back_since]
    level = [
        night for night in usable if night.at >= accepted and not any(_during(night, one) for one in over)
    ]
    open_ones = [one for one in known.regressions if not one.acknowledged and one.since]
    usual = [night for night in level if not any(_during(night, one) for one in open_ones)]
    better = BY_NAME[metric].better != "lower"
    segment = _after_faster(usual, figures, higher_is_better=better)
    newest = list(segment[-last:])
    if len(newest) < LEAST_BASELINE:
        missing = LEAST_BASELINE - len(newest)
        text = f"{missing} more {'night' if missing == 1 else 'nights'} before a difference can be shown"
        return NotCompared(text, few=True, nearest=newest[-1] if newest else None)
    baseline = newest
    if known.pinned is not None:
        if not known.pinned:
            return NotCompared("no result is pinned as its baseline")
        baseline = [night for night in usable if _holds(night, known.pinned)]
        if not baseline:
            return NotCompared("the pinned baseline is no usable result of this model's version")
    back = _back(level, tonight, figures, (baseline, open_ones))
    shown, since_open = (usual, []) if back else (level, _since(level, open_ones))
    window = HISTORY * last + len(since_open)
    before = newest
    # Without the night before, which is compared together with tonight.
    if shown[-1] is segment[-1]:
        before = list(segment[:-1][-last:])
    line = NightLine(
        tonight=figures[tonight.first.stored.job_id],
        baseline=_figures(baseline, figures),
        spread_from=_figures(newest, figures),
        before=_figures(before, figures),
        usual=_figures(usual[-HISTORY * last :], figures),
        history=_figures(shown[-window:], figures),
        recent=last + len(since_open),
        pinned=known.pinned is not None,
        higher_is_better=better,
    )
    return ChosenBaseline(line, baseline, [*shown[-window:], tonight], back)


def _since(level: Sequence[NightResults], open_ones: Sequence[Regression]) -> list[NightResults]:
    """The nights since the first of the regressions that are open."""
    began = min((_start(one) for one in open_ones), default=math.inf)
    return [night for night in level if night.at >= began]


def _back(
    level: Sequence[NightResults],
    tonight: NightResults,
    figures: Figures,
    against: tuple[Sequence[NightResults], Sequence[Regression]],
) -> list[NightResults]:
    """The nights up to tonight that lie nearer to the baseline than to the newest regression's nights."""
    baseline, open_ones = against
    newest = max(open_ones, key=lambda one: one.last_at, default=None)
    if newest is None:
        return []
    slow = [one.log for one in _figures([night for night in level if _during(night, newest)], figures)]
    if not slow:
        return []
    was = statistics.median([one.log for one in _figures(baseline, figures)])
    found: list[NightResults] = []
    for night in reversed([*level, tonight]):
        log = figures[night.first.stored.job_id].log
        if night.at <= newest.last_at or abs(log - was) >= abs(log - statistics.median(slow)):
            break
        found.insert(0, night)
    return found


def _during(night: NightResults, regression: Regression) -> bool:
    return _start(regression) <= night.at <= regression.last_at


def _start(regression: Regression) -> float:
    return regression.at if regression.since is None else regression.since.at


def _holds(night: NightResults, jobs: Collection[str]) -> bool:
    return any(result.stored.job_id in jobs for result in night.results)


def _after_faster(
    usual: Sequence[NightResults], figures: Figures, *, higher_is_better: bool
) -> Sequence[NightResults]:
    """The nights since the line became faster, if it did: slower ones would hide a fall back.

    Nights since it became slower stay with those before: only a person accepts that.
    """
    found = change_points.shifts([one.log for one in _figures(usual, figures)], MARGIN)
    faster = [shift.start for shift in found if (shift.ratio.value > 0) == higher_is_better]
    return usual[faster[-1] :] if faster else usual


def _figures(nights: Sequence[NightResults], figures: Figures) -> list[Night]:
    return [figures[night.first.stored.job_id] for night in nights]
