"""``unload_model``: take a model out of memory, wall-timed."""

from __future__ import annotations

from obt_agent.command import AnyCommand, Command, CommandContext
from obt_agent.jobs.traffic import Traffic
from obt_agent.ollama.client import OllamaClient
from obt_agent.ollama.names import canonical
from obt_agent.policy import Policy
from obt_agent.policy.gate import ModelGate
from obt_agent.protocol.commands import LoadResult, UnloadModelParams


def make(ollama: OllamaClient, policy: Policy, gate: ModelGate, traffic: Traffic) -> AnyCommand:
    """The command. ``/api/ps`` lags an unload: ``loaded`` may be true for a moment after it."""

    async def run(params: UnloadModelParams, context: CommandContext) -> LoadResult:
        policy.check_fields(context.params)
        installed = await gate.admit(params.model)
        with traffic.generation("unload_model"):
            wall_ms = await ollama.unload(params.model)
        running = await ollama.running()
        wanted = canonical(params.model)
        return LoadResult(
            model=params.model,
            loaded=any(canonical(model.name) == wanted for model in running),
            wall_ms=wall_ms,
            running=policy.visible_running(running, installed),
        )

    return Command(method="unload_model", params=UnloadModelParams, run=run)
