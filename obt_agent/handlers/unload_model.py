"""``unload_model``: take a model out of memory, wall-timed."""

from __future__ import annotations

from obt_agent.command import CommandContext
from obt_agent.handlers.memory import load_result
from obt_agent.handlers.services import Services
from obt_agent.protocol.commands import LoadResult, UnloadModelParams


async def run(services: Services, params: UnloadModelParams, context: CommandContext) -> LoadResult:
    """``/api/ps`` lags an unload: ``loaded`` may be true for a moment after it."""
    services.policy.check_fields(context.params)
    installed = await services.gate.admit(params.model)
    with services.generation_gate.generation("unload_model"):
        wall_ms = await services.ollama.unload(params.model)
    return await load_result(services.ollama, services.policy, installed, params.model, wall_ms)
