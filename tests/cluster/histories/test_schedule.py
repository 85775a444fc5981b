"""Schedules of faults: the same from the same seed, and always with somebody to turn to."""

from __future__ import annotations

from itertools import combinations

import pytest

from tests.cluster.histories.schedule import (
    LONG,
    OF_A_REPLICA,
    OF_THE_BUS,
    OF_THE_DATABASE,
    SHORT,
    Pace,
    schedule,
)

REPLICAS = ["r0", "r1", "r2"]
SEEDS = range(1, 500)


def test_a_seed_makes_the_same_faults_again() -> None:
    assert schedule(7, REPLICAS, SHORT) == schedule(7, REPLICAS, SHORT)
    assert len({schedule(seed, REPLICAS, SHORT) for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("pace", [SHORT, LONG])
def test_each_kind_comes_and_one_replica_is_always_spared(pace: Pace) -> None:
    kinds = set()
    for seed in SEEDS:
        faults = schedule(seed, REPLICAS, pace)
        assert 1 <= len(faults) <= pace.faults[1]
        assert list(faults) == sorted(faults, key=lambda one: one.at_s)
        assert {one.target for one in faults if one.kind in OF_A_REPLICA} != set(REPLICAS)
        kinds |= {one.kind for one in faults}
    assert kinds == {*OF_A_REPLICA, *OF_THE_BUS, *OF_THE_DATABASE, "abandon"}


def test_no_replica_is_away_while_the_database_is() -> None:
    for seed in SEEDS:
        for one, other in combinations(schedule(seed, REPLICAS, LONG), 2):
            if one.at_s < other.at_s + other.for_s and other.at_s < one.at_s + one.for_s:
                kinds = {one.kind, other.kind}
                assert not (kinds & set(OF_THE_DATABASE) and kinds & set(OF_A_REPLICA))
                assert one.target != other.target


def test_one_replica_without_a_bus_has_none_of_the_bus_and_may_be_taken_itself() -> None:
    kinds = {one.kind for seed in SEEDS for one in schedule(seed, ["r0"], SHORT, bus=False)}
    assert kinds == {"kill", "restart", "stop", "cut", "cut_database", *OF_THE_DATABASE, "abandon"}
