"""How far nights lie apart, estimated for each line of nights with the help of all others. Pure.

A line has few nights (seven by default), and the variance of seven values is uncertain by a factor of two
either way. The lines of one campaign are alike, though, and what they have in common is known well. So each
variance is drawn towards the common one, as far as the variances show that there is one: the moderated
t-statistic of Smyth, "Linear models and empirical Bayes methods for assessing differential expression in
microarray experiments" (Statistical Applications in Genetics and Molecular Biology 3, 2004, section 6.2 for
the estimates). With true variances that follow a scaled inverse chi-square, the moderated statistic has
Student's distribution with the degrees of freedom of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from obt_agent.benchmark import statistics

LEAST_VARIANCE: Final = 0.001**2
"""Of logarithms: no machine repeats itself within a tenth of a percent for long."""
LEAST_LINES: Final = 3
"""Lines from which variances can be seen to scatter; with fewer each stands for itself."""
_MANY: Final = 1e6
"""Degrees of freedom that are as good as infinitely many."""
# From here on the asymptotic series is exact to the last digits of a float.
_ASYMPTOTIC_FROM: Final = 12.0
_MAX_STEPS: Final = 50
_PRECISION: Final = 1e-10


class Spread(NamedTuple):
    """A variance, and the degrees of freedom with which it is known."""

    variance: float
    df: float


def moderated(spreads: Sequence[Spread]) -> list[Spread]:
    """Return each variance drawn towards what all have in common, with the degrees of freedom of both.

    Variances without degrees of freedom take the common one. With fewer than ``LEAST_LINES`` others, each is
    returned as it is.
    """
    floored = [Spread(max(variance, LEAST_VARIANCE), df) for variance, df in spreads]
    known = [one for one in floored if one.df > 0]
    if len(known) < LEAST_LINES:
        return floored
    common = _common(known)
    # All lines together know no more than their own degrees of freedom.
    most = sum(one.df for one in known)
    return [
        Spread(
            (common.df * common.variance + one.df * one.variance) / (common.df + one.df),
            min(common.df + one.df, most),
        )
        for one in floored
    ]


def _common(known: Sequence[Spread]) -> Spread:
    """The variance that all have in common; its degrees of freedom say how alike they are."""
    # The logarithm of a chi-square over its degrees of freedom has the mean digamma(df/2) - ln(df/2), and the
    # variance trigamma(df/2): what the logarithms scatter beyond that is that the true variances differ.
    logs = [math.log(variance) - digamma(df / 2) + math.log(df / 2) for variance, df in known]
    centre = statistics.mean(logs)
    scatter = math.fsum((one - centre) ** 2 for one in logs) / (len(logs) - 1)
    beyond = scatter - statistics.mean([trigamma(df / 2) for _, df in known])
    half = inverse_trigamma(beyond) if beyond > 1 / _MANY else _MANY
    return Spread(math.exp(centre + digamma(half) - math.log(half)), 2 * half)


def digamma(x: float) -> float:
    """Derivative of ln gamma(x) for positive x: 5.5.2 and 5.11.2 of the NIST Digital Library."""
    below = 0.0
    # The recurrence brings x to where the series converges.
    while x < _ASYMPTOTIC_FROM:
        below -= 1 / x
        x += 1
    square = 1 / (x * x)
    series = square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square * (1 / 240 - square / 132))))
    return below + math.log(x) - 0.5 / x - series


def trigamma(x: float) -> float:
    """Second derivative of ln gamma(x) for positive x: 5.15.5 and 5.15.8 of the NIST Digital Library."""
    below = 0.0
    while x < _ASYMPTOTIC_FROM:
        below += 1 / (x * x)
        x += 1
    square = 1 / (x * x)
    series = square * (1 / 6 - square * (1 / 30 - square * (1 / 42 - square * (1 / 30 - square * 5 / 66))))
    return below + 1 / x + 0.5 * square + series / x


def inverse_trigamma(y: float) -> float:
    """The x whose trigamma is y > 0: Newton's method on 1/trigamma, which is nearly linear (Smyth, 2004)."""
    # Never above the root, from where each step comes closer and none goes beyond.
    x = 0.5 + 1 / y
    for _ in range(_MAX_STEPS):
        value = trigamma(x)
        step = value * (1 - value / y) / _tetragamma(x)
        x += step
        if abs(step) < _PRECISION * x:
            break
    return x


def _tetragamma(x: float) -> float:
    """Derivative of trigamma: 5.15.5 and 5.15.8, differentiated."""
    below = 0.0
    while x < _ASYMPTOTIC_FROM:
        below -= 2 / x**3
        x += 1
    square = 1 / (x * x)
    series = square * (1 / 2 - square * (1 / 6 - square * (1 / 6 - square * (3 / 10 - square * 5 / 6))))
    return below - square - square / x - square * series
