"""Depth is counted exactly, and at a cost that grows with the length and no faster."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from obt_agent.json_depth import deeper_than

LIMIT = 64


@given(st.integers(1, 90), st.booleans())
def test_depth_is_counted_exactly_whatever_brackets_strings_hold(depth: int, noisy: bool) -> None:
    text = r'"[[[{{{\"]"' if noisy else '"x"'
    data = ("[" * depth + text + f",{text},[]" * 3 + "]" * depth).encode()
    assert deeper_than(data, LIMIT) == (depth + 1 > LIMIT)


JSON = st.recursive(
    st.integers() | st.text('[]{}"\\', max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("[}", max_size=2), inner, max_size=3),
    max_leaves=40,
)


def depth_of(value: object) -> int:
    if not isinstance(value, list | dict):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth_of, inner), default=0)


@given(JSON, st.integers(0, 20), st.integers(0, 20))
@example("{", 0, 0)
def test_the_answer_is_that_of_counting_for_any_value_and_limit(
    value: object, around: int, limit: int
) -> None:
    for number in range(around):
        value = [value, number] if number % 2 else {"[": value}
    assert deeper_than(json.dumps(value).encode(), limit) == (depth_of(value) > limit)


def test_unbalanced_brackets_are_left_to_the_parser() -> None:
    assert deeper_than(b"]" * 100 + b"[" * 100, LIMIT) is False


@pytest.mark.parametrize("end", [b"", b"\\", b'"', b'\\"'])
def test_a_mebibyte_of_escaped_quotes_in_a_string_without_an_end_costs_no_more_than_other_text(
    end: bytes,
) -> None:
    assert deeper_than(b"[" * (LIMIT + 1) + b'"' + b'\\"' * (1 << 19) + end, LIMIT) is False
