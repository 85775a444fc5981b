"""``unload_model``: take a model out of memory, wall-timed."""

from __future__ import annotations

from obt_agent.command import AnyCommand, Command, CommandContext
from obt_agent.handlers.memory import afterwards
from obt_agent.jobs.generation_gate import GenerationGate
from obt_agent.ollama.client import OllamaClient
from obt_agent.policy import Policy
from obt_agent.policy.gate import ModelGate
from obt_agent.protocol.commands import LoadResult, UnloadModelParams


def make(ollama: OllamaClient, policy: Policy, gate: ModelGate, traffic: GenerationGate) -> AnyCommand:
    """The command. ``/api/ps`` lags an unload: ``loaded`` may be true for a moment after it."""

    async def run(params: UnloadModelParams, context: CommandContext) -> LoadResult:
        policy.check_fields(context.params)
        installed = await gate.admit(params.model)
        with traffic.generation("unload_model"):
            wall_ms = await ollama.unload(params.model)
        return await afterwards(ollama, policy, installed, params.model, wall_ms)

    return Command(method="unload_model", params=UnloadModelParams, run=run)
