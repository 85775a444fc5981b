"""``running_models``: what is loaded, split between RAM and VRAM, and until when."""

from __future__ import annotations

from obt_agent.command import AnyCommand, Command, CommandContext
from obt_agent.ollama.client import OllamaClient
from obt_agent.policy import Policy
from obt_agent.policy.gate import GateCatalog
from obt_agent.protocol.admission import Empty
from obt_agent.protocol.commands import RunningModelsResult


def make(ollama: OllamaClient, catalog: GateCatalog, policy: Policy) -> AnyCommand:
    """The command."""

    async def run(_params: Empty, _context: CommandContext) -> RunningModelsResult:
        running = await ollama.running()
        return RunningModelsResult(models=policy.visible_running(running, catalog.snapshot.models))

    return Command(method="running_models", params=Empty, run=run)
