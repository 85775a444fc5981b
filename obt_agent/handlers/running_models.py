"""``running_models``: what is loaded, split between RAM and VRAM, and until when."""

from __future__ import annotations

from obt_agent.command import CommandContext
from obt_agent.handlers.services import Services
from obt_agent.protocol.admission import Empty
from obt_agent.protocol.commands import RunningModelsResult


async def run(services: Services, _params: Empty, _context: CommandContext) -> RunningModelsResult:
    running = (await services.ollama.running()).models
    return RunningModelsResult(
        models=services.policy.visible_running(running, services.catalog.snapshot.models)
    )
