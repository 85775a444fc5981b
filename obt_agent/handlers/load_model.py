"""``load_model``: load a model into memory, wall-timed."""

from __future__ import annotations

from obt_agent.command import AnyCommand, Command, CommandContext
from obt_agent.handlers.memory import afterwards
from obt_agent.jobs.generation_gate import GenerationGate
from obt_agent.ollama.client import OllamaClient
from obt_agent.policy import Policy
from obt_agent.policy.gate import ModelGate
from obt_agent.protocol.commands import LoadModelParams, LoadResult


def make(ollama: OllamaClient, policy: Policy, gate: ModelGate, traffic: GenerationGate) -> AnyCommand:
    """The command."""

    async def run(params: LoadModelParams, context: CommandContext) -> LoadResult:
        policy.check_fields(context.params)
        installed = await gate.admit(params.model)
        with traffic.generation("load_model"):
            wall_ms = await ollama.load(
                params.model,
                keep_alive=policy.keep_alive(params.keep_alive),
                options=policy.load_options(params.options),
            )
        return await afterwards(ollama, policy, installed, params.model, wall_ms)

    return Command(method="load_model", params=LoadModelParams, run=run)
