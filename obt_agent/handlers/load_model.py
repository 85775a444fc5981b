"""``load_model``: load a model into memory, wall-timed."""

from __future__ import annotations

from obt_agent.command import CommandContext
from obt_agent.handlers.memory import load_result
from obt_agent.handlers.services import Services
from obt_agent.protocol.commands import LoadModelParams, LoadResult


async def run(services: Services, params: LoadModelParams, context: CommandContext) -> LoadResult:
    services.policy.check_fields(context.params)
    installed = await services.gate.admit(params.model)
    with services.generation_gate.generation("load_model"):
        wall_ms = await services.ollama.load(
            params.model,
            keep_alive=services.policy.keep_alive(params.keep_alive),
            options=services.policy.load_options(params.options),
        )
    return await load_result(services.ollama, services.policy, installed, params.model, wall_ms)
