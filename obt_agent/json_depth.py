"""How deep JSON text nests, counted at C speed and before a parser sees it. Pure."""

from __future__ import annotations

import re
from typing import Final

_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""A string, also one that the text's end cuts off: if that were no match, each escaped quote in it would be
tried as a start, and the time would grow with the square of the length."""
_OTHERS: Final = bytes(set(range(256)) - set(b"[]{}"))
_AS_ROUND: Final = bytes.maketrans(b"[]{}", b"()()")


def deeper_than(data: bytes, limit: int) -> bool:
    """Whether JSON text nests arrays and objects deeper than ``limit``; at most ``limit`` passes in C.

    Text that is not JSON (unbalanced brackets) is left for the parser to refuse: the answer is False.
    """
    if data.count(b"{") + data.count(b"[") <= limit:
        return False
    brackets = _STRINGS.sub(b"", data).translate(_AS_ROUND, _OTHERS)
    for _ in range(limit):
        shorter = brackets.replace(b"()", b"")
        if len(shorter) == len(brackets):
            return False  # none left, or unbalanced
        brackets = shorter
    return bool(brackets)
