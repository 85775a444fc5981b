"""Waiting for the machine to cool down before an iteration."""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from obt_agent.benchmark import resources
from obt_agent.benchmark.expansion import Cell
from obt_agent.benchmark.run_state import RunState

# Degrees above the starting temperature that count as cooled down.
COOL_ABOVE_START_C: Final = 5.0


class CooldownResult(NamedTuple):
    """How long was waited, and whether the temperature came down; a machine that tells none is cool."""

    seconds: float
    reached: bool


async def cool_down(state: RunState, cell: Cell) -> CooldownResult:
    """Wait for the starting temperature + 5 °C, at most the plan's ``cooldown_s`` or the host's."""
    start, most = state.start_temperature, min(state.plan.cooldown_s, state.limits.cooldown_s)
    if start is None or not most:
        return CooldownResult(0.0, reached=True)
    began = time.monotonic()
    while True:
        waited = time.monotonic() - began
        sample = state.sampler.latest
        now = resources.hottest(sample) if sample else None
        if now is None or now <= start + COOL_ABOVE_START_C:
            return CooldownResult(waited, reached=True)
        left = min(most - waited, state.seconds_left)
        if left <= 0:
            return CooldownResult(waited, reached=False)
        state.enter("cooldown", cell)
        await state.sampler.wait_next(left)
