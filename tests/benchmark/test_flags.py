"""Flags and warnings: what is known about an iteration, and what never happens silently."""

from typing import Any

import pytest

from obt_agent.benchmark import flags, stopping_rule
from obt_agent.benchmark.flags import ExpectedConditions, compare_within_cells
from obt_agent.benchmark.plan import Sweep
from obt_agent.benchmark.result import RequestTimings, Throttle
from obt_agent.ollama.payloads import RunningModel
from tests.benchmark.results import iteration, result, speeds
from tests.benchmark.runs import plan

EXPECTED = ExpectedConditions(num_ctx=4096, prompt_tokens=40, digest="d", warm_load_ms=2.0, slot_ms=5.0)
LISTED = RunningModel(name="m", digest="d", size_bytes=1, size_vram_bytes=0, context_length=4096)


@pytest.mark.parametrize(
    ("fields", "flag"),
    [
        ({"short_output": True}, "short_output"),
        ({"chunks": 0}, "no_text"),
        ({"prompt_tokens": 60}, "prompt_length_off"),
        ({"prompt_tokens": 4095}, "prompt_truncated"),
        ({"queue_ms_max": 400.0}, "queued"),
        ({"throttle": Throttle(thermal_ms=1.0)}, "throttled_thermal"),
        ({"throttle": Throttle(power_ms=1.0)}, "throttled_power"),
        ({"samples_missed": 1}, "samples_missed"),
        ({"load_ms": 900.0}, "reloaded"),
        (
            {"cpu_process_percent": 120.0, "cpu_others_percent": 70.0, "cpu_usage_percent": 95.0},
            "cpu_contended",
        ),
    ],
)
def test_each_fault_has_its_flag(fields: dict[str, Any], flag: str) -> None:
    assert flag in flags.of_iteration(iteration(**fields), EXPECTED, LISTED)
    assert flag in flags.ADVICE


def _queued(waited_ms: float, saving_ms: float | None, *each_ms: float) -> bool:
    requests = tuple(RequestTimings(unaccounted_ms=one) for one in each_ms)
    one = iteration(queue_ms_max=waited_ms, requests=requests)
    return "queued" in flags.of_iteration(one, EXPECTED._replace(slot_ms=saving_ms), LISTED)


def test_saving_the_prompt_before_is_no_queue() -> None:
    assert not _queued(400.0, 380.0)
    assert _queued(1200.0, 380.0)
    assert not _queued(400.0, None), "nothing tells whether others were served before"
    # Of two at once on one slot the first waits for its saving alone; on two slots they are saved in turn.
    assert _queued(1500.0, None, 300.0, 1500.0)
    assert not _queued(600.0, None, 300.0, 600.0)
    assert not _queued(90.0, 0.0)


def test_memory_that_grows_with_each_prompt_is_flagged_and_rounding_is_not() -> None:
    for model, grown, flagged in ((100.0, 60.0, True), (100.0, 7.0, False), (4096.0, 60.0, False)):
        one = iteration(memory_usage_mb=model, prompt_cache_growth_mb=grown)
        assert ("prompts_kept" in flags.of_iteration(one, EXPECTED, LISTED)) == flagged
    assert "prompts_kept" not in flags.of_iteration(iteration(prompt_cache_growth_mb=60.0), EXPECTED, LISTED)


def _by_two_clocks(ollama: float, **fields: Any) -> set[str]:
    usual: dict[str, Any] = {"completion_tokens": 128, "decode_tps_by_ollama": ollama}
    one = iteration(**{**usual, "decode_tps_uncertainty": abs(100.0 - ollama), **fields})
    return flags.of_iteration(one, EXPECTED, LISTED) & {"clocks_differ"}


def test_two_clocks_that_differ_by_over_two_percent_are_flagged() -> None:
    assert _by_two_clocks(108.1)
    assert _by_two_clocks(92.0)
    assert not _by_two_clocks(101.9)
    assert not _by_two_clocks(108.1, completion_tokens=8), "6 ms: a single late turn"
    assert not _by_two_clocks(108.1, decode_tps_uncertainty=12.0), "the stream leaves more open anyway"
    assert not _by_two_clocks(108.1, decode_tps_corrected=None)
    each_of_32 = tuple(RequestTimings() for _ in range(32))
    assert not _by_two_clocks(108.1, requests=each_of_32), "4 tokens each"


