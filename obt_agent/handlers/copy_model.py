"""``copy_model``: give an installed model a second name."""

from __future__ import annotations

from obt_agent.command import CommandContext
from obt_agent.handlers.services import Services
from obt_agent.protocol.commands import CopyModelParams, DoneResult


async def run(services: Services, params: CopyModelParams, context: CommandContext) -> DoneResult:
    """Both names must be allowed."""
    services.policy.check_fields(context.params)
    installed = await services.gate.admit(params.source)
    # A copy must not give a hidden model a name that is shown.
    services.policy.check_model(params.destination, installed)
    await services.ollama.copy(params.source, params.destination)
    return DoneResult()
