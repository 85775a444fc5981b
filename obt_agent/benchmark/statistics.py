"""Statistics of small samples, with no library. Pure; tests compare every function with SciPy.

All functions take finite floats and give floats; none of them drops a value.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Final, NamedTuple

from obt_agent.benchmark.metrics_registry import Values
from obt_agent.benchmark.result import Percentiles, Ratio, Summary

# Confidence of every interval in a result.
CONFIDENCE: Final = 0.95
# Share of samples of normal data in which any value is flagged as an outlier.
FALSE_ALARMS: Final = 0.01

# Up to so many values a rank correlation's p-value is counted out (5,040 orders).
EXACT_RANKS: Final = 7

# The 75th percentile of the standard normal distribution: MAD over sigma of normal data.
_MAD_TO_SIGMA: Final = 0.6744897501960817
# Sample size, and the modified z-score that the largest of so many normal values passes in one sample of
# a hundred: quantiles of 400,000 simulated samples each, rounded up.
_OUTLIER_THRESHOLDS: Final = (
    (4, 16.4), (5, 18.9), (6, 10.3), (7, 10.8), (8, 8.0), (9, 8.3), (10, 6.9), (11, 7.1), (12, 6.4),
    (15, 6.0), (20, 5.3), (25, 5.1), (30, 4.8), (40, 4.6), (50, 4.5), (75, 4.4), (100, 4.35), (200, 4.3),
)  # fmt: skip
_TINY: Final = 1e-300
_EPSILON: Final = 1e-15
_MAX_TERMS: Final = 10_000


class Interval(NamedTuple):
    """A two-sided interval."""

    low: float
    high: float


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean of at least one value."""
    return math.fsum(values) / len(values)


def stddev(values: Sequence[float]) -> float | None:
    """Sample standard deviation, with n-1 in the denominator; None for fewer than two values."""
    if len(values) < 2:  # noqa: PLR2004 - a spread takes two
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def quantile(values: Sequence[float], q: float) -> float:
    """Quantile by linear interpolation of order statistics (type 7 of Hyndman and Fan, 1996), 0 <= q <= 1."""
    ordered = sorted(values)
    # Type 7, as NumPy's default: the smallest value has q = 0 and the largest q = 1.
    position = q * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two middle ones."""
    return quantile(values, 0.5)


def beta_fraction(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta function I_x(a, b) for 0 <= x <= 1 and positive a, b.

    By the continued fraction 8.17.22 of the NIST Digital Library of Mathematical Functions, evaluated with
    Lentz's method, on the side where it converges fast.
    """
    if x <= 0.0 or x >= 1.0:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):
        return 1.0 - beta_fraction(b, a, 1.0 - x)
    # In logarithms: the gamma functions of a few hundred degrees of freedom overflow.
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / a * _beta_continued_fraction(a, b, x)


