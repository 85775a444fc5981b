"""The night from which on a machine was slower or faster: a shift in a line of nights. Pure.

The likelihood ratio for one shift of the mean of normal values with unknown variance is largest where the
two-sample t-statistic of the nights before against those from it on is (Hawkins, "Testing a sequence of
observations for a shift in location", Journal of the American Statistical Association 72, 1977). It is the
largest of many, so its p-value is Bonferroni's bound over all the places where it might be (Worsley, "On
the likelihood ratio test for a shift in location of normal populations", same journal 74, 1979): no table,
exact t quantiles, and never too small.

A machine that was slow for two weeks has two shifts, which hide each other in a view of the whole line. So
they are looked for in windows of all sizes, each half as long as the one before (seeded binary
segmentation: Kovács, Bühlmann, Li and Munk, Biometrika 110, 2023); Bonferroni's bound counts the places of
all of them. Nights before the strongest shift and after it are searched again, until nothing is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from obt_agent.benchmark import statistics
from obt_server.campaigns.spread import LEAST_VARIANCE

LEAST_NIGHTS: Final = 3
"""On either side of a shift: a night or two that went wrong are no new level."""
LEVEL: Final = 0.001
"""Of a mark in one line's history: of a thousand lines without change one has a mark."""


# The logarithm of what a float still holds: an interval of two nights may be as wide.
_LARGEST: Final = 700.0


class LogRatio(NamedTuple):
    """The logarithm of a ratio, with what a t-interval of it takes.

    ``tests``: among how many it was chosen, or into how many an allowed error is divided.
    """

    value: float
    error: float
    df: float
    tests: int = 1

    def p(self, margin: float) -> float:
        """Two-sided p-value of its being within ``margin`` (of the ratio: 0.01 is one percent)."""
        beyond = abs(self.value) - math.log1p(margin)
        if beyond <= 0:
            return 1.0
        return min(1.0, 2 * self.tests * statistics.t_cdf(-beyond / self.error, self.df))

    def interval(self, level: float) -> statistics.Interval:
        """The interval of the ratio that errs with the probability ``level``."""
        half = statistics.t_quantile(1 - level / (2 * self.tests), self.df) * self.error
        half = min(half, _LARGEST - abs(self.value))
        return statistics.Interval(math.exp(self.value - half), math.exp(self.value + half))


class Shift(NamedTuple):
    """Values from position ``start`` on lie at another level than those before it."""

    start: int
    ratio: LogRatio


def strongest(logs: Sequence[float], margin: float) -> Shift | None:
    """Return where a shift by more than ``margin`` is most likely; None where there are too few values."""
    return _strongest_in(logs, _windows(len(logs)), margin)


def newest(logs: Sequence[float], margin: float) -> Shift | None:
    """Return the most likely shift to the level that the last values have; None where there are too few."""
    n = len(logs)
    return _strongest_in(logs, [window for window in _windows(n) if window.stop == n], margin)


def _windows(n: int) -> list[range]:
    """Windows of all sizes, the whole first; each of a size shares half with the next."""
    found, length = [], n
    while length >= 2 * LEAST_NIGHTS:
        starts = range(0, n - length, length // 2)
        # The last one ends with the line.
        found += [range(start, start + length) for start in (*starts, n - length)]
        length //= 2
    return found


def _strongest_in(logs: Sequence[float], windows: Sequence[range], margin: float) -> Shift | None:
    found = [shift for window in windows for shift in _splits(logs, window)]
    if not found:
        return None
    # One of so many was chosen.
    found = [Shift(index, ratio._replace(tests=len(found))) for index, ratio in found]
    return min(found, key=lambda one: one.ratio.p(margin))


def _splits(logs: Sequence[float], window: range) -> Iterator[Shift]:
    """Every place of a window at which its two sides may be two levels."""
    n = len(window)
    # About their mean, so that sums of squares keep their digits.
    centre = statistics.mean(logs[window.start : window.stop])
    values = [value - centre for value in logs[window.start : window.stop]]
    squares = math.fsum(value * value for value in values)
    total, before = math.fsum(values), 0.0
    for index in range(1, n - LEAST_NIGHTS + 1):
        before += values[index - 1]
        if index >= LEAST_NIGHTS:
            low, high = before / index, (total - before) / (n - index)
            within = squares - before * low - (total - before) * high
            variance = max(within / (n - 2), LEAST_VARIANCE)
            error = math.sqrt(variance * (1 / index + 1 / (n - index)))
            yield Shift(window.start + index, LogRatio(high - low, error, n - 2))


def shifts(logs: Sequence[float], margin: float, level: float = LEVEL) -> list[Shift]:
    """Return every shift of a line, in order; each ratio is that of the nights on its two sides."""
    edges = [0, *_places(logs, 0, margin, level), len(logs)]
    found = []
    # Once all are known: a shift is of the nights between its neighbours, not of a whole line with others.
    for start, index, end in zip(edges, edges[1:], edges[2:], strict=False):
        after = _between(logs[start:index], logs[index:end])
        found.append(Shift(index, after))
    return found


def _places(logs: Sequence[float], offset: int, margin: float, level: float) -> list[int]:
    shift = strongest(logs, margin)
    if shift is None or shift.ratio.p(margin) >= level:
        return []
    before, after = logs[: shift.start], logs[shift.start :]
    at = offset + shift.start
    return [*_places(before, offset, margin, level), at, *_places(after, at, margin, level)]


def _between(before: Sequence[float], after: Sequence[float]) -> LogRatio:
    """The ratio of two levels, with the variance that both have together."""
    n, m = len(before), len(after)
    low, high = statistics.mean(before), statistics.mean(after)
    within = math.fsum((one - low) ** 2 for one in before) + math.fsum((one - high) ** 2 for one in after)
    variance = max(within / (n + m - 2), LEAST_VARIANCE)
    return LogRatio(high - low, math.sqrt(variance * (1 / n + 1 / m)), n + m - 2)
