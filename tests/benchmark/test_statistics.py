"""Statistics agree with SciPy, and intervals cover the truth as often as they say."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from obt_agent.benchmark import metrics_registry, statistics
from obt_agent.benchmark.presets import preset

values = st.lists(st.floats(min_value=0.01, max_value=1e6, allow_nan=False), min_size=2, max_size=40)
TRIALS = 2000


@given(st.floats(-50, 50), st.floats(1, 300))
def test_the_t_distribution_is_scipys(t: float, df: float) -> None:
    # SciPy loses digits next to 0, as the closed form below shows that we do not.
    assert statistics.t_cdf(t, df) == pytest.approx(stats.t.cdf(t, df), abs=1e-8)


@given(st.floats(-1e6, 1e6))
def test_the_t_distribution_with_one_and_two_degrees_has_its_closed_form(t: float) -> None:
    assert statistics.t_cdf(t, 1) == pytest.approx(0.5 + math.atan(t) / math.pi, abs=1e-14)
    assert statistics.t_cdf(t, 2) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)), abs=1e-14)


@given(st.floats(0.0005, 0.9995), st.floats(1, 300))
def test_the_t_quantile_is_scipys(p: float, df: float) -> None:
    assert statistics.t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-9, abs=1e-9)


def test_the_t_quantile_of_three_values_is_the_tables_4_303() -> None:
    assert statistics.t_quantile(0.975, 2) == pytest.approx(4.302653, abs=1e-6)


@given(st.floats(1e-6, 1 - 1e-6), st.floats(0.5, 150), st.floats(0.5, 150))
def test_the_incomplete_beta_function_is_scipys(x: float, a: float, b: float) -> None:
    assert statistics.beta_fraction(a, b, x) == pytest.approx(stats.beta.cdf(x, a, b), abs=1e-11)


@given(values)
def test_a_summary_is_numpys(sample: list[float]) -> None:
    summary = statistics.summarise(sample)
    assert summary.n == len(sample)
    assert summary.mean == pytest.approx(np.mean(sample))
    assert summary.median == pytest.approx(np.median(sample))
    assert summary.stddev == pytest.approx(np.std(sample, ddof=1), abs=1e-6)
    assert (summary.min, summary.max) == (min(sample), max(sample))


@given(values)
def test_the_interval_of_the_mean_is_scipys(sample: list[float]) -> None:
    interval = statistics.t_interval(sample)
    assert interval is not None
    spread = stats.sem(sample)
    if spread > 1e-9 * max(sample):
        expected = stats.t.interval(0.95, len(sample) - 1, loc=np.mean(sample), scale=spread)
        assert interval == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(values, st.floats(0, 1))
def test_quantiles_are_numpys_linear_ones(sample: list[float], q: float) -> None:
    assert statistics.quantile(sample, q) == pytest.approx(np.quantile(sample, q), rel=1e-9)


@given(st.lists(st.integers(0, 30), min_size=4, max_size=40).filter(lambda v: len(set(v)) > 1))
def test_rank_correlation_is_scipys_spearman(sample: list[int]) -> None:
    found = statistics.rank_correlation([float(value) for value in sample])
    expected = stats.spearmanr(range(len(sample)), sample)
    assert found is not None
    assert found.rho == pytest.approx(expected.statistic, abs=1e-9)
    if len(sample) > statistics.EXACT_RANKS:
        assert found.p == pytest.approx(expected.pvalue, abs=1e-9)


def test_few_values_have_the_exact_p_of_all_their_orders() -> None:
    falling = statistics.rank_correlation([4.0, 3.0, 2.0, 1.0])
    assert falling is not None
    assert falling.rho == pytest.approx(-1.0)
    assert falling.p == pytest.approx(2 / math.factorial(4))


def test_constant_and_too_few_values_have_no_correlation() -> None:
    assert statistics.rank_correlation([1.0, 2.0, 3.0]) is None
    assert statistics.rank_correlation([5.0] * 9) is None


def test_one_value_has_no_spread_and_no_interval() -> None:
    summary = statistics.summarise([3.0])
    assert summary.stddev is None
    assert summary.ci_low is None
    assert statistics.relative_width([3.0]) is None


def test_percentiles_are_null_until_enough_observations_back_them() -> None:
    few, many = (
        statistics.percentiles([float(n) for n in range(9)]),
        statistics.percentiles([float(n) for n in range(100)]),
    )
    assert (few.p90, few.p95, few.p99) == (None, None, None)
    assert many.p99 == pytest.approx(98.01)
    assert statistics.percentiles([0.0] * 99).p99 is None


def test_an_outlier_is_flagged_by_the_modified_z_score_and_nothing_is_dropped() -> None:
    assert statistics.outliers([10.0, 10.1, 9.9, 10.05, 30.0]) == (4,)
    assert statistics.outliers([10.0, 10.1, 9.9, 10.05]) == ()
    assert statistics.outliers([1.0, 1.0, 1.0, 2.0]) == (3,)
    assert statistics.outliers([1.0, 9.0, 1.0]) == ()


@given(values)
def test_outliers_match_scipys_median_absolute_deviation(sample: list[float]) -> None:
    mad = stats.median_abs_deviation(sample)
    if len(sample) < 4 or mad == 0:
        return
    scores = 0.6744897501960817 * np.abs(np.array(sample) - np.median(sample)) / mad
    threshold = statistics.outlier_threshold(len(sample))
    certain = {int(i) for i in np.flatnonzero(scores > threshold * (1 + 1e-9))}
    possible = {int(i) for i in np.flatnonzero(scores > threshold * (1 - 1e-9))}
    assert certain <= set(statistics.outliers(sample)) <= possible


@pytest.mark.parametrize("n", [4, 5, 6, 7, 8, 10, 13, 20, 35, 100, 300])
def test_a_quiet_machine_has_an_outlier_in_one_run_of_a_hundred(n: int) -> None:
    source = np.random.default_rng(n)
    trials = 3000
    found = sum(bool(statistics.outliers(source.standard_normal(n).tolist())) for _ in range(trials))
    error = 4 * math.sqrt(statistics.FALSE_ALARMS / trials)
    assert found / trials < statistics.FALSE_ALARMS + error


@given(st.integers(4, 5000))
def test_the_threshold_of_outliers_is_never_under_the_textbooks(n: int) -> None:
    assert 3.5 < statistics.outlier_threshold(n) < 20


def coverage_error(rate: float) -> float:
    """Four standard errors of a rate found in ``TRIALS`` trials."""
    return 4 * math.sqrt(rate * (1 - rate) / TRIALS)


@pytest.mark.parametrize("n", [3, 5, 10, 30])
def test_the_t_interval_covers_the_true_mean_at_its_nominal_rate(n: int) -> None:
    source = random.Random(n)
    hits = 0
    for _ in range(TRIALS):
        interval = statistics.t_interval([source.gauss(100, 7) for _ in range(n)])
        assert interval is not None
        hits += interval.low <= 100 <= interval.high
    assert abs(hits / TRIALS - 0.95) < coverage_error(0.95)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 30])
@pytest.mark.parametrize("cv", [0.05, 0.12, 0.3])
def test_the_interval_of_positive_values_covers_the_true_mean_at_its_nominal_rate(n: int, cv: float) -> None:
    source, hits = random.Random(n), 0
    for _ in range(TRIALS):
        interval = statistics.positive_interval([abs(source.gauss(100, 100 * cv)) for _ in range(n)])
        assert interval is not None
        hits += interval.low <= 100 <= interval.high
    # The delta method is an approximation: a little more is allowed than the simulation's error.
    assert abs(hits / TRIALS - 0.95) < coverage_error(0.95) + 0.01


@pytest.mark.parametrize("n", [3, 5, 10])
def test_of_skewed_times_it_covers_more_than_the_t_interval(n: int) -> None:
    source, plain, positive = random.Random(n), 0, 0
    truth = math.exp(0.6**2 / 2)
    for _ in range(TRIALS):
        values = [source.lognormvariate(0, 0.6) for _ in range(n)]
        t, log = statistics.t_interval(values), statistics.positive_interval(values)
        assert t is not None
        assert log is not None
        plain += t.low <= truth <= t.high
        positive += log.low <= truth <= log.high
    assert positive > plain
    assert positive / TRIALS > 0.91


@given(values, st.sampled_from(["positive", "percent"]))
def test_no_interval_of_what_cannot_be_negative_reaches_below_nothing(
    sample: list[float], possible: metrics_registry.Values
) -> None:
    if possible == "percent":
        sample = [min(value, 100.0) for value in sample]
    interval = statistics.mean_interval(sample, possible)
    assert interval is not None
    assert 0 <= interval.low <= statistics.mean(sample) * (1 + 1e-9)
    assert statistics.mean(sample) <= interval.high * (1 + 1e-9)
    assert possible == "positive" or interval.high <= 100


def test_times_that_scatter_have_no_interval_below_zero() -> None:
    seen = statistics.summarise([20.0, 38.0, 55.0])
    plain = statistics.t_interval([20.0, 38.0, 55.0])
    assert plain is not None
    assert plain.low < 0
    assert seen.ci_low is not None
    assert seen.ci_low > 10


@pytest.mark.parametrize("name", ["standard", "thorough"])
@pytest.mark.parametrize("cv", [0.03, 0.05, 0.08, 0.12])
def test_an_interval_whose_width_decided_the_number_covers_what_the_documentation_says(
    name: str, cv: float
) -> None:
    """The worst case: only one of the two metrics scatters, so that it alone decides when to stop."""
    adaptive, source, hits = preset(name, "m"), random.Random(11), 0
    for _ in range(TRIALS // 2):
        speeds: list[float] = []
        while adaptive.num_iterations > len(speeds) or (
            (statistics.relative_width(speeds) or 0.0) > adaptive.target_ci
            and len(speeds) < adaptive.most_iterations
        ):
            speeds.append(source.gauss(100, 100 * cv))
        interval = statistics.positive_interval(speeds)
        assert interval is not None
        hits += interval.low <= 100 <= interval.high
    assert hits / (TRIALS // 2) > 0.92 - 4 * math.sqrt(0.92 * 0.08 / (TRIALS // 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_a", "n_b", "cv_a", "cv_b"), [(5, 5, 0.05, 0.05), (3, 12, 0.02, 0.1), (10, 10, 0.1, 0.1)]
)
def test_the_ratio_of_independent_means_is_covered_at_its_nominal_rate(
    n_a: int, n_b: int, cv_a: float, cv_b: float
) -> None:
    source = random.Random(n_a * 100 + n_b)
    hits = 0
    for _ in range(TRIALS):
        a = [source.gauss(120, 120 * cv_a) for _ in range(n_a)]
        b = [source.gauss(100, 100 * cv_b) for _ in range(n_b)]
        found = statistics.ratio_unpaired(a, b)
        assert found.ci_low is not None
        assert found.ci_high is not None
        hits += found.ci_low <= 1.2 <= found.ci_high
    # Welch's degrees of freedom are an approximation: a little more is allowed than the simulation's error.
    assert abs(hits / TRIALS - 0.95) < coverage_error(0.95) + 0.01


def test_the_ratio_of_pairs_is_covered_although_the_machine_drifts() -> None:
    source = random.Random(7)
    hits = 0
    for _ in range(TRIALS):
        a, b = [], []
        for _ in range(8):
            drift = source.uniform(0.5, 2)
            a.append(1.1 * drift * math.exp(source.gauss(0, 0.02)))
            b.append(drift * math.exp(source.gauss(0, 0.02)))
        found = statistics.ratio_paired(a, b)
        assert found.ci_low is not None
        assert found.ci_high is not None
        hits += found.ci_low <= 1.1 <= found.ci_high
    assert abs(hits / TRIALS - 0.95) < coverage_error(0.95)


def test_a_ratio_has_no_interval_when_one_side_was_measured_once() -> None:
    found = statistics.ratio_unpaired([2.0], [1.0, 1.1])
    assert found.ratio == pytest.approx(2 / 1.05)
    assert (found.ci_low, found.ci_high) == (None, None)


def test_values_without_spread_have_a_ratio_without_width() -> None:
    found = statistics.ratio_unpaired([2.0, 2.0], [1.0, 1.0])
    assert (found.ci_low, found.ci_high) == (2.0, 2.0)
