"""Before a run: wait until nobody else uses the machine, and it has cooled down from what ran before."""

from __future__ import annotations

import time
from typing import Final

from obt_agent.benchmark import resources
from obt_agent.benchmark.environment import SettleReport
from obt_agent.benchmark.plan import Settle
from obt_agent.benchmark.run_state import RunState
from obt_agent.errors import Busy
from obt_agent.hardware.samples import Sample
from obt_agent.hardware.temperatures import hottest

# Degrees above the lowest temperature of the last day that count as cooled down: rooms are warmer by day.
COOL_ABOVE_REST_C: Final = 5.0
_NS_PER_S: Final = 1e9
_NO_READING: Final = "a reading of the machine's load"


async def settle(state: RunState) -> None:
    """Wait as the plan's ``settle`` says; do nothing where it says nothing.

    Raises:
        Busy: the machine did not become idle in time, and the plan asks to end then.
    """
    wanted = state.plan.settle
    if wanted is None:
        return
    state.enter("settling")
    try:
        state.settled = await _wait(state, wanted)
    finally:
        state.waiting_for = None
    state.on_settled()
    if state.settled.reached:
        return
    message = f"after {state.settled.waited_s:.0f} s the run still waited for {state.settled.waiting_for}"
    if wanted.if_busy == "fail":
        raise Busy(f"the machine did not become idle: {message}; run again later, or raise settle.max_wait_s")
    state.warn(
        "not_settled",
        message,
        "read the figures as those of a machine in use; close other programs, or raise settle.max_wait_s",
    )


async def _wait(state: RunState, wanted: Settle) -> SettleReport:
    began = time.monotonic()
    # When the machine was first seen idle, without a break since then; each sample speaks for the time before
    # it, so that this is never too early.
    idle_since_ns: int | None = None
    while True:
        sample = state.sampler.latest
        missing = _busy(sample, wanted)
        if sample is None or missing is not None:
            idle_since_ns = None
        else:
            idle_since_ns = sample.t_mono_ns if idle_since_ns is None else idle_since_ns
            idle_s = (sample.t_mono_ns - idle_since_ns) / _NS_PER_S
            missing = _hot(sample, state) or (_still(wanted) if idle_s < wanted.idle_for_s else None)
        waited_s = time.monotonic() - began
        if missing is None:
            return SettleReport(waited_s=waited_s, reached=True)
        state.waiting_for = missing
        left = min(wanted.max_wait_s - waited_s, state.seconds_left)
        # Without samples no wait would tell more.
        if left <= 0 or await state.sampler.wait_next(left) is None:
            return SettleReport(waited_s=time.monotonic() - began, reached=False, waiting_for=missing)


def _busy(sample: Sample | None, wanted: Settle) -> str | None:
    """What keeps the machine from being idle, in words; None when nothing does."""
    cpu = None if sample is None else resources.cpu_percent(sample)
    if sample is None or cpu is None:
        return _NO_READING
    if cpu > wanted.cpu_percent:
        return f"the CPU to be idle (now {cpu:.0f} % busy, {wanted.cpu_percent:g} % at most)"
    gpu = resources.gpu_percent(sample)
    # Without a GPU, or with one that sleeps, there is nothing to wait for.
    if gpu is not None and gpu > wanted.gpu_percent:
        return f"the GPU to be idle (now {gpu:.0f} % busy, {wanted.gpu_percent:g} % at most)"
    return None


def _hot(sample: Sample, state: RunState) -> str | None:
    now = hottest(sample)
    rest = None if now is None else state.machine.lowest_temperatures.of(now.sensor)
    if now is None or rest is None or now.celsius <= rest + COOL_ABOVE_REST_C:
        return None
    return f"the {now.sensor} to cool down (now {now.celsius:.0f} °C, {rest:.0f} °C at rest)"


def _still(wanted: Settle) -> str:
    return f"the machine to stay idle for {wanted.idle_for_s:g} s"
