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


async def cold_load(stage: RunState, cell: Cell) -> None:
    """Unload the model, see that Ollama lists it no more, and time an empty request that loads it.

    The load is timed by the wall, since a request that only loads carries no timings.

    Raises:
        OllamaError: the load failed.
    """
    stage.enter("cold_load", cell)
    name = stage.plan.model_name
    unload_ms = await _unloaded(stage) if await _listed(stage) else None
    if await _listed(stage):
        stage.caution(
            "not_unloaded",
            f"Ollama listed the model {stage.limits.unload_s:g} s after an unload; no load was timed",
            "look for another program that keeps the model loaded",
        )
        return
    await _take_baseline(stage)
    page_cache: Literal["warm", "unknown"] = "unknown" if unload_ms is None else "warm"
    wall_ms = await _load(stage, name, cell)
    await stage.record(
        ColdLoadRecord(cold_load=ColdLoad(wall_ms=wall_ms, unload_ms=unload_ms, page_cache=page_cache))
    )


async def leave_quiet(stage: RunState) -> None:
    """Unload the model if the run loaded it. Bounded; failures are of no consequence.

    Raises:
        Exception: whatever Ollama's client raises; the caller logs it.
    """
    if stage.was_loaded:
        return
    async with asyncio.timeout(stage.limits.goodbye_s):
        if await _listed(stage):
            await stage.ollama.unload(stage.plan.model_name)


async def _load(stage: RunState, name: str, cell: Cell) -> float:
    return await stage.ollama.load(
        name, keep_alive=stage.plan.keep_alive, options=request_body.load_options(stage.plan, cell)
    )


async def _unloaded(stage: RunState) -> float:
    """Unload and wait until it is no longer listed; wall milliseconds of both."""
    began = time.monotonic()
    await stage.ollama.unload(stage.plan.model_name)
    deadline = began + stage.limits.unload_s
    while await _listed(stage) and time.monotonic() < deadline:  # noqa: ASYNC110 - Ollama tells no event
        await asyncio.sleep(stage.limits.poll_s)
    return (time.monotonic() - began) * 1e3


async def _listed(stage: RunState) -> bool:
    return loaded((await stage.ollama.running()).models, stage.plan.model_name) is not None


async def _take_baseline(stage: RunState) -> None:
    """GPU and process memory with the model gone, from the next sample."""
    sample = await stage.sampler.wait_next(2 * stage.plan.sample_interval_ms / 1e3)
    if sample is not None:
        stage.baseline = stage.baseline._replace(
            rss_mb=resources.ollama_rss(sample), vram_mb=resources.gpu_memory_used(sample)
        )
