"""What holds on the wire in both directions, whichever side is under test."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from obt_conformance.checks import RuleBroken
from obt_conformance.wire import RawSocket


async def each_answered_once(wire: RawSocket, asked: Sequence[int | str], quiet_s: float) -> str:
    """Wait for the answer to each request, and a while longer for a second one.

    Raises:
        Failed: one was not answered, or more than once.
    """
    for one in asked:
        await wire.answer(one, f"request {one} was not answered")
    await wire.quiet_for(quiet_s)
    counts = {one: len(wire.answers(one)) for one in asked}
    if set(counts.values()) != {1}:
        raise RuleBroken(f"answers by id: {counts}")
    return f"{len(asked)} requests, {len(asked)} answers"


async def signs_of_life(wire: RawSocket, watched_s: float, most_s: float, dropped: str) -> str:
    """Listen for ``watched_s``; nothing may be silent for longer than ``most_s``.

    Raises:
        Failed: the socket ended (``dropped`` says what that means), or a pause was longer.
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
