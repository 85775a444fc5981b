"""When schedules are due, across daylight-saving changes as well."""

from __future__ import annotations

import datetime as dt
import itertools
import zoneinfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from obt_agent.errors import InvalidParams
from obt_server.campaigns.due_times import MOST_MISSED, DueTimes, decide, delay_s

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
# Both hemispheres, half an hour (Lord Howe), a quarter of an hour, changes at midnight, none at all.
ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "America/Santiago",
    "Africa/Cairo",
    "Pacific/Apia",
    "UTC",
)
zones = st.sampled_from(ZONES)
days = st.dates(dt.date(2020, 1, 1), dt.date(2030, 12, 31))


def _at(zone: str, day: dt.date) -> float:
    return dt.datetime(day.year, day.month, day.day, tzinfo=zoneinfo.ZoneInfo(zone)).timestamp()


def _local(zone: str, moment: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(moment, zoneinfo.ZoneInfo(zone))


def _exists(zone: str, wall: dt.datetime) -> bool:
    """Whether a clock of that zone shows this time."""
    there = wall.replace(tzinfo=zoneinfo.ZoneInfo(zone))
    return there.astimezone(dt.UTC).astimezone(there.tzinfo).replace(tzinfo=None) == wall


@given(zones, days, st.integers(0, 23), st.integers(0, 59))
# The nights of both changes, at a time that is skipped and at one that comes twice.
@example("Europe/Berlin", dt.date(2026, 3, 28), 2, 30)
@example("Europe/Berlin", dt.date(2026, 10, 24), 2, 30)
@example("America/New_York", dt.date(2026, 3, 7), 2, 15)
@example("America/New_York", dt.date(2026, 10, 31), 1, 15)
@example("Australia/Lord_Howe", dt.date(2026, 10, 3), 2, 15)
@example("America/Santiago", dt.date(2026, 9, 5), 0, 30)
@settings(max_examples=150, deadline=None)
def test_a_nightly_schedule_is_due_once_each_night_at_its_time(
    zone: str, day: dt.date, hour: int, minute: int
) -> None:
    times = DueTimes(f"{minute} {hour} * * *", zone).next(_at(zone, day) - 1, 4)
    assert times == sorted(set(times))
    for moment in times:
        local = _local(zone, moment)
        wall = local.replace(hour=hour, minute=minute, second=0, tzinfo=None)
        if _exists(zone, wall):
            assert (local.hour, local.minute, local.second) == (hour, minute, 0)
        else:
            # The clock skips that time: right after the gap, which is two hours at most.
            assert dt.timedelta(0) < local.replace(tzinfo=None) - wall <= dt.timedelta(hours=2)
    dates = [_local(zone, moment).date() for moment in times]
    assert len(set(dates)) == len(dates)
    for before, after in itertools.pairwise(dates):
        # Apia had no 30 December in 2011; since 2020 no zone left out a day.
        assert after - before == dt.timedelta(days=1)


@given(zones, days)
@example("Europe/Berlin", dt.date(2026, 3, 28))
@example("Europe/Berlin", dt.date(2026, 10, 24))
@settings(max_examples=60, deadline=None)
def test_an_hourly_schedule_is_due_each_elapsed_hour(zone: str, day: dt.date) -> None:
    times = DueTimes("0 * * * *", zone).next(_at(zone, day) - 1, 60)
    gaps = {after - before for before, after in itertools.pairwise(times)}
    # Where the clock moves by half an hour (Lord Howe) one gap is shorter or longer.
    assert gaps <= ({3600.0} if zone != "Australia/Lord_Howe" else {1800.0, 3600.0, 5400.0})


@given(zones, days, st.sampled_from(["0 2 * * *", "*/7 * * * *", "30 1-3 * * 6,7", "15 0 1 * *"]))
@settings(max_examples=60, deadline=None)
def test_what_is_due_does_not_depend_on_when_somebody_looks(zone: str, day: dt.date, cron: str) -> None:
    times, start = DueTimes(cron, zone), _at(zone, day)
    once = times.next(start, 12)
    one_by_one, moment = [], start
    for _ in range(12):
        (moment,) = times.next(moment, 1)
        one_by_one.append(moment)
    assert one_by_one == once
    assert times.between(start, once[-1]) == once


def test_the_night_of_the_change_forward_runs_right_after_the_gap_and_the_other_one_runs_once() -> None:
    forward = DueTimes("30 2 * * *", "Europe/Berlin").next(_at("Europe/Berlin", dt.date(2026, 3, 29)), 2)
    assert [_local("Europe/Berlin", one).isoformat() for one in forward] == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]
    back = DueTimes("30 2 * * *", "Europe/Berlin").next(_at("Europe/Berlin", dt.date(2026, 10, 25)), 2)
    assert [_local("Europe/Berlin", one).date() for one in back] == [
        dt.date(2026, 10, 25),
        dt.date(2026, 10, 26),
    ]


