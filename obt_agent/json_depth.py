"""How deep JSON text nests, counted at C speed and before a parser sees it. Pure."""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Final

_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""A string, also one that the text's end cuts off: if that were no match, each escaped quote in it would be
tried as a start, and the time would grow with the square of the length."""
_OTHERS: Final = bytes(set(range(256)) - set(b"[]{}"))
_AS_ROUND: Final = bytes.maketrans(b"[]{}", b"()()")
_AS_SIGNS: Final = bytes.maketrans(b"()", b"\x01\xff")
"""One up, one down, as signed bytes."""
_PASSES: Final = 6
"""A pass is faster than counting while it takes away much of what is left."""


def deeper_than(data: bytes, limit: int) -> bool:
    """Whether JSON text nests arrays and objects deeper than ``limit``. Takes time linear in the length.

    Text that is not JSON (unbalanced brackets) is left for the parser to refuse: either answer may come.
    """
    if data.count(b"{") + data.count(b"[") <= limit:
        return False
    brackets = _STRINGS.sub(b"", data).translate(_AS_ROUND, _OTHERS)
    # All of them stood in strings.
    if not brackets:
        return False
    too_deep = b"(" * (limit + 1)
    # The innermost pairs go in each pass. Most messages are flat, and done after a few.
    for depth in range(1, _PASSES + 1):
        # Seen at once where nothing stands between the brackets, as in what is made to be deep.
        opened = brackets.find(too_deep)
        if opened >= 0:
            return brackets.rfind(b")") > opened
        shorter = brackets.replace(b"()", b"")
        if not shorter:
            return depth > limit
        if len(shorter) == len(brackets):
            return False
        brackets = shorter
    signs = memoryview(brackets.translate(_AS_SIGNS)).cast("b")
    return _PASSES + max(accumulate(signs)) > limit
