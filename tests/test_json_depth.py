"""Depth is counted exactly, and at a cost that grows with the length and no faster."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.json_depth import deeper_than

LIMIT = 64


@given(st.integers(1, 90), st.booleans())
def test_depth_is_counted_exactly_whatever_brackets_strings_hold(depth: int, noisy: bool) -> None:
    text = r'"[[[{{{\"]"' if noisy else '"x"'
    data = ("[" * depth + text + f",{text},[]" * 3 + "]" * depth).encode()
    assert deeper_than(data, LIMIT) == (depth + 1 > LIMIT)


def test_unbalanced_brackets_are_left_to_the_parser() -> None:
    assert deeper_than(b"]" * 100 + b"[" * 100, LIMIT) is False


@pytest.mark.parametrize("end", [b"", b"\\", b'"', b'\\"'])
def test_a_mebibyte_of_escaped_quotes_in_a_string_without_an_end_costs_no_more_than_other_text(
    end: bytes,
) -> None:
    assert deeper_than(b"[" * (LIMIT + 1) + b'"' + b'\\"' * (1 << 19) + end, LIMIT) is False