def test_what_was_due_in_the_first_of_two_equal_hours_is_not_due_again_in_the_second() -> None:
    second = dt.datetime(2026, 10, 25, 2, 40, fold=1, tzinfo=BERLIN).timestamp()
    (due,) = DueTimes("45 2 * * *", "Europe/Berlin").next(second, 1)
    assert _local("Europe/Berlin", due).isoformat() == "2026-10-26T02:45:00+01:00"


def test_after_a_year_the_last_times_are_told_and_the_others_passed_over() -> None:
    times = DueTimes("* * * * *", "UTC")
    now = 1_800_000_000.0
    found = times.between(now - 365 * 86400, now)
    assert found == [now - 60 * back for back in reversed(range(MOST_MISSED))]


def test_the_newest_time_begins_late_and_those_before_it_are_skipped() -> None:
    decision = decide([0.0, 3000.0, 3600.0], 4000.0, 1000.0, on_time_s=60.0)
    assert (decision.start, decision.late) == (3600.0, True)
    (first, too_old), (second, replaced) = decision.skipped
    assert (first, second) == (0.0, 3000.0)
    assert "longer than late_s (1000 s)" in too_old
    assert "a later time was due" in replaced


def test_what_is_older_than_late_s_does_not_begin() -> None:
    decision = decide([100.0], 1200.0, 1000.0, on_time_s=60.0)
    assert decision.start is None
    assert [time for time, _ in decision.skipped] == [100.0]


def test_a_time_that_has_just_come_is_not_late_even_where_none_may_be() -> None:
    decision = decide([1000.0], 1001.0, 0.0, on_time_s=60.0)
    assert (decision.start, decision.late, decision.skipped) == (1000.0, False, [])


@pytest.mark.parametrize("cron", ["", "hello", "61 2 * * *", "* * * *", "0 0 2 * * *", "0 2 31 2 *x"])
def test_an_expression_that_is_none_is_refused_in_words(cron: str) -> None:
    with pytest.raises(InvalidParams, match="cron"):
        DueTimes(cron, "UTC")


@pytest.mark.parametrize("zone", ["", "Berlin", "../etc/passwd", "x" * 300, "Europe"])
def test_a_zone_that_is_none_is_refused_in_words(zone: str) -> None:
    with pytest.raises(InvalidParams, match="time_zone"):
        DueTimes("0 2 * * *", zone)


def test_zones_are_there_on_a_system_that_has_none() -> None:
    zoneinfo.reset_tzpath(to=[])
    try:
        assert zoneinfo.ZoneInfo.no_cache("Europe/Berlin").key == "Europe/Berlin"
    finally:
        zoneinfo.reset_tzpath()


@given(st.text(max_size=20), st.floats(0, 1e5))
def test_a_machine_begins_at_the_same_moment_of_the_jitter_each_night(agent: str, jitter_s: float) -> None:
    first = delay_s("nightly", agent, jitter_s)
    assert 0 <= first <= jitter_s
    assert first == delay_s("nightly", agent, jitter_s)


def test_machines_spread_evenly_over_the_jitter() -> None:
    delays = sorted(delay_s("nightly", f"agent {index}", 600.0) for index in range(200))
    assert all(abs(delay - 3.0 * index) < 60 for index, delay in enumerate(delays))
