"""Slower, faster, or no difference shown: simulated nights, and cases of one kind each."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.nights import NOISES, false_alarms, line, seen_after
from obt_server.campaigns.comparison import ALPHA, Night, NightLine, compare, compare_two, holm

LAST = 7


def _quiet(rng: random.Random, nights: int = 22, sigma: float = 0.003) -> list[Night]:
    return [Night(math.log(50.0) + rng.gauss(0, sigma), 1e-6) for _ in range(nights)]


def _slower(nights: Sequence[Night], since: int, by: float = 1.05) -> list[Night]:
    return [*nights[:since], *(Night(one.log - math.log(by), one.within) for one in nights[since:])]


def _lines(every: Sequence[Sequence[Night]]) -> list[NightLine]:
    return [line(nights, LAST) for nights in every]


def test_a_slower_machine_is_found_on_the_first_night_and_nothing_else_is_accused() -> None:
    rng = random.Random(1)
    every = [_quiet(rng) for _ in range(60)]
    every[17] = _slower(every[17], 21)
    found = compare(_lines(every))
    assert [index for index, one in enumerate(found) if one.direction != "no_difference_shown"] == [17]
    assert found[17].direction == "slower"
    assert found[17].low < 1 / 1.05 < found[17].high < 1 / 1.01
    assert found[17].p_adjusted < ALPHA


def test_a_small_slowdown_is_found_after_several_nights_with_the_night_when_it_began() -> None:
    rng = random.Random(2)
    every = [_quiet(rng, sigma=0.01) for _ in range(60)]
    every[3] = _slower(every[3], 16)
    found = compare(_lines(every))
    assert found[3].direction == "slower"
    assert found[3].began == 5
    assert sum(one.direction != "no_difference_shown" for one in found) == 1


def test_of_a_metric_where_less_is_better_more_is_slower() -> None:
    rng = random.Random(3)
    every = [_quiet(rng) for _ in range(6)]
    every[0] = [Night(-one.log, one.within) for one in _slower(every[0], 21)]
    found = compare([one._replace(higher_is_better=False) for one in _lines(every)])
    assert found[0].direction == "slower"
    assert found[0].ratio == pytest.approx(1.05, rel=0.01)


def test_where_nights_go_wrong_one_night_alone_is_not_believed_and_the_next_decides() -> None:
    rng = random.Random(4)
    every = [_quiet(rng) for _ in range(60)]
    # A backup on another machine, some nights ago: such nights exist here.
    every[40][15] = Night(every[40][15].log - 0.05, 1e-6)
    every[17] = _slower(every[17], 20)
    first = compare(_lines([nights[:21] for nights in every]))[17]
    assert (first.direction, first.alone) == ("no_difference_shown", True)
    second = compare(_lines(every))[17]
    assert (second.direction, second.began) == ("slower", 1)


def test_a_night_that_went_wrong_is_no_alarm_and_hides_nothing_on_the_next() -> None:
    rng = random.Random(5)
    every = [_quiet(rng) for _ in range(60)]
    every[40][15] = Night(every[40][15].log - 0.05, 1e-6)
    every[17][20] = Night(every[17][20].log - 0.05, 1e-6)
    assert all(one.direction == "no_difference_shown" for one in compare(_lines(every)))


def test_a_run_that_was_noisier_than_others_has_a_wider_interval() -> None:
    rng = random.Random(6)
    every = [_quiet(rng) for _ in range(10)]
    calm = compare(_lines(every))[0]
    noisy = [*every[0][:-1], every[0][-1]._replace(within=0.02**2)]
    found = compare(_lines([noisy, *every[1:]]))[0]
    assert found.high / found.low > 2 * calm.high / calm.low - 1


def test_a_campaign_is_compared_with_another_one_without_a_next_night() -> None:
    rng = random.Random(7)
    every = [_quiet(rng) for _ in range(60)]
    every[17] = _slower(every[17], 21)
    pairs = [NightLine(nights[-1], [nights[-8]], nights[-8:-1], (), (), ()) for nights in every]
    found = compare_two(pairs)
    assert [index for index, one in enumerate(found) if one.direction == "slower"] == [17]
    assert sum(one.direction == "faster" for one in found) == 0


def test_holm_corrects_as_in_his_own_steps() -> None:
    adjusted, levels = holm([0.01, 0.04, 0.03, 0.005], alpha=0.05)
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # 0.005 of four and 0.01 of three are rejected; it stops at 0.03 of two.
    assert levels == pytest.approx([0.05 / 3, 0.05 / 2, 0.05 / 2, 0.05 / 4])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(1e-4, 0.3))
def test_what_holm_rejects_is_what_lies_below_its_level(ps: list[float], alpha: float) -> None:
    adjusted, levels = holm(ps, alpha)
    for p, q, level in zip(ps, adjusted, levels, strict=True):
        assert q >= p
        if abs(q - alpha) > 1e-12:
            assert (q < alpha) == (p < level)


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.name)
def test_nights_without_change_raise_no_alarm(noise: object) -> None:
    # Forty campaigns of 60 cells each; "python -m benchmarks nights" has a thousand, and the documents its
    # figures. At one in a hundred, two in forty would be seen once in sixteen tries.
    chosen = next(one for one in NOISES if one is noise)
    assert false_alarms(chosen, 40) <= 1


def test_a_machine_that_is_five_percent_slower_is_seen_the_sooner_the_calmer_its_nights_are() -> None:
    calm, _, noisy, *_ = (seen_after(noise, 4, LAST, 5) for noise in NOISES[:3])
    assert calm[0] >= 0.5
    assert calm[1] == 1.0
    assert noisy[0] <= noisy[1] <= noisy[4]
    assert noisy[4] >= 0.5
