"""Arithmetic of one request on a virtual clock, and how far off the usual wrong ways are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.benchmark.counters import Counters
from obt_agent.benchmark.metrics import Arrival, Chunk, Trace, arrival, chunk_gaps, rate_of_lines, timings
from obt_agent.benchmark.result import RequestTimings


def counters(**fields: int | None) -> Counters:
    usual: dict[str, int | None] = {
        "total_duration": 1_630_000_000,
        "load_duration": 2_000_000,
        "prompt_eval_count": 512,
        "prompt_eval_duration": 500_000_000,
        "eval_count": 16,
        "eval_duration": 1_125_000_000,
    }
    return Counters(**usual | fields)  # type: ignore[arg-type] # the fields are Counters' own


def steady(
    n: int = 16,
    ttft_us: int = 505_000,
    tpot_us: int = 75_000,
    final_us: int = 800,
    reported: Counters | None = None,
    done_reason: str = "length",
) -> Trace:
    """A stream of one token a line at a steady rate."""
    arrivals = tuple(Arrival(ttft_us + i * tpot_us, 0, 4) for i in range(n))
    return Trace(arrivals, arrivals[-1].t_us + final_us, reported or counters(eval_count=n), done_reason)


def figures(
    trace: Trace, *, tokens: int = 16, cached: bool = False, from_first_token: bool = True
) -> RequestTimings:
    return timings(trace, completion_tokens=tokens, cached=cached, from_first_token=from_first_token)


def test_every_figure_follows_its_definition() -> None:
    found = figures(steady())
    assert found.first_token_ms == found.latency_ms == found.ttft_answer_ms == 505.0
    assert found.average_token_ms == pytest.approx(75.0)
    assert found.decode_tps_corrected == pytest.approx(1000 / 75)
    assert found.tokens_per_second == pytest.approx(16 / 1.125)
    assert found.output_tps_wall == pytest.approx(16 / 1.6308)
    assert found.prefill_tps == pytest.approx(1024)
    assert found.prefill_tps_ttft == pytest.approx(512 / 0.505)
    assert found.total_duration_ms == pytest.approx(1630.8)
    assert found.server_total_ms == 1630.0
    assert found.unaccounted_ms == pytest.approx(1630 - 2 - 500 - 1125)
    assert (found.prompt_tokens, found.completion_tokens, found.total_tokens) == (512, 16, 528)
    assert found.thinking_ms is None
    assert not found.short_output
    assert set(found.unavailable) == {"thinking_ms"}


@pytest.mark.parametrize(
    ("ttft_us", "total_ms", "slot", "model"),
    [
        # Ollama spent 200 ms of its total on nothing that it counts.
        (705_000, 1827, 200.0, 505.0),
        # More than the agent saw pass before the first token cannot have gone before it.
        (605_000, 1827, 103.0, 502.0),
        # Its parts may be a little more than its total.
        (505_000, 1626, 0.0, 505.0),
    ],
)
def test_the_wait_for_the_slot_is_what_ollamas_counters_leave_before_the_first_token(
    ttft_us: int, total_ms: int, slot: float, model: float
) -> None:
    found = figures(steady(ttft_us=ttft_us, reported=counters(total_duration=total_ms * 1_000_000)))
    assert found.slot_ms == pytest.approx(slot)
    assert found.ttft_excluding_slot_ms == pytest.approx(model)
    assert found.first_token_ms == ttft_us / 1e3


def test_the_slot_is_not_known_where_eval_duration_is_not_all_of_decode() -> None:
    found = figures(steady(), from_first_token=False)
    assert (found.slot_ms, found.ttft_excluding_slot_ms) == (None, None)
    assert "eval_duration" in found.unavailable["ttft_excluding_slot_ms"]
    nothing = figures(steady(reported=counters(total_duration=None)))
    assert nothing.slot_ms is None
    assert nothing.unavailable["slot_ms"]


def test_ollamas_ratio_reads_high_by_n_over_n_minus_1() -> None:
    found = figures(steady())
    assert found.tokens_per_second is not None
    assert found.decode_tps_corrected is not None
    assert found.tokens_per_second / found.decode_tps_corrected == pytest.approx(16 / 15)


def test_decode_speed_by_two_clocks_leaves_their_difference_open() -> None:
    # The agent got its turn late: of 15 gaps of 75 ms it saw the first end 100 ms late.
    late = steady(ttft_us=605_000, tpot_us=68_333)
    found = figures(late)
    assert found.decode_tps_corrected == pytest.approx(14.634, rel=1e-3)
    assert found.decode_tps_by_ollama == pytest.approx(1000 / 75)
    assert found.decode_tps_uncertainty == pytest.approx(14.634 - 13.333, rel=1e-2)


def test_a_version_whose_clock_means_something_else_is_no_second_clock() -> None:
    found = figures(steady(tpot_us=50_000), from_first_token=False)
    assert found.decode_tps_by_ollama is None
    assert "not the time from the first token" in found.unavailable["decode_tps_by_ollama"]
    assert found.decode_tps_uncertainty == 0.0


@given(st.integers(2, 2000), st.integers(100, 10**6), st.integers(10, 10**6))
def test_a_steady_stream_has_exactly_its_rate(n: int, ttft_us: int, tpot_us: int) -> None:
    reported = counters(eval_count=n, eval_duration=(n - 1) * tpot_us * 1000)
    found = figures(steady(n, ttft_us, tpot_us, reported=reported))
    assert found.decode_tps_corrected == pytest.approx(1e6 / tpot_us)
    assert found.average_token_ms == pytest.approx(tpot_us / 1e3)
    assert found.decode_tps_uncertainty == pytest.approx(0.0, abs=1e-3)


def test_bursts_of_two_tokens_a_line_stay_within_the_stated_uncertainty() -> None:
    true_us = 10_000
    arrivals = tuple(Arrival(100_000 + (2 * line + 1) * true_us, 0, 8) for line in range(32))
    found = figures(Trace(arrivals, arrivals[-1].t_us + 500, counters(eval_count=64)), tokens=64)
    assert found.tokens_per_chunk == 2.0
    assert found.decode_tps_corrected is not None
    assert found.decode_tps_uncertainty is not None
    off = abs(found.decode_tps_corrected - 1e6 / true_us)
    assert 0 < off <= found.decode_tps_uncertainty * 1.02


def test_the_token_that_ends_a_text_by_itself_arrives_with_the_last_line() -> None:
    trace = steady(9, reported=counters(eval_count=10), done_reason="stop", final_us=75_000)
    found = figures(trace, tokens=100)
    assert found.decode_tps_corrected == pytest.approx(1000 / 75)
    assert found.short_output


def test_thinking_counts_as_the_first_token_and_the_answer_is_reported_apart() -> None:
    arrivals = (Arrival(10_000, 5, 0), Arrival(20_000, 5, 0), Arrival(30_000, 0, 3), Arrival(40_000, 0, 3))
    found = figures(Trace(arrivals, 41_000, counters(eval_count=4)))
    assert (found.first_token_ms, found.ttft_answer_ms, found.thinking_ms) == (10.0, 30.0, 20.0)
    assert found.thinking_chars == 10


def test_a_model_that_only_thinks_has_no_answer_and_says_why() -> None:
    found = figures(Trace((Arrival(10_000, 5, 0),), 50_000, counters(eval_count=1)))
    assert found.ttft_answer_ms is None
    assert "thinking took all tokens" in found.unavailable["ttft_answer_ms"]
    assert found.thinking_ms == 40.0


def test_one_token_has_no_rate_instead_of_a_million_a_second() -> None:
    found = figures(Trace((Arrival(10_000, 0, 1),), 10_100, counters(eval_count=1, eval_duration=1000)))
    assert found.tokens_per_second is None
    assert found.decode_tps_corrected is None
    assert set(found.unavailable) >= {"tokens_per_second", "decode_tps_corrected", "average_token_ms"}
    assert "at least two tokens" in found.unavailable["decode_tps_by_ollama"]


def test_no_text_at_all_is_null_with_reasons() -> None:
    found = figures(Trace((), 10_000))
    assert found.first_token_ms is None
    assert found.total_tokens is None
    assert found.unavailable["first_token_ms"] == "no line of the stream carried text"
    assert found.unavailable["eval_ms"] == "Ollama's last line does not say"


def test_a_prompt_cached_on_purpose_has_no_prefill_rate() -> None:
    found = figures(steady(), cached=True)
    assert found.prefill_tps is None
    assert "cached on purpose" in found.unavailable["prefill_tps"]


def test_equal_stamps_give_no_rate() -> None:
    found = figures(Trace((Arrival(5, 0, 1), Arrival(5, 0, 1)), 5, counters(eval_count=2)))
    assert found.decode_tps_corrected is None


def test_gaps_between_lines_have_a_p99_only_from_a_hundred_on() -> None:
    few = chunk_gaps([i * 1000 for i in range(100)])
    many = chunk_gaps([i * 1000 for i in range(101)])
    assert few is not None
    assert many is not None
    assert (few.p50, few.p99, many.p99, many.max) == (1.0, None, 1.0, 1.0)
    assert chunk_gaps([1]) is None


def test_a_stall_shows_in_the_longest_gap() -> None:
    found = chunk_gaps([0, 1000, 2000, 3_002_000])
    assert found is not None
    assert found.max == 3000.0


def test_the_live_rate_looks_back_one_second() -> None:
    stamps = [i * 10_000 for i in range(300)]
    assert rate_of_lines(stamps, 3_000_000) == pytest.approx(100)
    assert rate_of_lines(stamps, 9_000_000) is None
    assert rate_of_lines([5, 5], 6) is None
    burst = [1_000_000, 1_000_040, 1_000_090]
    assert rate_of_lines(burst, 1_000_100) is None, "lines that waited for a turn of the loop"
    assert rate_of_lines([*burst, 1_100_000], 1_100_000) == pytest.approx(30)


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        (Chunk(response="ab"), Arrival(7, 0, 2)),
        (Chunk(response="", thinking="abc"), Arrival(7, 3, 0)),
        (Chunk(response=""), None),
    ],
)
def test_only_lines_with_text_are_arrivals(chunk: Chunk, expected: Arrival | None) -> None:
    assert arrival(7, chunk) == expected
