"""Wait for a state that no event announces. Where there is an event, wait for the event."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable

WITHIN_S = 60.0
"""Longest wait for something that takes a moment: generous, since the machine may be busy."""
TURNS = 50
"""Checks without a pause: most of what a test waits for is a few turns of the event loop away."""
MIN_PAUSE_S, ASKING_PAUSE_S, MAX_PAUSE_S = 0.001, 0.01, 0.05
"""A check that is awaited costs a request or a query, and has a longer pause after it from the first one on.
Pauses grow, so that checking does not become the load."""


async def until(
    condition: Callable[[], object], why: Callable[[], str] = lambda: "", *, within_s: float = WITHIN_S
) -> None:
    """Return when ``condition()``, awaited if it is a coroutine, is true.

    Raises:
        AssertionError: it was not within ``within_s``; the message ends with what ``why`` returns.
    """
    turn, pause_s = 0, MIN_PAUSE_S
    try:
        async with asyncio.timeout(within_s):
            while True:
                answer = condition()
                if inspect.isawaitable(answer):
                    answer = await answer
                    turn, pause_s = TURNS, max(pause_s, ASKING_PAUSE_S)
                if answer:
                    return
                turn += 1
                if turn <= TURNS:
                    await asyncio.sleep(0)
                else:
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 1.5, MAX_PAUSE_S)
    except TimeoutError:
        raise AssertionError(f"it did not happen within {within_s:g} s; {why()}") from None
