"""A campaign's results against the nights before: slower, faster, or no difference shown. Pure.

**The question.** Is tonight's figure one that this machine gives anyway? Iterations of one run are more
alike than runs of two nights: the model is loaded anew, the machine is warmer, memory lies elsewhere. An
interval from one run's iterations would call most nights different. So what counts is how far whole nights
lie apart.

**One night.** With y the logarithm of a night's figure, the interval of the ratio of tonight to its
baseline is that of a prediction (Hahn and Meeker, "Statistical Intervals", 1991, section 4.7), on the
logarithm:

    ln ratio = y0 - median(y1 .. yN)        error² = v (1 + pi/2N) + max(0, w0² - 4 mean(w²))

The median, whose variance is pi/2 times the mean's, because one night that went wrong moves it least;
nights that the modified z-score flags are left out of the variance. v is the variance between the nights of
this line, moderated by those of the campaign's other lines (``spread``), and no less than what the runs'
own intervals say. w² is the variance within a run: what tonight's run is noisier than chance allows is added.
Student's t has the degrees of freedom of v.

**A night that went wrong** (a backup, an update, somebody at the machine) lies as far out as a slower
machine does, and is gone the next day. Three tests look at a line, so that such a night raises no alarm and
little is lost:

- *tonight*: one night alone is believed when it lies ``ALONE`` times as far out as any night of the
  campaign's lines did before;
- *two nights*: tonight and the night before together, by the same formula with v (1/2 + pi/2N), when each
  of the two by itself lies outside its interval on the same side;
- *several nights*: a shift that began within the last N nights (``change_points``). A small slowdown shows
  in no single night, and in several.

**The verdict.** Each line has one p-value: three times the smallest of the three. Holm's procedure
(Scandinavian Journal of Statistics 6, 1979) corrects them for the number of lines, so that the probability
of *any* false alarm in a campaign is at most ``ALPHA``, however the lines depend on each other; lines of
one machine share its night. Benjamini and Hochberg's would find more, and lets some of what it finds be
false: who is woken by an alarm counts alarms, not their share. A line is slower or faster when its interval
at Holm's level excludes 1 by more than ``MARGIN``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from obt_agent.benchmark import statistics
from obt_server.campaigns import change_points
from obt_server.campaigns.change_points import LogRatio
from obt_server.campaigns.spread import LEAST_VARIANCE, Spread, moderated

ALPHA: Final = 0.01
"""Probability of any false alarm in a campaign."""
MARGIN: Final = 0.01
"""A ratio that may be nearer to 1 than this concerns nobody."""
LAST_NIGHTS: Final = 7
"""Of a rolling baseline."""
LEAST_BASELINE: Final = 3
"""Nights from which on one can tell how far nights lie apart."""
HISTORY: Final = 3
"""Baselines' lengths that are searched for a shift."""
ALONE: Final = 2.0
"""How much farther out than any night before one night lies that needs no second one."""
NOISIER: Final = 4.0
"""A run's variance over the usual that is no chance: the 99 % quantile of F for 5 iterations in 7 nights."""
AGREES: Final = 0.01
"""Level of the interval outside which each of two nights lies."""
TESTS: Final = 3
"""Of each line: tonight, two nights, several nights."""

Direction = Literal["slower", "faster", "no_difference_shown"]


class Night(NamedTuple):
    """One night's figure: its logarithm, and the variance of that within the run (0.0 when not known)."""

    log: float
    within: float = 0.0


class NightLine(NamedTuple):
    """Tonight's figure of one machine, model and plan, with the nights before it, oldest first.

    Attributes:
        tonight: the figure that is compared.
        baseline: what it is compared with.
        spread_from: nights that say how far nights lie apart: the baseline, unless that is pinned.
        before: the same without the night before, which is compared together with tonight.
        usual: all nights that are known not to be slower.
        history: all nights, which are searched for a shift; the last one is the night before.
        recent: nights within which a shift must have begun; an older level is what the baseline has by now.
        pinned: the baseline was chosen by somebody, and is not of the last nights.
        higher_is_better: decides which ratio is slower.
    """

    tonight: Night
    baseline: Sequence[Night]
    spread_from: Sequence[Night]
    before: Sequence[Night]
    usual: Sequence[Night]
    history: Sequence[Night]
    recent: int = LAST_NIGHTS
    pinned: bool = False
    higher_is_better: bool = True


