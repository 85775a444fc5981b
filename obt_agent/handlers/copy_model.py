"""``copy_model``: give an installed model a second name."""

from __future__ import annotations

from obt_agent.command import AnyCommand, Command, CommandContext
from obt_agent.ollama.client import OllamaClient
from obt_agent.policy import Policy
from obt_agent.policy.gate import ModelGate
from obt_agent.protocol.commands import CopyModelParams, DoneResult


def make(ollama: OllamaClient, policy: Policy, gate: ModelGate) -> AnyCommand:
    """The command. Both names must be allowed."""

    async def run(params: CopyModelParams, context: CommandContext) -> DoneResult:
        policy.check_fields(context.params)
        installed = await gate.admit(params.source)
        policy.check_model(params.destination, installed)
        await ollama.copy(params.source, params.destination)
        return DoneResult()

    return Command(method="copy_model", params=CopyModelParams, run=run)
