"""The window over links that were thought up: how wide it grows, and how long what comes next waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.protocol.limits import (
    MAX_DATA_FRAME_BYTES,
    MAX_SEND_WINDOW_BYTES,
    MIN_DATA_FRAME_BYTES,
    MIN_SEND_WINDOW_BYTES,
    SEND_WINDOW_BYTES,
)
from obt_agent.protocol.send_window import MARKS_PER_S, SendWindow


class Path:
    """A link with an unlimited buffer: so many bytes a second, and so long a way there and back."""

    def __init__(self, rate: float, round_trip_s: float) -> None:
        self.rate = rate
        self.round_trip_s = round_trip_s
        self.now = 0.0
        self.window = SendWindow(self.now)
        # when what was sent so far will have passed
        self.passed_at = 0.0
        self.answer_at: float | None = None
        self.marks: list[float] = []
        self.sent = 0
        self.worst_s = 0.0

    def mark(self) -> None:
        wait_s = self.window.take_mark(self.now, 0)
        if wait_s == 0.0:
            self.marks.append(self.now)
            self.answer_at = max(self.now, self.passed_at) + self.round_trip_s

    def run(self, until_s: float) -> None:
        """Send as much as the window lets through."""
        self.mark()
        while self.now < until_s:
            while self.window.open:
                size = self.window.frame_bytes
                self.sent += size
                self.passed_at = max(self.now, self.passed_at) + size / self.rate
                self.window.sent(size)
                self.mark()
            self.worst_s = max(self.worst_s, self.passed_at - self.now)
            self.now = max(self.now + 0.001, min(self.answer_at or self.now + 0.05, self.now + 0.05))
            if self.answer_at is not None and self.now >= self.answer_at:
                self.answer_at = None
                self.window.arrived(self.now, 0)
            self.mark()


@pytest.mark.parametrize("round_trip_s", [0.001, 0.05, 0.6])
def test_a_slow_link_is_kept_busy_and_never_holds_up_control_for_long(round_trip_s: float) -> None:
    path = Path(8 << 10, round_trip_s)
    path.run(60.0)
    assert path.worst_s < 3.0
    assert path.sent > 0.8 * 60 * path.rate
    path.worst_s = 0.0
    path.run(120.0)
    assert path.worst_s < 1.5


@pytest.mark.parametrize(("rate", "round_trip_s"), [(100 << 20, 0.0005), (10 << 20, 0.02), (2 << 20, 0.2)])
def test_a_fast_link_is_used_in_full(rate: float, round_trip_s: float) -> None:
    path = Path(rate, round_trip_s)
    # Until the window has been too wide once: what was sent then has to pass first.
    path.run(5.0)
    before = path.sent
    path.run(10.0)
    assert path.sent - before > 0.75 * 5 * min(rate, MAX_SEND_WINDOW_BYTES * MARKS_PER_S)
    assert path.window.frame_bytes == MAX_DATA_FRAME_BYTES


def test_a_link_that_becomes_slow_and_fast_again_is_followed() -> None:
    path = Path(1 << 20, 0.05)
    path.run(5.0)
    path.rate = 8 << 10
    path.run(300.0)  # what was on its way has to pass first
    path.worst_s = 0.0
    path.run(330.0)
    assert path.worst_s < 1.5
    path.rate = 1 << 20
    path.run(340.0)
    before = path.sent
    path.run(345.0)
    assert path.sent - before > 0.75 * 5 * path.rate


def test_marks_are_few_and_one_at_a_time() -> None:
    path = Path(100 << 20, 0.0005)
    path.run(10.0)
    assert len(path.marks) <= 10 * MARKS_PER_S + 2 * MARKS_PER_S
    window = SendWindow(0.0)
    assert window.take_mark(0.0, 0) == 0.0
    window.sent(1 << 20)
    assert window.take_mark(0.0, 0) is None
    assert not window.open


def test_little_output_needs_no_marks_and_leaves_the_window_as_it_is() -> None:
    window = SendWindow(0.0)
    assert window.take_mark(0.0, 0) == 0.0
    window.arrived(0.01, 0)
    window.sent(1000)
    assert window.take_mark(1.0, 0) is None
    window.sent(4000)
    assert window.take_mark(1.0, 0) is None
    assert window.size == SEND_WINDOW_BYTES


def test_little_output_after_a_queue_is_measured_and_leaves_the_window_as_it_is() -> None:
    window = SendWindow(0.0)
    assert window.take_mark(0.0, 0) == 0.0
    window.arrived(0.01, 0)
    window.sent(9000)
    assert window.take_mark(1.0, 0) == 0.0
    window.arrived(1.5, 0)
    window.sent(5000)
    assert window.take_mark(2.0, 0) == 0.0
    window.arrived(2.01, 0)
    assert window.size == SEND_WINDOW_BYTES


@pytest.mark.parametrize("tokens_per_s", [50, 400, 1000, 5000])
def test_tokens_wait_for_no_mark_on_a_link_that_has_room(tokens_per_s: int) -> None:
    window, round_trip_s, answers = SendWindow(0.0), 0.001, list[float]()
    if window.take_mark(0.0, 0) == 0.0:
        answers.append(round_trip_s)
    for token in range(10 * tokens_per_s):
        now = token / tokens_per_s
        while answers and answers[0] <= now:
            window.arrived(answers.pop(), 0)
        assert window.open, f"token {token} waits"
        window.sent(180)
        if window.take_mark(now, 0) == 0.0:
            answers.append(now + round_trip_s)


def test_an_answer_that_waited_behind_the_other_sides_output_says_nothing_of_ours() -> None:
    window = SendWindow(0.0)
    window.take_mark(0.0, 0)
    window.arrived(0.01, 0)
    window.sent(9000)
    assert window.take_mark(1.0, 0) == 0.0
    window.arrived(9.0, 1 << 20)
    assert window.size == SEND_WINDOW_BYTES


def test_a_peer_that_answers_no_mark_is_bounded_no_more() -> None:
    window = SendWindow(0.0)
    window.arrived(0.0, 0)
    assert window.take_mark(0.0, 0) == 0.0
    assert window.unanswered_for(31.0) == 31.0
    window.sent(1 << 20)
    window.give_up()
    assert window.open
    assert window.take_mark(99.0, 0) is None
    assert window.unanswered_for(99.0) == 0.0


@given(st.lists(st.tuples(st.integers(0, 1 << 22), st.floats(0, 100), st.integers(0, 1 << 22)), max_size=30))
def test_sizes_stay_within_their_bounds_whatever_was_measured(steps: list[tuple[int, float, int]]) -> None:
    window, now, received = SendWindow(0.0), 0.0, 0
    for size, elapsed, came in steps:
        window.sent(size)
        window.take_mark(now, received)
        now, received = now + elapsed, received + came
        window.arrived(now, received)
        assert MIN_SEND_WINDOW_BYTES <= window.size <= MAX_SEND_WINDOW_BYTES
        assert MIN_DATA_FRAME_BYTES <= window.frame_bytes <= MAX_DATA_FRAME_BYTES
