"""``delete_model``: remove an installed model."""

from __future__ import annotations

from obt_agent.command import AnyCommand, Command, CommandContext
from obt_agent.ollama.client import OllamaClient
from obt_agent.policy import Policy
from obt_agent.policy.gate import ModelGate
from obt_agent.protocol.commands import DeleteModelParams, DoneResult


def make(ollama: OllamaClient, policy: Policy, gate: ModelGate) -> AnyCommand:
    """The command."""

    async def run(params: DeleteModelParams, context: CommandContext) -> DoneResult:
        policy.check_fields(context.params)
        await gate.admit(params.model)
        await ollama.delete(params.model)
        return DoneResult()

    return Command(method="delete_model", params=DeleteModelParams, run=run)
