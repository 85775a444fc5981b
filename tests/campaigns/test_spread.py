"""How far nights lie apart: estimates for each line, with the help of all others."""

from __future__ import annotations

import math
import random
import statistics as stdlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, special

from obt_server.campaigns.spread import (
    LEAST_VARIANCE,
    Spread,
    digamma,
    inverse_trigamma,
    moderated,
    trigamma,
)

positive = st.floats(min_value=0.05, max_value=1e5)


@given(positive)
def test_digamma_and_trigamma_are_those_of_scipy(x: float) -> None:
    assert digamma(x) == pytest.approx(float(special.digamma(x)), rel=1e-9, abs=1e-9)
    assert trigamma(x) == pytest.approx(float(special.polygamma(1, x)), rel=1e-9)


@given(st.floats(min_value=1e-6, max_value=1e4))
def test_the_inverse_of_trigamma_is_its_inverse(y: float) -> None:
    assert float(special.polygamma(1, inverse_trigamma(y))) == pytest.approx(y, rel=1e-6)


def _sample(rng: random.Random, sigma: float, n: int) -> Spread:
    return Spread(stdlib.variance(rng.gauss(0, sigma) for _ in range(n)), n - 1)


def test_lines_of_one_spread_share_what_all_of_them_say() -> None:
    rng = random.Random(3)
    spreads = [_sample(rng, 0.01, 7) for _ in range(60)]
    found = moderated(spreads)
    # Seven nights alone scatter by a factor of two either way.
    assert max(spreads).variance / min(spreads).variance > 10
    assert max(found).variance / min(found).variance < 2
    assert all(one.df > 30 for one in found)


def test_lines_of_many_spreads_keep_their_own() -> None:
    rng = random.Random(4)
    sigmas = [0.001 * 1.15**index for index in range(60)]
    found = moderated([_sample(rng, sigma, 30) for sigma in sigmas])
    for sigma, one in zip(sigmas, found, strict=True):
        assert math.sqrt(one.variance) == pytest.approx(sigma, rel=0.8)
        assert one.df < 40


def test_the_common_spread_is_the_one_that_smyth_estimates() -> None:
    # His section 6.2, solved here by a root finder instead of Newton's steps.
    rng = random.Random(5)
    spreads = [_sample(rng, 0.01 * math.exp(rng.gauss(0, 0.5)), 7) for _ in range(40)]
    logs = [math.log(one.variance) - special.digamma(3) + math.log(3) for one in spreads]
    beyond = stdlib.variance(logs) - special.polygamma(1, 3)
    half = optimize.brentq(lambda x: float(special.polygamma(1, x) - beyond), 0.01, 1e4)
    common = math.exp(stdlib.mean(logs) + special.digamma(half) - math.log(half))
    for before, after in zip(spreads, moderated(spreads), strict=True):
        expected = (2 * half * common + 6 * before.variance) / (2 * half + 6)
        assert after.variance == pytest.approx(expected, rel=1e-6)
        assert after.df == pytest.approx(2 * half + 6, rel=1e-6)


def test_two_lines_say_nothing_of_each_other() -> None:
    spreads = [Spread(1e-4, 6), Spread(4e-4, 6)]
    assert moderated(spreads) == spreads


def test_figures_that_repeat_to_the_last_bit_have_a_spread_all_the_same() -> None:
    found = moderated([Spread(0.0, 6)] * 5)
    assert all(LEAST_VARIANCE <= one.variance < 1.5 * LEAST_VARIANCE for one in found)


@given(st.lists(st.builds(Spread, st.floats(0, 1), st.integers(0, 50)), max_size=80))
def test_whatever_the_lines_each_has_a_spread_that_can_be_used(spreads: list[Spread]) -> None:
    found = moderated(spreads)
    assert len(found) == len(spreads)
    assert all(math.isfinite(one.variance) and one.variance > 0 for one in found)