@pytest.mark.parametrize(
    ("process", "others", "busy"),
    [
        (190.0, 5.0, 97.0),  # the model alone keeps all cores busy
        (100.0, 60.0, 80.0),  # a core is free
        (8.0, 180.0, 95.0),  # the model runs on a GPU
        (None, 180.0, 95.0),
        (120.0, None, 95.0),
        (120.0, 70.0, None),
    ],
)
def test_threads_that_nobody_holds_up_are_no_contention(
    process: float | None, others: float | None, busy: float | None
) -> None:
    one = iteration(cpu_process_percent=process, cpu_others_percent=others, cpu_usage_percent=busy)
    assert "cpu_contended" not in flags.of_iteration(one, EXPECTED, LISTED)


def test_a_given_text_that_fills_the_context_was_cut_as_well_as_a_synthetic_one() -> None:
    text = EXPECTED._replace(prompt_tokens=None)
    assert flags.of_iteration(iteration(prompt_tokens=4096), text, LISTED) == {"prompt_truncated"}
    assert flags.of_iteration(iteration(prompt_tokens=3000), text, LISTED) == set()
    one_of_two = iteration(
        prompt_tokens=4196, requests=(RequestTimings(prompt_tokens=100), RequestTimings(prompt_tokens=4096))
    )
    assert flags.of_iteration(one_of_two, text, LISTED) == {"prompt_truncated"}


def test_a_good_iteration_has_no_flags() -> None:
    assert flags.of_iteration(iteration(), EXPECTED, LISTED) == set()
    assert flags.of_iteration(iteration(), EXPECTED, None) == set()


def test_ollamas_list_shows_a_clamp_and_another_model() -> None:
    other = RunningModel(name="m", digest="e", size_bytes=1, size_vram_bytes=0, context_length=2048)
    assert flags.of_iteration(iteration(), EXPECTED, other) == {"num_ctx_clamped", "model_changed"}


def test_only_a_load_far_above_the_usual_is_a_reload() -> None:
    assert not flags.reloaded(None, None)
    assert not flags.reloaded(90.0, 2.0)
    assert flags.reloaded(110.0, None)
    assert not flags.reloaded(400.0, 90.0)


def test_outliers_slow_clocks_and_cached_prompts_show_beside_the_others() -> None:
    usual = [iteration(n, 100.0 + n / 10, gpu_clock_mhz_mean=2000.0) for n in range(6)]
    odd = [
        iteration(6, 60.0, gpu_clock_mhz_mean=1500.0),
        iteration(7, 100.2, first_token_ms=5.0, prefill_tps=30_000.0),
    ]
    found = {one.index: one.flags for one in compare_within_cells([*usual, *odd])}
    assert found[6] == ("clock_drop", "outlier_decode")
    assert found[7] == ("cached_prompt_suspected", "outlier_ttft")
    assert all(found[n] == () for n in range(6))


def test_two_iterations_are_enough_to_suspect_a_cached_prompt() -> None:
    found = compare_within_cells([iteration(0), iteration(1, prefill_tps=9000.0)])
    assert [one.flags for one in found] == [(), ("cached_prompt_suspected",)]


def test_iterations_are_compared_within_their_cell_and_cache_state_only() -> None:
    cells = [iteration(n, 100.0, cell=0) for n in range(4)] + [
        iteration(n + 4, 10.0, cell=1) for n in range(4)
    ]
    assert all(one.flags == () for one in compare_within_cells(cells))


def test_a_warning_stands_once_for_all_its_iterations_and_says_what_to_do() -> None:
    flagged = [flags.with_flags(iteration(n), {"queued", "short_output"}) for n in range(3)]
    found = flags.warnings_for(flagged)
    assert [(one.code, one.iterations) for one in found] == [
        ("short_output", (0, 1, 2)),
        ("queued", (0, 1, 2)),
    ]
    assert all(one.action and one.message for one in found)


def test_nothing_but_a_reload_is_left_out_and_its_cause_is_recorded() -> None:
    every = flags.with_flags(iteration(), set(flags.ADVICE) - {"reloaded"})
    assert every.excluded is None
    assert flags.with_flags(every, {"reloaded"}).excluded == "reloaded"
    assert set(every.flags) == set(flags.ADVICE) - {"reloaded"}


