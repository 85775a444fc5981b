"""When to dial again."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.backoff import Backoff, RefusalAction, RefusedCredential


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def backoff(clock: Clock, random: float = 0.999999) -> Backoff:
    return Backoff(clock=clock, random=lambda: random)


def test_delays_double_from_one_second_to_sixty() -> None:
    delays = backoff(Clock())
    assert [round(delays.delay()) for _ in range(9)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_jitter_is_full() -> None:
    assert backoff(Clock(), random=0.0).delay() == 0.0


def test_a_link_admitted_for_thirty_seconds_starts_the_delays_anew() -> None:
    clock = Clock()
    delays = backoff(clock)
    for _ in range(7):
        delays.delay()
    delays.admitted()
    clock.now += 30.0
    delays.ended()
    assert delays.ceiling_s == 1.0


@pytest.mark.parametrize(("admitted_s", "ceiling_s"), [(4.9, 60.0), (5.0, 32.0), (10.0, 16.0), (29.9, 2.0)])
def test_each_five_seconds_of_an_admitted_link_take_one_doubling_back(
    admitted_s: float, ceiling_s: float
) -> None:
    clock = Clock()
    delays = backoff(clock)
    for _ in range(7):
        delays.delay()
    delays.admitted()
    clock.now += admitted_s
    delays.ended()
    assert delays.ceiling_s == ceiling_s


def online(cut_every_s: float, hours: float = 1.0, dial_s: float = 0.3) -> tuple[float, int]:
    """The share of the time that a link is admitted which is always cut after so long, and its dials."""
    clock, random = Clock(), Random(7)
    delays = Backoff(clock=clock, random=random.random)
    for _ in range(7):  # it begins in an outage
        delays.delay()
    admitted_s, dials, end = 0.0, 0, clock.now + hours * 3600
    while clock.now < end:
        clock.now += delays.delay() + dial_s
        dials += 1
        delays.admitted()
        clock.now += cut_every_s
        admitted_s += cut_every_s
        delays.ended()
    return admitted_s / (clock.now - end + hours * 3600), dials


@pytest.mark.parametrize(("cut_every_s", "least"), [(25.0, 0.90), (10.0, 0.75)])
def test_a_link_that_is_cut_again_and_again_is_online_most_of_the_time(
    cut_every_s: float, least: float
) -> None:
    assert online(cut_every_s)[0] >= least


def test_a_server_that_admits_and_closes_soon_is_dialled_twice_a_minute_at_most() -> None:
    assert online(4.0)[1] <= 120


def test_time_before_a_failed_dial_counts_for_nothing() -> None:
    clock = Clock()
    delays = backoff(clock)
    delays.delay()
    clock.now += 3600
    delays.ended()
    assert delays.ceiling_s == 2.0


def test_a_floor_is_kept_and_gets_up_to_half_of_it_on_top() -> None:
    assert backoff(Clock(), random=0.0).delay(100.0) == 100.0
    assert 149 < backoff(Clock(), random=0.999999).delay(100.0) <= 150


def test_a_floor_counts_for_an_hour_at_most() -> None:
    assert backoff(Clock(), random=0.0).delay(86400.0) == 3600.0


def test_a_floor_below_the_ordinary_delay_does_not_shorten_it() -> None:
    delays = backoff(Clock())
    for _ in range(8):
        delays.delay()
    assert round(delays.delay(2.0)) == 60


@given(st.lists(st.sampled_from(["fail", "flap", "long"]), max_size=60), st.floats(0, 0.999999))
def test_a_delay_is_never_above_its_ceiling_nor_the_ceiling_above_a_minute(
    history: list[str], random: float
) -> None:
    clock = Clock()
    delays = Backoff(clock=clock, random=lambda: random)
    for event in history:
        if event != "fail":
            delays.admitted()
            clock.now += 31.0 if event == "long" else 1.0
        delays.ended()
        ceiling = delays.ceiling_s
        assert ceiling == 1.0 or event != "long"
        assert 0.0 <= delays.delay() <= ceiling <= 60.0


def refused(clock: Clock, *, admitted_before: bool) -> RefusedCredential:
    return RefusedCredential(admitted_before=admitted_before, clock=clock, random=lambda: 0.5)


def test_a_credential_that_was_admitted_before_is_never_given_up() -> None:
    clock = Clock()
    counter = refused(clock, admitted_before=True)
    refusal = counter.refused()
    for _ in range(999):
        refusal = counter.refused()
        assert not refusal.give_up
        assert refusal.delay_s <= 900.0
        clock.now += refusal.delay_s
    assert refusal.count == 1000
    assert refusal.delay_s > 600.0


def test_a_credential_never_admitted_is_given_up_after_ten_refusals_and_ten_minutes() -> None:
    clock = Clock()
    counter = refused(clock, admitted_before=False)
    verdicts: list[RefusalAction] = []
    while not verdicts or not verdicts[-1].give_up:
        verdicts.append(counter.refused())
        clock.now += verdicts[-1].delay_s
    assert verdicts[-1].count >= 10
    assert clock.now - verdicts[-1].delay_s - 1000.0 >= 600.0
    assert verdicts[-1].count <= 15


def test_ten_quick_refusals_are_not_enough() -> None:
    counter = refused(Clock(), admitted_before=False)
    assert not any(counter.refused().give_up for _ in range(50))


def test_ten_minutes_of_few_refusals_are_not_enough() -> None:
    clock = Clock()
    counter = refused(clock, admitted_before=False)
    for _ in range(9):
        assert not counter.refused().give_up
        clock.now += 600.0
    assert counter.refused().give_up


def test_a_credential_said_to_be_revoked_is_given_up_at_once() -> None:
    assert refused(Clock(), admitted_before=True).refused(revoked=True).give_up


@given(st.booleans(), st.integers(1, 100), st.floats(0, 0.999999))
def test_refusals_are_never_retried_more_often_than_every_forty_seconds_nor_less_than_every_fifteen_minutes(
    admitted_before: bool, refusals: int, random: float
) -> None:
    counter = RefusedCredential(admitted_before=admitted_before, clock=Clock(), random=lambda: random)
    for _ in range(refusals):
        assert 40.0 <= counter.refused().delay_s <= 900.0
