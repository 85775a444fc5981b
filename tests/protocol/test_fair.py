"""Turns by bytes, and the size of frames."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from obt_agent.protocol.fairness import FairRing


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
