"""Turns by bytes, and the size of frames."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from obt_agent.protocol.fairness import FairRing, RateEstimator
from obt_agent.protocol.limits import MAX_DATA_FRAME_BYTES, MIN_DATA_FRAME_BYTES


def run(ring: FairRing[str], sizes: dict[str, list[int]], turns: int) -> dict[str, int]:
    """Send frames of each flow's sizes in rotation; the bytes that each flow got out."""
    sent = dict.fromkeys(sizes, 0)
    count = dict.fromkeys(sizes, 0)
    for _ in range(turns):
        flow = ring.turn()
        assert flow is not None
        size = sizes[flow][count[flow] % len(sizes[flow])]
        count[flow] += 1
        sent[flow] += size
        ring.charge(flow, size)
    return sent


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("abcdef"),
        st.lists(st.integers(1, 32768), min_size=1, max_size=4),
        min_size=2,
    ),
    st.integers(1024, 32768),
    st.integers(1, 400),
)
def test_flows_that_always_have_something_to_send_get_equal_bytes(
    sizes: dict[str, list[int]], quantum: int, turns: int
) -> None:
    ring: FairRing[str] = FairRing(quantum)
    for flow in sizes:
        ring.add(flow)
    sent = run(ring, sizes, turns)
    largest = max(max(flow_sizes) for flow_sizes in sizes.values())
    assert max(sent.values()) - min(sent.values()) <= 2 * quantum + 2 * largest


def test_a_flow_with_small_frames_is_not_starved_by_one_with_large_frames() -> None:
    ring: FairRing[str] = FairRing(1024)
    ring.add("large")
    ring.add("small")
    sent = run(ring, {"large": [32768], "small": [128]}, 2000)
    assert abs(sent["large"] - sent["small"]) <= 2 * 32768 + 2 * 1024


def test_a_flow_that_comes_back_still_owes_what_it_overdrew() -> None:
    ring: FairRing[str] = FairRing(1000)
    ring.add("greedy")
    ring.add("other")
    ring.charge("greedy", 10_000)
    ring.remove("greedy")
    ring.add("greedy")
    turns = []
    for _ in range(9):
        flow = ring.turn()
        assert flow is not None
        turns.append(flow)
        ring.charge(flow, 1000)
    assert turns == ["other"] * 9


def test_debts_are_forgiven_when_nobody_waits() -> None:
    ring: FairRing[str] = FairRing(1000)
    ring.add("a")
    ring.charge("a", 10_000)
    ring.remove("a")
    ring.add("a")
    ring.add("b")
    assert ring.turn() == "a"


def test_an_ended_flow_leaves_nothing_behind() -> None:
    ring: FairRing[str] = FairRing(1000)
    ring.add("a")
    ring.add("b")
    ring.charge("a", 10_000)
    ring.forget("a")
    assert "a" not in ring
    assert len(ring) == 1
    ring.add("a")
    ring.charge("b", 1000)
    assert ring.turn() == "a"


def test_adding_twice_and_removing_what_is_not_there_change_nothing() -> None:
    ring: FairRing[str] = FairRing(1000)
    ring.add("a")
    ring.charge("a", 500)
    ring.add("a")
    ring.remove("b")
    ring.charge("a", 499)
    assert ring.turn() == "a"
    ring.remove("a")
    assert ring.turn() is None


def test_a_link_that_never_makes_output_wait_gets_the_largest_frames() -> None:
    assert RateEstimator().frame_bytes == MAX_DATA_FRAME_BYTES


def test_a_slow_link_gets_frames_of_a_quarter_of_a_second() -> None:
    pace = RateEstimator()
    for start in range(4):
        pace.waits(float(start), 16384)
        pace.flows(start + 1.0)
    assert pace.frame_bytes == 4096


def test_frames_stay_within_their_bounds_at_any_rate() -> None:
    slow, fast = RateEstimator(), RateEstimator()
    slow.waits(0.0, 10)
    slow.flows(60.0)
    assert slow.frame_bytes == MIN_DATA_FRAME_BYTES
    fast.waits(0.0, 1 << 20)
    fast.flows(0.0)
    assert fast.frame_bytes == MAX_DATA_FRAME_BYTES


def test_a_wait_in_which_nothing_moved_measures_nothing() -> None:
    pace = RateEstimator()
    pace.waits(0.0, 100)
    pace.flows(1.0, 100)
    assert pace.bytes_per_second is None


@given(st.lists(st.tuples(st.integers(0, 1 << 22), st.floats(0, 100), st.integers(0, 1 << 22)), max_size=20))
def test_frame_size_is_bounded_whatever_was_measured(measured: list[tuple[int, float, int]]) -> None:
    pace = RateEstimator()
    now = 0.0
    for waiting, elapsed, left in measured:
        pace.waits(now, waiting)
        now += elapsed
        pace.flows(now, left)
        assert MIN_DATA_FRAME_BYTES <= pace.frame_bytes <= MAX_DATA_FRAME_BYTES
