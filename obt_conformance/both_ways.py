"""What holds on the wire in both directions, whichever side is under test."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from obt_conformance.checks import RuleBroken
from obt_conformance.wire import Closed, RawSocket


async def each_answered_once(wire: RawSocket, ids: Sequence[int | str], quiet_s: float) -> str:
    """Wait for the answer to each request, and a while longer for a second one.

    Raises:
        RuleBroken: one was not answered, or more than once.
    """
    for one in ids:
        await wire.answer(one, f"request {one} was not answered")
    await wire.quiet_for(quiet_s)
    counts = {one: len(wire.answers(one)) for one in ids}
    if set(counts.values()) != {1}:
        raise RuleBroken(f"answers by id: {counts}")
    return f"{len(ids)} requests, {len(ids)} answers"


async def longest_pause(wire: RawSocket, watched_s: float, most_s: float, dropped: str) -> str:
    """Listen for ``watched_s``; nothing may be silent for longer than ``most_s``.

    Raises:
        RuleBroken: the socket ended (``dropped`` says what that means), or a pause was longer.
    """
    started = time.monotonic()
    await wire.quiet_for(watched_s)
    if wire.closed is not None:
        raise RuleBroken(f"{dropped}: {wire.how_closed()}")
    times = [started, *(frame.at for frame in wire.frames if frame.at > started), started + watched_s]
    longest = max(after - before for before, after in itertools.pairwise(times))
    if longest > most_s:
        raise RuleBroken(f"nothing came for {longest:.1f} s")
    return f"the longest pause was {longest:.1f} s"


def check_close_code(closed: Closed, *codes: int) -> str:
    """Return a text with the close code if it is one of ``codes``.

    Raises:
        RuleBroken: it is another.
    """
    if closed.code not in codes:
        wanted = " or ".join(map(str, codes))
        raise RuleBroken(f"closed with {closed.code} {closed.reason}, not {wanted}".replace("  ", " "))
    return f"closed with {closed.code}"
