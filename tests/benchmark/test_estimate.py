"""The time left: None without measurements, right on a steady machine, and alive in adaptive runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.benchmark import estimate, stopping_rule
from obt_agent.benchmark.estimate import Measured
from obt_agent.benchmark.expansion import expand
from obt_agent.benchmark.plan import Plan, Sweep
from obt_agent.benchmark.result import IterationMetrics, Warmup
from tests.benchmark.results import iteration
from tests.benchmark.runs import plan

ADAPTIVE = plan(num_iterations=5, max_iterations=20, target_ci=0.1, min_duration_s=10.0)


def warmups(count: int = 2, cell: int = 0) -> list[Warmup]:
    """Each takes 1 s: 0.4 s to the first token of 40, then 12 tokens at 20 a second; the first loads, too."""
    return [
        Warmup(
            cell=cell,
            index=n,
            tokens_per_second=20.0,
            first_token_ms=400.0 if n else 5400.0,
            load_ms=0.0 if n else 5000.0,
            prompt_tokens=40,
            completion_tokens=12,
        )
        for n in range(count)
    ]


def left(
    of: Plan, metrics: list[IterationMetrics], *, elapsed: float = 0.0, ended: tuple[int, ...] = ()
) -> float:
    found = estimate.remaining_s(Measured(of, metrics, warmups()), expand(of), ended, elapsed)
    assert found is not None
    return found


def planned(of: Plan, metrics: list[IterationMetrics]) -> int:
    return estimate.planned(Measured(of, metrics, warmups()), expand(of)[0])


def test_nothing_is_known_before_the_first_warm_up() -> None:
    of = plan()
    assert estimate.remaining_s(Measured(of, [], []), expand(of), ()) is None
    assert estimate.planned(Measured(of, [], []), expand(of)[0]) == 3


def test_warm_ups_foretell_iterations_without_the_load_that_the_first_one_held() -> None:
    assert left(plan(), []) == pytest.approx(3 * (0.4 + 12 / 20))


def test_iterations_foretell_the_others_with_their_cooling() -> None:
    one = iteration(total_duration_ms=2000.0, cooldown_s=3.0)
    assert left(plan(), [one]) == pytest.approx(2 * 5.0)


def test_the_iteration_that_runs_counts_down_and_never_below_nothing() -> None:
    one = iteration(total_duration_ms=2000.0)
    assert left(plan(), [one], elapsed=1.5) == pytest.approx(2.5)
    assert left(plan(), [one], elapsed=60.0) == pytest.approx(2.0)


def test_cells_that_ended_cost_nothing_and_those_to_come_cost_their_warm_ups_too() -> None:
    of = plan(sweep=Sweep(num_ctx=(4096, 8192)))
    each = 0.4 + 12 / 20
    assert left(of, []) == pytest.approx((3 + 3 + 2) * each)
    assert left(of, [], ended=(0,)) == pytest.approx((3 + 2) * each)


def test_both_halves_of_a_cache_pair_take_time() -> None:
    of = plan(cache_mode="pair")
    assert left(of, []) == pytest.approx(6.0)
    assert planned(of, []) == 6


def test_an_adaptive_run_is_not_over_at_its_least_number() -> None:
    wide = [iteration(n, 100.0 + 10 * (n % 2), total_duration_ms=3000.0) for n in range(5)]
    width = stopping_rule.widths(wide).decode
    assert width is not None
    assert width > 0.1
    assert planned(ADAPTIVE, wide) == pytest.approx(5 * (width / 0.1) ** 2, abs=1)
    assert left(ADAPTIVE, wide) > 3.0


def test_an_adaptive_run_foresees_the_seconds_it_has_to_measure() -> None:
    quick = [iteration(n, 100.0 + n / 100, total_duration_ms=700.0) for n in range(5)]
    assert planned(ADAPTIVE, quick) == 15
    assert left(ADAPTIVE, quick) == pytest.approx(10 * 0.7)


def test_an_adaptive_run_that_met_its_target_has_nothing_left() -> None:
    done = [iteration(n, 100.0 + n / 100, total_duration_ms=3000.0) for n in range(5)]
    assert planned(ADAPTIVE, done) == 5
    assert left(ADAPTIVE, done) == 0.0


@given(st.lists(st.floats(1, 1000), max_size=25), st.floats(1, 60_000))
def test_what_is_planned_lies_between_the_measured_and_the_most(speeds: list[float], took: float) -> None:
    metrics = [iteration(n, speed, total_duration_ms=took) for n, speed in enumerate(speeds)]
    found = planned(ADAPTIVE, metrics)
    assert max(5, len(metrics)) <= found <= max(20, len(metrics))
    assert left(ADAPTIVE, metrics) >= 0.0
