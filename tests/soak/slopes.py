"""Whether a figure grows: the least-squares slope, with an interval by a moving-block bootstrap. Pure.

Samples of a process are not independent: memory moves in steps that last. Blocks of residuals, drawn with
replacement and put back onto the fitted line, keep that dependence (Künsch 1989), and the spread of the
slopes of such series is the interval. Plain intervals would be far too narrow.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

POINTS: Final = 240
"""Most points of a fit: longer series are averaged in bins, which changes no slope."""
RESAMPLES: Final = 1000
LEVEL: Final = 0.99
LEAST_POINTS: Final = 12


@dataclass(frozen=True)
class Slope:
    """Growth an hour, with its interval. ``change``: growth over the whole series."""

    per_h: float
    low: float
    high: float
    hours: float

    @property
    def zero(self) -> bool:
        """Whether the series may as well not grow."""
        return self.low <= 0 <= self.high

    @property
    def change(self) -> float:
        """Growth over the time measured."""
        return self.per_h * self.hours

    def above(self, bound_per_h: float) -> bool:
        """Whether the slope is above a bound, and not by chance."""
        return self.low > bound_per_h


def slope(times_s: Sequence[float], values: Sequence[float], seed: int = 0) -> Slope:
    """Return the slope of a series.

    Raises:
        ValueError: it has too few points.
    """
    if len(values) < LEAST_POINTS:
        raise ValueError(f"{len(values)} points are too few for a slope")
    times, figures = _binned(times_s, values)
    per_s, start = _fit(times, figures)
    fitted = [start + per_s * at for at in times]
    residuals = [figure - line for figure, line in zip(figures, fitted, strict=True)]
    slopes = sorted(_resampled(times, fitted, residuals, random.Random(seed)))
    tail = (1 - LEVEL) / 2
    low, high = slopes[int(tail * RESAMPLES)], slopes[-1 - int(tail * RESAMPLES)]
    return Slope(per_s * 3600, low * 3600, high * 3600, (times_s[-1] - times_s[0]) / 3600)


def _binned(times: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    size = math.ceil(len(values) / POINTS)
    starts = range(0, len(values) - size + 1, size)
    means = [sum(series[at : at + size]) / size for series in (times, values) for at in starts]
    half = len(means) // 2
    return means[:half], means[half:]


def _fit(times: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    mean_t, mean_v = sum(times) / len(times), sum(values) / len(values)
    spread = sum((at - mean_t) ** 2 for at in times)
    together = sum((at - mean_t) * (value - mean_v) for at, value in zip(times, values, strict=True))
    per_s = together / spread
    return per_s, mean_v - per_s * mean_t


def _resampled(
    times: Sequence[float], fitted: Sequence[float], residuals: Sequence[float], chance: random.Random
) -> list[float]:
    count = len(residuals)
    # Long enough for steps to stay whole, short enough for many different series.
    length = max(2, round(count ** (1 / 2)))
    found = []
    for _ in range(RESAMPLES):
        drawn: list[float] = []
        while len(drawn) < count:
            at = chance.randrange(count - length + 1)
            drawn += residuals[at : at + length]
        found.append(_fit(times, [line + one for line, one in zip(fitted, drawn, strict=False)])[0])
    return found
