"""The night from which on a line lies at another level."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from obt_server.campaigns.change_points import LEAST_NIGHTS, LogRatio, shifts, strongest

MARGIN = 0.01


def _nights(rng: random.Random, *levels: tuple[int, float], sigma: float = 0.01) -> list[float]:
    return [math.log(level) + rng.gauss(0, sigma) for count, level in levels for _ in range(count)]


def test_the_night_of_a_slowdown_is_found_and_marked_once() -> None:
    nights = _nights(random.Random(1), (8, 50.0), (12, 47.5))
    (found,) = shifts(nights, MARGIN)
    assert found.start == 8
    low, high = found.ratio.interval(0.05)
    assert low < 0.95 < high < 1


def test_two_changes_are_two_marks_each_with_the_ratio_of_its_two_sides() -> None:
    nights = _nights(random.Random(2), (15, 50.0), (15, 45.0), (15, 50.0), sigma=0.005)
    first, second = shifts(nights, MARGIN)
    assert (first.start, second.start) == (15, 30)
    assert math.exp(first.ratio.value) == pytest.approx(0.9, rel=0.01)
    assert math.exp(second.ratio.value) == pytest.approx(1 / 0.9, rel=0.01)


def test_one_night_that_went_wrong_is_no_change() -> None:
    nights = _nights(random.Random(3), (30, 50.0))
    nights[20] += math.log(0.7)
    assert shifts(nights, MARGIN) == []


def test_a_change_within_the_margin_is_none() -> None:
    nights = _nights(random.Random(4), (50, 50.0), (50, 49.8), sigma=0.001)
    assert shifts(nights, MARGIN) == []
    assert [one.start for one in shifts(nights, 0.0)] == [50]


def test_lines_without_change_are_seldom_marked() -> None:
    rng = random.Random(5)
    marked = sum(bool(shifts(_nights(rng, (30, 50.0)), 0.0, level=0.05)) for _ in range(200))
    # Bonferroni's bound: 5 % at most, which is 10 of 200, and 16 with two standard errors.
    assert marked <= 16


@given(st.lists(st.floats(-1, 1), min_size=2 * LEAST_NIGHTS, max_size=4 * LEAST_NIGHTS - 1))
def test_the_statistic_is_that_of_the_two_sample_t_test(nights: list[float]) -> None:
    # So short that there is one window.
    found = strongest(nights, 0.0)
    assert found is not None
    before, after = nights[: found.start], nights[found.start :]
    # SciPy warns of values that are all equal.
    if min(max(side) - min(side) for side in (before, after)) > 0.01:
        t, p = stats.ttest_ind(after, before)
        assert found.ratio.value / found.ratio.error == pytest.approx(float(t), rel=1e-6, abs=1e-9)
        assert found.ratio._replace(tests=1).p(0.0) == pytest.approx(float(p), rel=1e-6, abs=1e-9)


@given(
    st.floats(-0.2, 0.2),
    st.floats(0.001, 0.1),
    st.floats(1, 100),
    st.integers(1, 50),
    st.floats(1e-4, 0.2),
)
def test_an_interval_excludes_the_margin_exactly_where_the_p_value_is_below_its_level(
    value: float, error: float, df: float, tests: int, level: float
) -> None:
    ratio = LogRatio(value, error, df, tests)
    p = ratio.p(MARGIN)
    if abs(p / level - 1) > 1e-6:
        low, high = ratio.interval(level)
        assert (low > 1 + MARGIN or high < 1 / (1 + MARGIN)) == (p < level)
