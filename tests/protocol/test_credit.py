"""Credit on both sides, alone and against each other."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from obt_agent.errors import ProtocolError
from obt_agent.protocol.credit import Balance, Window
from obt_agent.protocol.limits import MAX_BALANCE_BYTES
from tests.effort import examples


def test_a_frame_may_overdraw_the_balance_once() -> None:
    balance = Balance(10)
    balance.spend(100)
    assert balance.bytes == -90
    assert not balance.positive
    with pytest.raises(ProtocolError):
        balance.spend(1)


def test_nothing_goes_with_a_balance_of_zero() -> None:
    balance = Balance(10)
    balance.spend(10)
    assert not balance.positive
    balance.grant(1)
    assert balance.positive


def test_a_balance_never_exceeds_four_mebibytes() -> None:
    balance = Balance(1 << 40)
    assert balance.bytes == MAX_BALANCE_BYTES
    balance.spend(5)
    balance.grant(1 << 40)
    assert balance.bytes == MAX_BALANCE_BYTES


def test_grants_are_held_back_until_half_the_window_was_consumed() -> None:
    window = Window(100)
    window.received(49)
    assert window.consumed(49) == 0
    window.received(1)
    assert window.consumed(1) == 50
    assert window.balance_bytes == 100


def test_a_frame_without_credit_is_a_breach() -> None:
    window = Window(10)
    window.received(11)
    with pytest.raises(ProtocolError):
        window.received(1)


@given(st.integers(1, 1 << 20), st.lists(st.integers(1, 1 << 22), max_size=30))
def test_a_window_grants_exactly_what_was_consumed(window_bytes: int, frames: list[int]) -> None:
    window = Window(window_bytes)
    granted = 0
    for frame in frames:
        if window.balance_bytes <= 0:
            break
        window.received(frame)
        granted += window.consumed(frame)
        assert window.balance_bytes <= max(window_bytes, MAX_BALANCE_BYTES)
    assert granted <= sum(frames)


class SenderAndReceiver(RuleBasedStateMachine):
    """Frames and grants under way in both directions, delivered in any interleaving."""

    window_bytes = 32768

    def __init__(self) -> None:
        super().__init__()
        self.balance = Balance(self.window_bytes)
        self.window = Window(self.window_bytes)
        self.frames: deque[int] = deque()
        self.grants: deque[int] = deque()
        self.unread = 0
        self.largest = 0

    @precondition(lambda self: self.balance.positive)
    @rule(size=st.integers(1, 40000))
    def send(self, size: int) -> None:
        self.balance.spend(size)
        self.frames.append(size)
        self.largest = max(self.largest, size)

    @precondition(lambda self: self.frames)
    @rule()
    def arrive(self) -> None:
        size = self.frames.popleft()
        self.window.received(size)  # would raise if the sender's arithmetic were wrong
        self.unread += size

    @precondition(lambda self: self.unread)
    @rule(share=st.floats(0.01, 1.0))
    def read(self, share: float) -> None:
        size = max(1, int(self.unread * share))
        self.unread -= size
        granted = self.window.consumed(size)
        if granted:
            self.grants.append(granted)

    @precondition(lambda self: self.grants)
    @rule()
    def grant_arrives(self) -> None:
        self.balance.grant(self.grants.popleft())

    @invariant()
    def what_is_unread_is_bounded_by_the_window_and_one_frame(self) -> None:
        assert self.unread + sum(self.frames) <= self.window_bytes + self.largest

    @invariant()
    def a_reader_that_reads_everything_is_never_left_without_credit(self) -> None:
        if not self.frames and not self.grants and not self.unread:
            assert self.balance.positive


TestSenderAndReceiver = SenderAndReceiver.TestCase
TestSenderAndReceiver.settings = settings(max_examples=examples(60), stateful_step_count=60, deadline=None)
