"""How deep JSON text nests, counted at C speed and before a parser sees it. Pure."""

from __future__ import annotations

from itertools import accumulate
from typing import Final

_OTHERS: Final = bytes(set(range(256)) - set(b'[]{}"'))
_AS_ROUND: Final = bytes.maketrans(b"[]{}", b"()()")
_RUN: Final = 8
"""Brackets of one kind in a row that are counted as one."""
_AS_SIGNS: Final = bytes.maketrans(b"()<>", b"\x01\xff\x08\xf8")
"""One up, one down, and a run of each, as signed bytes."""
_MUCH: Final = 0.75
"""A pass is made again where the last one left less than this."""


def deeper_than(data: bytes, limit: int) -> bool:
    """Whether JSON text nests arrays and objects deeper than ``limit``. Takes time linear in the length.

    Text that is not JSON (unbalanced brackets) is left for the parser to refuse.
    """
    if data.count(b"{") + data.count(b"[") <= limit:
        return False
    brackets = _outside_strings(data)
    if 2 * brackets.count(b"(") != len(brackets):
        return False
    # The innermost pairs go in each pass, which is faster than counting while that is much of what is left.
    # Most messages are flat, and done after a few.
    passes, went_much = 0, True
    while brackets and went_much:
        shorter = brackets.replace(b"()", b"")
        went_much = len(shorter) < _MUCH * len(brackets)
        brackets, passes = shorter, passes + 1
    if not brackets:  # or all stood in strings
        return passes > limit
    # The greatest depth is reached where a run ends or before one begins, never within.
    runs = brackets.replace(b"(" * _RUN, b"<").replace(b")" * _RUN, b">")
    signs = memoryview(runs.translate(_AS_SIGNS)).cast("b")
    return passes + max(accumulate(signs)) > limit


def _outside_strings(data: bytes) -> bytes:
    """Return the brackets that stand in no string, all of them round."""
    if b"\\" in data:
        # Backslashes first: of an odd number before a quote one is left, which escapes it.
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = data.translate(_AS_ROUND, _OTHERS)
    # Two quotes with nothing between them end where they began, inside a string or outside: what stands
    # around them is where it was. This takes all strings that hold no bracket.
    marks = marks.replace(b'""', b"")
    return b"".join(marks.split(b'"')[::2]) if b'"' in marks else marks
