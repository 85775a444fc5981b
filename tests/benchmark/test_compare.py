"""Comparisons: the same plan or a refusal, ratios with intervals, and what else differed."""

import pytest

from obt_agent.benchmark.compare import NotComparable, compare, compare_pairs, differences
from obt_agent.benchmark.result import BenchmarkResult
from obt_agent.cli import bench_comparison
from tests.benchmark.results import iteration, result, speeds
from tests.benchmark.runs import plan


def test_the_ratio_has_an_interval_that_holds_it() -> None:
    found = compare(speeds(110, 111, 109, 110), speeds(100, 101, 99, 100))
    ratio = found.cells[0].ratios["decode_tps_corrected"]
    assert ratio.ratio == pytest.approx(1.1)
    assert ratio.ci_low is not None
    assert ratio.ci_high is not None
    assert 1 < ratio.ci_low < 1.1 < ratio.ci_high
    assert (ratio.n_a, ratio.n_b, ratio.paired, found.paired) == (4, 4, False, False)


def test_other_plans_are_refused_and_the_difference_is_named() -> None:
    with pytest.raises(NotComparable, match=r"the plans differ \(.*\) in num_iterations, temperature"):
        compare(speeds(1), speeds(1, of=plan(num_iterations=5, temperature=0.1)))


def test_other_contexts_in_use_are_refused() -> None:
    clamped = result(iteration(num_ctx=2048))
    with pytest.raises(NotComparable, match="set num_ctx to what both support"):
        compare(result(iteration()), clamped)


def test_a_run_that_measured_nothing_compares_with_nothing() -> None:
    with pytest.raises(NotComparable, match="measured nothing"):
        compare(result(), speeds(1))


def test_memory_of_one_load_is_one_observation_however_many_iterations_show_it() -> None:
    def run(memory: float, cpu: float) -> BenchmarkResult:
        return result(
            *(iteration(n, memory_usage_mb=memory, cpu_process_percent=cpu + n) for n in range(3)),
        )

    ratios = compare(run(110.0, 200.0), run(100.0, 100.0)).cells[0].ratios
    memory, cpu = ratios["memory_usage_mb"], ratios["cpu_process_percent"]
    assert memory.ratio == pytest.approx(1.1)
    assert (memory.n_a, memory.ci_low) == (1, None)
    assert bench_comparison.reading("memory_usage_mb", memory) == "too few iterations for an interval"
    assert (cpu.n_a, bench_comparison.reading("cpu_process_percent", cpu)) == (3, "more")
    pairs = [run(110.0 + n, 100.0) for n in range(3)], [run(100.0 + n, 100.0) for n in range(3)]
    paired = compare_pairs(*pairs).cells[0].ratios["memory_usage_mb"]
    assert (paired.n_a, paired.paired) == (3, True)
    assert paired.ci_low is not None
    assert paired.ci_low > 1.09


def test_figures_of_ollamas_that_mean_other_things_are_left_out() -> None:
    found = compare(speeds(1, 2), speeds(1, 2, ollama_version="0.14.0"))
    assert set(found.left_out) == {"tokens_per_second", "prefill_tps", "ttft_excluding_slot_ms"}
    assert "mean different things" in found.left_out["prefill_tps"]
    assert "tokens_per_second" not in found.cells[0].ratios
    assert "decode_tps_corrected" in found.cells[0].ratios


def test_differences_are_listed_weightiest_first() -> None:
    a = speeds(1, 2)
    b = speeds(
        1, 2, model="n:latest", model_digest="d2", driver="9", gpu_offload_ratio=0.5, status="cancelled"
    )
    found = {one.field: one for one in compare(a, b).differences}
    assert found["model"].weight == found["model_digest"].weight == "intended"
    assert found["gpu_offload_ratio"].weight == found["status"].weight == "warning"
    assert (found["driver"].a, found["driver"].b, found["driver"].weight) == (None, "9", "note")
    weights = [one.weight for one in compare(a, b).differences]
    assert weights == sorted(weights, key=["warning", "intended", "note"].index)


def test_the_same_name_with_another_digest_is_a_warning() -> None:
    (only,) = compare(speeds(1, 2), speeds(1, 2, model_digest="d2")).differences
    assert (only.field, only.weight) == ("model_digest", "warning")


def test_equal_surroundings_have_no_differences() -> None:
    assert compare(speeds(1, 2), speeds(1, 2)).differences == ()


def test_excluded_iterations_take_no_part() -> None:
    spoilt = result(iteration(0, 100.0), iteration(1, 1.0, excluded="reloaded"), iteration(2, 100.0))
    assert compare(spoilt, speeds(100, 100)).cells[0].ratios["decode_tps_corrected"].ratio == 1.0


def test_pairs_cancel_what_both_sides_share() -> None:
    drift = (1.0, 2.0, 0.5, 1.5)
    a = [speeds(110 * d) for d in drift]
    b = [speeds(100 * d) for d in drift]
    ratio = compare_pairs(a, b).cells[0].ratios["decode_tps_corrected"]
    assert ratio.ratio == pytest.approx(1.1)
    assert ratio.ci_low == pytest.approx(1.1)
    assert ratio.paired
    apart = compare(speeds(*(110 * d for d in drift)), speeds(*(100 * d for d in drift)))
    low = apart.cells[0].ratios["decode_tps_corrected"].ci_low
    assert low is not None
    assert low < 1


def test_pairs_take_equally_many_runs() -> None:
    with pytest.raises(NotComparable, match="not 2 and 1"):
        compare_pairs([speeds(1), speeds(1)], [speeds(1)])
    with pytest.raises(NotComparable):
        compare_pairs([], [])


def test_other_models_that_were_loaded_beside_one_run_are_a_warning() -> None:
    alone, crowded = speeds(100.0, 101.0), speeds(90.0, 91.0, other_models_loaded=("big:70b",))
    (found,) = differences(alone, crowded)
    assert (found.field, found.weight, found.a, found.b) == (
        "other_models_loaded",
        "warning",
        "none",
        "big:70b",
    )
