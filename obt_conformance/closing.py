"""How a socket had to end."""

from __future__ import annotations

from obt_conformance.checks import RuleBroken
from obt_conformance.wire import Closed


def must_be(closed: Closed, *codes: int) -> str:
    """Says the close code, when it is one of ``codes``.

    Raises:
        Failed: it is another.
    """
    if closed.code not in codes:
        wanted = " or ".join(map(str, codes))
        raise RuleBroken(f"closed with {closed.code} {closed.reason}, not {wanted}".replace("  ", " "))
    return f"closed with {closed.code}"