def _beta_continued_fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1))
    product = d
    for m in range(1, _MAX_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _away_from_zero(1.0 + term * d)
            c = _away_from_zero(1.0 + term / c)
            product *= d * c
        if abs(d * c - 1.0) < _EPSILON:
            break
    return product


# Lentz's method divides by these; a zero is replaced by a number too small to matter.
def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def t_cdf(t: float, df: float) -> float:
    """Cumulative distribution of Student's t with ``df`` > 0 degrees of freedom.

    By the incomplete beta function (Abramowitz and Stegun, 26.7.1): from the middle for small t and from the
    tail for large, so that neither loses digits.
    """
    if t * t < df:
        return 0.5 + math.copysign(0.5 * beta_fraction(0.5, df / 2, t * t / (df + t * t)), t)
    tail = 0.5 * beta_fraction(df / 2, 0.5, df / (df + t * t))
    return tail if t < 0 else 1.0 - tail


@functools.lru_cache(maxsize=256)
def t_quantile(p: float, df: float) -> float:
    """The t below which a share ``p`` of Student's distribution lies, 0 < p < 1; bisects ``t_cdf``."""
    if p < 0.5:  # noqa: PLR2004 - the distribution is symmetric about its median
        return -t_quantile(1.0 - p, df)
    # With one degree of freedom the tail is long: the bracket doubles until it holds the quantile.
    high = 1.0
    while t_cdf(high, df) < p:
        high *= 2.0
    return _bisect(lambda t: t_cdf(t, df) - p, 0.0, high)


def _bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """The root of a rising function between ``low`` and ``high``, to the last bits of a float."""
    while True:
        middle = (low + high) / 2
        # The two are neighbouring floats: no number lies between them.
        if middle in (low, high):
            return middle
        if function(middle) < 0:
            low = middle
        else:
            high = middle


def t_interval(values: Sequence[float]) -> Interval | None:
    """Interval of the mean: mean ± t(n-1) s/√n. None for fewer than two values.

    It covers the mean of normal data at exactly the nominal rate; with three values t is 4.30, and the width
    is shown as it is.
    """
    spread = stddev(values)
    if spread is None:
        return None
    n = len(values)
    half = t_quantile((1 + CONFIDENCE) / 2, n - 1) * spread / math.sqrt(n)
    return Interval(mean(values) - half, mean(values) + half)


def positive_interval(values: Sequence[float]) -> Interval | None:
    """Interval of the mean of values that cannot be negative: mean × e^±h with h = t(n-1) s/(mean √n).

    The t-interval of the mean's logarithm, whose standard error is s/(mean √n) by the delta method (Meeker
    and Escobar, "Statistical Methods for Reliability Data", 1998, section 8.3, with Student's t for few
    values). It cannot reach below zero. None for fewer than two values.
    """
    spread, centre = stddev(values), mean(values) if values else 0.0
    if spread is None:
        return None
    if min(values) < 0.0:  # no such quantity: the caller was wrong about it, and the logarithm has no meaning
        return t_interval(values)
    if spread == 0.0:
        return Interval(centre, centre)
    n = len(values)
    half = t_quantile((1 + CONFIDENCE) / 2, n - 1) * spread / (centre * math.sqrt(n))
    return Interval(centre * math.exp(-half), centre * math.exp(half))


def mean_interval(values: Sequence[float], possible: Values = "positive") -> Interval | None:
    """Interval of the mean of values of that kind, which holds no value that the mean cannot have."""
    if possible == "any":
        return t_interval(values)
    interval = positive_interval(values)
    if interval is not None and possible == "percent":
        # Cutting at a bound that the true mean cannot pass leaves the coverage as it is.
        return Interval(min(interval.low, 100.0), min(interval.high, 100.0))
    return interval


def relative_width(values: Sequence[float]) -> float | None:
    """Whole width of the interval of positive values over their mean; None where either is missing or 0."""
    interval = positive_interval(values)
    if interval is None or (centre := mean(values)) == 0.0:
        return None
    return (interval.high - interval.low) / abs(centre)


def summarise(values: Sequence[float], possible: Values = "positive") -> Summary:
    """The summary of at least one value."""
    centre, spread = mean(values), stddev(values)
    interval = mean_interval(values, possible)
    return Summary(
        n=len(values),
        mean=centre,
        median=median(values),
        stddev=spread,
        cv=spread / abs(centre) if spread is not None and centre != 0.0 else None,
        min=min(values),
        max=max(values),
        ci_low=interval.low if interval else None,
        ci_high=interval.high if interval else None,
        confidence=CONFIDENCE,
    )


def percentiles(values: Sequence[float]) -> Percentiles:
    """Percentiles of at least one value; a tail that rests on less than one observation beyond it is null."""

    def tail(q: float, least: int) -> float | None:
        return quantile(values, q) if len(values) >= least else None

    return Percentiles(
        n=len(values), p50=median(values), p90=tail(0.90, 10), p95=tail(0.95, 20), p99=tail(0.99, 100)
    )


def outlier_threshold(n: int) -> float:
    """The modified z-score that flags one of ``n`` values.

    Iglewicz and Hoaglin give 3.5 for large samples. The MAD of a small one is so uncertain that 3.5 would
    flag a value in every fifth sample of four or five normal values, so the threshold follows from
    ``FALSE_ALARMS``: by a table up to 200 values, linear between its entries; beyond, where MAD is certain,
    by the normal distribution (Bonferroni's bound for the largest of n).
    """
    for (n1, at_n1), (n2, at_n2) in itertools.pairwise(_OUTLIER_THRESHOLDS):
        if n <= n2:
            return at_n1 + (at_n2 - at_n1) * max(n - n1, 0) / (n2 - n1)
    return max(_OUTLIER_THRESHOLDS[-1][1], NormalDist().inv_cdf(1 - FALSE_ALARMS / 2 / n))


def outliers(values: Sequence[float]) -> tuple[int, ...]:
    """Positions whose modified z-score, 0.6745 |x - median| / MAD, is beyond ``outlier_threshold``.

    Iglewicz and Hoaglin, "How to Detect and Handle Outliers" (1993). Fewer than four values flag nothing.
    With a MAD of 0 (more than half of the values equal) every other value is one.
    """
    if len(values) < 4:  # noqa: PLR2004 - three values always have one that is far from two close ones
        return ()
    threshold = outlier_threshold(len(values))
    centre = median(values)
    distances = [abs(value - centre) for value in values]
    mad = median(distances)
    return tuple(
        index for index, distance in enumerate(distances) if distance * _MAD_TO_SIGMA > threshold * mad
    )


class Correlation(NamedTuple):
    """A rank correlation, -1 to 1, and the two-sided p-value of there being none."""

    rho: float
    p: float


def rank_correlation(values: Sequence[float]) -> Correlation | None:
    """Spearman's correlation of values with their order, ties sharing their mean rank.

    Up to ``EXACT_RANKS`` values p is exact, over all their orders; beyond, rho √((n-2)/(1-rho²)) is taken as
    Student's t with n-2 degrees of freedom (Kendall and Stuart). None for fewer than four values, and for
    values that are all equal.
    """
    n = len(values)
    if n < 4 or min(values) == max(values):  # noqa: PLR2004 - with three values p says nothing
        return None
    order, ranks = [float(index) for index in range(n)], _ranks(values)
    rho = _pearson(order, ranks)
    if n <= EXACT_RANKS:
        return Correlation(rho, _exact_p(order, ranks))
    # Perfect order: t is infinite.
    if abs(rho) >= 1.0 - _EPSILON:
        return Correlation(math.copysign(1.0, rho), 0.0)
    t = abs(rho) * math.sqrt((n - 2) / (1 - rho * rho))
    return Correlation(rho, 2 * t_cdf(-t, n - 2))


def _exact_p(order: Sequence[float], ranks: Sequence[float]) -> float:
    """Share of all orders of the ranks that correlate at least as strongly, either way."""
    centre = mean(order)
    weights = [position - centre for position in order]

    def strength(arranged: Sequence[float]) -> float:
        return abs(math.fsum(w * r for w, r in zip(weights, arranged, strict=True)))

    # Equal strengths differ in their last bits by the order of summation.
    least = strength(ranks) - 1e-9
    strong = sum(strength(arranged) >= least for arranged in itertools.permutations(ranks))
    return strong / math.factorial(len(ranks))


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    # Runs of equal values share the mean of the ranks that they take up.
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for position in order[start : end + 1]:
            ranks[position] = (start + end) / 2
        start = end + 1
    return ranks


def _pearson(x: Sequence[float], y: Sequence[float]) -> float:
    mean_x, mean_y = mean(x), mean(y)
    covariance = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    spread_x = math.sqrt(math.fsum((a - mean_x) ** 2 for a in x))
    spread_y = math.sqrt(math.fsum((b - mean_y) ** 2 for b in y))
    return covariance / (spread_x * spread_y)


def ratio_unpaired(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """Ratio of the means of two independent samples of positive values, with an interval.

    On the logarithm: var(ln mean) = s²/(n mean²) (the delta method), degrees of freedom by Welch (1947) and
    Satterthwaite. The interval is null when a sample has fewer than two values.
    """
    ratio = mean(a) / mean(b)
    low, high = None, None
    if len(a) > 1 and len(b) > 1:
        low, high = _log_welch(ratio, a, b)
    return Ratio(
        ratio=ratio, ci_low=low, ci_high=high, confidence=CONFIDENCE, n_a=len(a), n_b=len(b), paired=False
    )


def _log_welch(ratio: float, a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    var_a, var_b = _variance_of_log_mean(a), _variance_of_log_mean(b)
    total = var_a + var_b
    if total == 0.0:
        return ratio, ratio
    # Welch and Satterthwaite's degrees of freedom, of the variances on the logarithm.
    df = total**2 / (var_a**2 / (len(a) - 1) + var_b**2 / (len(b) - 1))
    half = t_quantile((1 + CONFIDENCE) / 2, df) * math.sqrt(total)
    return ratio * math.exp(-half), ratio * math.exp(half)


def _variance_of_log_mean(values: Sequence[float]) -> float:
    spread = stddev(values)
    return 0.0 if spread is None else (spread / mean(values)) ** 2 / len(values)


def ratio_paired(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """Ratio of pairs of positive values measured next to each other: the t-interval of ln a - ln b.

    The ratio is the geometric mean of the pairs' ratios. Both samples are equally long.
    """
    # What both of a pair share, such as heat, cancels in the difference.
    logs = [math.log(x) - math.log(y) for x, y in zip(a, b, strict=True)]
    interval = t_interval(logs)
    return Ratio(
        ratio=math.exp(mean(logs)),
        ci_low=math.exp(interval.low) if interval else None,
        ci_high=math.exp(interval.high) if interval else None,
        confidence=CONFIDENCE,
        n_a=len(a),
        n_b=len(b),
        paired=True,
    )
