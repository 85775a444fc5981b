"""A counter of Ollama's that is impossible beside the agent's clock is left out by name, and only that."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.benchmark import counters, flags
from obt_agent.benchmark.counters import COUNTS, DURATIONS, AgentClock, Counters, checked
from obt_agent.benchmark.metrics import Arrival, Trace, timings
from obt_agent.benchmark.result import RequestTimings
from obt_agent.ollama.client import Line
from tests.benchmark.results import iteration, result
from tests.benchmark.test_flags import EXPECTED, LISTED

MS = 1_000_000
USUAL = {
    "total_duration": 180 * MS,
    "load_duration": 5 * MS,
    "prompt_eval_count": 64,
    "prompt_eval_duration": 20 * MS,
    "eval_count": 64,
    "eval_duration": 160 * MS,
}
STREAM = tuple(Arrival(25_000 + i * 2_500, 0, 4) for i in range(64))
"""64 tokens in 0.16 s, by the agent's clock."""


def timed(arrivals: tuple[Arrival, ...] = STREAM, /, **fields: int | None) -> RequestTimings:
    """The figures of the usual request with some of Ollama's counters changed."""
    reported = Counters(**{**USUAL, **fields})  # type: ignore[arg-type] # the fields are Counters' own
    trace = Trace(arrivals, arrivals[-1].t_us + 500, reported, "length")
    return timings(trace, completion_tokens=64, cached=False, num_ctx=4096)


def test_counters_that_agree_with_the_clock_are_believed() -> None:
    found = timed()
    assert found.rejected_counters == ()
    assert found.tokens_per_second == 400
    assert found.unaccounted_ms == -5


@pytest.mark.parametrize(
    ("fields", "nulls"),
    [
        ({"eval_duration": 1000}, {"tokens_per_second", "eval_ms", "unaccounted_ms"}),
        ({"eval_duration": MS}, {"tokens_per_second"}),
        ({"eval_duration": 10 * MS}, {"tokens_per_second"}),
        ({"eval_duration": 10**15}, {"tokens_per_second", "eval_ms", "unaccounted_ms"}),
        ({"prompt_eval_duration": 1000}, {"prefill_tps", "prompt_eval_ms", "unaccounted_ms"}),
        ({"prompt_eval_duration": 10**12}, {"prefill_tps", "unaccounted_ms"}),
        ({"load_duration": 10**12}, {"load_ms", "unaccounted_ms"}),
        ({"total_duration": 10**13}, {"server_total_ms", "unaccounted_ms"}),
        ({"eval_count": 1 << 50}, {"completion_tokens", "decode_tps_corrected", "tokens_per_second"}),
        ({"eval_count": 2}, {"completion_tokens", "average_token_ms", "total_tokens"}),
        ({"prompt_eval_count": 10**9}, {"prompt_tokens", "prefill_tps", "prefill_tps_ttft"}),
    ],
)
def test_an_impossible_counter_costs_what_rests_on_it(fields: dict[str, int], nulls: set[str]) -> None:
    found = timed(**fields)
    assert found.rejected_counters == tuple(fields)
    for name in nulls:
        assert getattr(found, name) is None
        assert "contradicts" in found.unavailable[name]
    assert found.first_token_ms == 25
    assert (found.total_duration_ms or 0) > 180


def test_an_impossible_duration_is_out_of_the_mean_and_is_not_called_a_wait_for_a_slot() -> None:
    requests = [timed(), timed(eval_duration=1000), timed()]
    metrics = [
        iteration(
            index,
            **{name: getattr(one, name) for name in RequestTimings.__struct_fields__},
            queue_ms_max=one.unaccounted_ms,
            flags=tuple(
                flags.of_iteration(
                    iteration(rejected_counters=one.rejected_counters, queue_ms_max=one.unaccounted_ms),
                    EXPECTED,
                    LISTED,
                )
            ),
        )
        for index, one in enumerate(requests)
    ]
    found = result(*metrics)
    assert found.summary["tokens_per_second"].mean == 400
    assert found.summary["tokens_per_second"].n == 2
    assert [one.flags for one in found.metrics] == [(), ("counters_rejected",), ()]
    assert [one.code for one in found.warnings] == ["counters_rejected"]


def test_a_stall_on_the_way_or_lines_in_one_piece_contradict_nothing() -> None:
    stalled = tuple(one._replace(t_us=one.t_us + (900_000 if i > 30 else 0)) for i, one in enumerate(STREAM))
    assert timed(stalled).tokens_per_second == 400
    at_once = tuple(one._replace(t_us=180_000) for one in STREAM)
    assert timed(at_once).tokens_per_second == 400


def test_one_token_alone_may_have_taken_no_time() -> None:
    found = timed(STREAM[:1], eval_count=1, eval_duration=1000)
    assert "eval_duration" not in found.rejected_counters


@pytest.mark.parametrize(
    "text", [b"1" + b"0" * 400, b"1" + b"0" * 5000, b"-5", b'"many"', b"1.5", b"true", b"[1]"]
)
def test_a_counter_that_is_no_count_costs_itself_and_not_the_run(text: bytes) -> None:
    found = counters.read({"eval_count": text, "eval_duration": b"1000", "load_duration": b""})
    assert found == Counters(eval_duration=1000, rejected=frozenset({"eval_count"}))


def test_a_counter_that_is_null_or_left_out_was_not_reported() -> None:
    assert counters.read({"eval_count": b"null", "eval_duration": b""}) == Counters()


@given(
    st.fixed_dictionaries({name: st.none() | st.integers(0, 1 << 53) for name in (*COUNTS, *DURATIONS)}),
    st.lists(st.integers(0, 10**9), max_size=80).map(sorted),
)
def test_whatever_ollama_reports_no_figure_is_infinite_and_no_speed_is_above_the_clocks(
    reported: dict[str, Any], stamps: list[int]
) -> None:
    arrivals = tuple(Arrival(t, 0, 1) for t in stamps)
    trace = Trace(arrivals, (stamps or [0])[-1], Counters(**reported))
    found = timings(trace, completion_tokens=64, cached=False, num_ctx=4096)
    for name, value in msgspec.structs.asdict(found).items():
        assert not isinstance(value, float) or math.isfinite(value), name
    assert (found.tokens_per_second or 0) <= 2e6
    clock = AgentClock(stamps, trace.final_t_us)
    kept = checked(trace.counters, clock, completion_tokens=64, num_ctx=4096)
    assert set(found.rejected_counters) == kept.rejected


def test_an_odd_counter_in_the_last_line_reaches_the_figures_as_rejected() -> None:
    from obt_agent.benchmark.request import _trace  # noqa: PLC0415 - the decoding has no other door

    final = b'{"done": true, "done_reason": "length", "eval_count": 1' + b"0" * 400 + b', "eval_duration": 5}'
    found = _trace([Line(10, b'{"response": "a"}')], Line(20, final))
    assert found.counters == Counters(eval_duration=5, rejected=frozenset({"eval_count"}))
