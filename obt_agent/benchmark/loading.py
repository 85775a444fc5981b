"""The cold load, and what is left behind in Ollama at the end."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

from obt_agent.benchmark import request_body, resources
from obt_agent.benchmark.expansion import Cell
from obt_agent.benchmark.preflight import loaded
from obt_agent.benchmark.records import ColdLoadRecord
from obt_agent.benchmark.result import ColdLoad
from obt_agent.benchmark.run_state import RunState


async def cold_load(state: RunState, cell: Cell) -> None:
    """Unload the model, see that Ollama lists it no more, and time an empty request that loads it.

    The load is timed by the wall, since a request that only loads carries no timings.

    Raises:
        OllamaError: the load failed.
    """
    state.enter("cold_load", cell)
    # The model was in use a moment ago when it had to be unloaded: its file is in the system's cache.
    unload_ms = await _unloaded(state) if await _listed(state) else None
    if await _listed(state):
        state.warn(
            "not_unloaded",
            f"Ollama listed the model {state.limits.unload_s:g} s after an unload; no load was timed",
            "look for another program that keeps the model loaded",
        )
        return
    await _take_baseline(state)
    page_cache: Literal["warm", "unknown"] = "unknown" if unload_ms is None else "warm"
    plan = state.plan
    options = request_body.load_options(plan, cell)
    wall_ms = await state.ollama.load(plan.model_name, keep_alive=plan.keep_alive, options=options)
    await state.record(
        ColdLoadRecord(cold_load=ColdLoad(wall_ms=wall_ms, unload_ms=unload_ms, page_cache=page_cache))
    )


async def leave_quiet(state: RunState) -> None:
    """Unload the model if the run loaded it. Bounded; failures are of no consequence.

    Raises:
        Exception: whatever Ollama's client raises; the caller logs it.
    """
    if state.was_loaded:  # somebody else's: it stays
        return
    async with asyncio.timeout(state.limits.goodbye_s):
        if await _listed(state):
            await state.ollama.unload(state.plan.model_name)


async def _unloaded(state: RunState) -> float:
    """Unload and wait until it is no longer listed; wall milliseconds of both."""
    began = time.monotonic()
    await state.ollama.unload(state.plan.model_name)
    deadline = began + state.limits.unload_s
    while await _listed(state) and time.monotonic() < deadline:  # noqa: ASYNC110 - Ollama has no event for it
        await asyncio.sleep(state.limits.poll_s)
    return (time.monotonic() - began) * 1e3


async def _listed(state: RunState) -> bool:
    return loaded((await state.ollama.running()).models, state.plan.model_name) is not None


async def _take_baseline(state: RunState) -> None:
    """GPU and process memory with the model gone, from the next sample."""
    sample = await state.sampler.wait_next(2 * state.plan.sample_interval_ms / 1e3)
    if sample is not None:
        state.baseline = state.baseline._replace(
            rss_mb=resources.server_rss(sample), vram_mb=resources.gpu_memory_used(sample)
        )