class LineOutcome(NamedTuple):
    """What became of a line. ``began``: nights before tonight at which a shift began; 0 is tonight itself.

    ``low`` and ``high`` are at the level that Holm's procedure left to this line. ``alone``: tonight lies
    outside, and so far out lie single nights; the next night decides.
    """

    direction: Direction
    ratio: float
    low: float
    high: float
    p: float
    p_adjusted: float
    began: int
    alone: bool = False


def kept(nights: Sequence[Night]) -> list[Night]:
    """Return the nights without those that lie far from the others."""
    far = statistics.outliers([one.log for one in nights])
    return [one for index, one in enumerate(nights) if index not in far]


def own_spread(nights: Sequence[Night]) -> Spread:
    """How far these nights lie apart, and no less than their runs' own variances say."""
    usual = kept(nights)
    spread = statistics.stddev([one.log for one in usual])
    if spread is None:
        return Spread(LEAST_VARIANCE, 0)
    within = statistics.mean([one.within for one in usual])
    return Spread(max(spread**2, within), len(usual) - 1)


def against_baseline(baseline: Sequence[Night], spread: Spread, newest: Sequence[Night]) -> LogRatio:
    """The ratio of the newest nights to a baseline, with a prediction's error."""
    logs = [one.log for one in baseline]
    usual = statistics.mean([one.within for one in baseline])
    # Of five iterations the variance scatters by so much by chance.
    noisier = max(0.0, statistics.mean([one.within for one in newest]) - NOISIER * usual)
    # A median of one is a value, and of two their mean.
    of_median = 1 / len(logs) if len(logs) < LEAST_BASELINE else math.pi / 2 / len(logs)
    variance = spread.variance * (1 / len(newest) + of_median) + noisier / len(newest)
    value = statistics.mean([one.log for one in newest]) - statistics.median(logs)
    return LogRatio(value, math.sqrt(variance), spread.df, tests=TESTS)


def farthest(lines: Sequence[NightLine], spreads: Sequence[Spread]) -> float:
    """How far out any night before tonight lay, in errors of its line."""
    return max(
        (
            abs(one.log - statistics.median([each.log for each in line.spread_from]))
            / math.sqrt(spread.variance)
            for line, spread in zip(lines, spreads, strict=True)
            for one in line.usual
        ),
        default=0.0,
    )


def two_nights(line: NightLine, spread: Spread, margin: float) -> tuple[LogRatio, int] | None:
    """The ratio of tonight and the night before; None where the two do not agree."""
    if not line.history or len(line.before) < LEAST_BASELINE:
        return None
    newest = [line.history[-1], line.tonight]
    baseline = line.baseline if line.pinned else line.before
    each = [against_baseline(baseline, spread, [one])._replace(tests=1) for one in newest]
    if any(one.p(margin) >= AGREES for one in each) or (each[0].value > 0) != (each[1].value > 0):
        return None
    return against_baseline(baseline, spread, newest), 1


def several_nights(line: NightLine, margin: float) -> tuple[LogRatio, int] | None:
    """The ratio of the newest level to the one before, and how many nights ago it began."""
    nights = [*line.history, line.tonight]
    shift = change_points.newest([one.log for one in nights], margin)
    if shift is None:
        return None
    began = len(nights) - 1 - shift.start
    if began >= line.recent:
        return None
    return shift.ratio._replace(tests=TESTS * shift.ratio.tests), began