def test_speed_that_falls_from_iteration_to_iteration_is_a_trend() -> None:
    falling = speeds(*(100 - n for n in range(8)))
    assert falling.cells[0].trend == pytest.approx(-1)
    assert "fell" in next(one.message for one in falling.warnings if one.code == "trend")
    rising = speeds(*(100 + n for n in range(8)))
    assert "rose" in next(one.message for one in rising.warnings if one.code == "trend")
    steady = speeds(100, 99, 101, 100, 99, 101, 100, 99)
    assert "trend" not in [one.code for one in steady.warnings]


def test_a_sweep_of_many_cells_shows_no_trend_by_chance() -> None:
    falling = [100.0, 99.0, 98.0, 97.0, 96.0]
    level = [100.0, 98.0, 101.0, 97.0, 100.5]
    cells = [falling, *[level] * 19]
    of = plan(num_iterations=5, sweep=Sweep(concurrency=tuple(range(1, 21))))
    swept = result(
        *(
            iteration(5 * cell + n, speed, cell=cell)
            for cell, speeds_of in enumerate(cells)
            for n, speed in enumerate(speeds_of)
        ),
        of=of,
    )
    assert swept.cells[0].trend_p == pytest.approx(2 / 120)
    assert "trend" not in [one.code for one in swept.warnings]


def test_a_run_that_was_too_short_is_not_called_too_wide() -> None:
    of = plan(num_iterations=3, max_iterations=5, target_ci=0.1, min_duration_s=60.0)
    stop = stopping_rule.recorded(of, [iteration(n, 100.0 + n / 100) for n in range(5)], "max_iterations")
    short = speeds(*(100.0 + n / 100 for n in range(5)), of=of, records={"stops": {0: stop}})
    warning = next(one for one in short.warnings if one.code == "target_not_met")
    assert warning.message == "5 iterations took 10.0 s, less than the plan's min_duration_s"
    stop = stopping_rule.recorded(of, [iteration(n, 100.0 + 40 * n) for n in range(5)], "max_iterations")
    wide = speeds(*(100.0 + 40 * n for n in range(5)), of=of, records={"stops": {0: stop}})
    warning = next(one for one in wide.warnings if one.code == "target_not_met")
    assert "widest interval is still" in warning.message


def test_a_stream_whose_lines_hold_several_tokens_is_warned_of_where_an_interval_would_not_show_it() -> None:
    coarse = result(*(iteration(n, 100.0, decode_tps_uncertainty=1.6) for n in range(3)))
    warning = next(one for one in coarse.warnings if one.code == "coarse_stream")
    assert "±1.6%" in warning.message
    fine = result(*(iteration(n, 100.0, decode_tps_uncertainty=0.8) for n in range(3)))
    assert fine.warnings == ()
    late = [iteration(n, 100.0, decode_tps_uncertainty=1.6, decode_tps_by_ollama=98.4) for n in range(3)]
    assert result(*late).warnings == (), "the clocks differ, the lines are tokens"


def test_the_stopping_rule_needs_width_and_time() -> None:
    adaptive = plan(num_iterations=3, max_iterations=10, target_ci=0.1, min_duration_s=5.0)
    narrow = [iteration(n, 100.0 + n / 100) for n in range(3)]
    assert stopping_rule.decide(adaptive, narrow[:2]) is None
    assert stopping_rule.decide(adaptive, narrow) == "target_met"
    quick = [iteration(n, 100.0 + n / 100, total_duration_ms=10.0) for n in range(3)]
    assert stopping_rule.decide(adaptive, quick) is None
    wide = [iteration(n, 100.0 + 50 * n) for n in range(10)]
    assert stopping_rule.decide(adaptive, wide[:9]) is None
    assert stopping_rule.decide(adaptive, wide) == "max_iterations"
    assert stopping_rule.decide(plan(), narrow) == "fixed"


def test_a_cell_without_speeds_cannot_meet_its_target() -> None:
    adaptive = plan(num_iterations=2, max_iterations=3, min_duration_s=0.0)
    blank = [iteration(n, None, first_token_ms=None) for n in range(3)]
    assert stopping_rule.decide(adaptive, blank[:2]) is None
    assert stopping_rule.decide(adaptive, blank) == "max_iterations"


def test_the_result_says_why_a_summary_is_missing() -> None:
    assert result().unavailable["summary"] == "no iteration was measured"
    assert result(iteration(), records={"hardware": None}).unavailable["hardware"]
