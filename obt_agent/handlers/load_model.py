"""``load_model``: load a model into memory, wall-timed."""

from __future__ import annotations

from obt_agent.command import AnyCommand, Command, CommandContext
from obt_agent.jobs.traffic import Traffic
from obt_agent.ollama.client import OllamaClient
from obt_agent.ollama.names import canonical
from obt_agent.policy import Policy
from obt_agent.policy.gate import ModelGate
from obt_agent.protocol.commands import LoadModelParams, LoadResult


def make(ollama: OllamaClient, policy: Policy, gate: ModelGate, traffic: Traffic) -> AnyCommand:
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
        running = await ollama.running()
        wanted = canonical(params.model)
        return LoadResult(
            model=params.model,
            loaded=any(canonical(model.name) == wanted for model in running),
            wall_ms=wall_ms,
            running=policy.visible_running(running, installed),
        )

    return Command(method="load_model", params=LoadModelParams, run=run)