def holm(ps: Sequence[float], alpha: float = ALPHA) -> tuple[list[float], list[float]]:
    """Return p-values adjusted by Holm's procedure, and the level at which each one was tested.

    Those that are not rejected share the level at which the procedure stopped.
    """
    order = sorted(range(len(ps)), key=ps.__getitem__)
    adjusted, levels = [1.0] * len(ps), [alpha] * len(ps)
    highest, level, stopped = 0.0, alpha, False
    for rank, index in enumerate(order):
        left = len(ps) - rank
        if not stopped:
            level = alpha / left
            stopped = ps[index] >= level
        highest = max(highest, min(1.0, ps[index] * left))
        adjusted[index], levels[index] = highest, level
    return adjusted, levels


def compare(lines: Sequence[NightLine], alpha: float = ALPHA, margin: float = MARGIN) -> list[LineOutcome]:
    """Return what became of each line of a campaign, corrected for their number.

    Every line needs ``LEAST_BASELINE`` nights in ``spread_from`` and one in ``baseline``.
    """
    spreads = moderated([own_spread(line.spread_from) for line in lines])
    believed_from = ALONE * farthest(lines, spreads)
    # Without the night before: where that is slow as well, it would be taken for how nights lie apart.
    before = moderated([own_spread(line.before) for line in lines])
    chosen = [
        _strongest(line, pair, believed_from, margin)
        for line, pair in zip(lines, zip(spreads, before, strict=True), strict=True)
    ]
    return _outcomes(lines, chosen, alpha, margin)


def compare_two(
    lines: Sequence[NightLine], alpha: float = ALPHA, margin: float = MARGIN
) -> list[LineOutcome]:
    """Return how tonight compares with the baseline alone, corrected for the number of lines.

    For two campaigns that somebody compares: there is no next night to wait for.
    """
    spreads = moderated([own_spread(line.spread_from) for line in lines])
    ratios = [
        against_baseline(line.baseline, spread, [line.tonight])._replace(tests=1)
        for line, spread in zip(lines, spreads, strict=True)
    ]
    chosen = [_StrongestTest(ratio, ratio.p(margin), 0, ratio) for ratio in ratios]
    return _outcomes(lines, chosen, alpha, margin)


class _StrongestTest(NamedTuple):
    ratio: LogRatio
    p: float
    began: int
    # Of tonight alone, whether or not it is believed.
    tonight: LogRatio


def _strongest(
    line: NightLine, spreads: tuple[Spread, Spread], believed_from: float, margin: float
) -> _StrongestTest:
    """The test of a line with the smallest p-value; the spreads with and without the night before."""
    spread, before = spreads
    tonight = against_baseline(line.baseline, spread, [line.tonight])
    believed = abs(tonight.value) > believed_from * tonight.error
    found = [_StrongestTest(tonight, tonight.p(margin) if believed else 1.0, 0, tonight)]
    for test in (two_nights(line, before, margin), several_nights(line, margin)):
        if test is not None:
            ratio, began = test
            found.append(_StrongestTest(ratio, ratio.p(margin), began, tonight))
    return min(found, key=lambda one: one.p)


def _outcomes(
    lines: Sequence[NightLine], chosen: Sequence[_StrongestTest], alpha: float, margin: float
) -> list[LineOutcome]:
    adjusted, levels = holm([one.p for one in chosen], alpha)
    return [
        _outcome(line, one, p_adjusted, level, margin)
        for line, one, p_adjusted, level in zip(lines, chosen, adjusted, levels, strict=True)
    ]


def _outcome(
    line: NightLine, one: _StrongestTest, p_adjusted: float, level: float, margin: float
) -> LineOutcome:
    interval = one.ratio.interval(level)
    direction: Direction = "no_difference_shown"
    # By the p-value, which the interval agrees with, but for a night that is not believed alone.
    if one.p < level:
        direction = "faster" if (one.ratio.value > 0) == line.higher_is_better else "slower"
    alone = direction == "no_difference_shown" and one.tonight.p(margin) < level
    return LineOutcome(direction, math.exp(one.ratio.value), *interval, one.p, p_adjusted, one.began, alone)
