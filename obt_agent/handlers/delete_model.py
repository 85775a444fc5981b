"""``delete_model``: remove an installed model."""

from __future__ import annotations

from obt_agent.command import CommandContext
from obt_agent.handlers.services import Services
from obt_agent.protocol.commands import DeleteModelParams, DoneResult


async def run(services: Services, params: DeleteModelParams, context: CommandContext) -> DoneResult:
    services.policy.check_fields(context.params)
    await services.gate.admit(params.model)
    await services.ollama.delete(params.model)
    return DoneResult()
