"""``generate``: text from a prompt, streamed as Ollama sends it."""

from __future__ import annotations

from obt_agent.command import AnyCommand, Command, CommandContext
from obt_agent.handlers.relay import relay
from obt_agent.jobs.generation_gate import GenerationGate
from obt_agent.ollama.client import OllamaClient
from obt_agent.policy import Policy
from obt_agent.policy.gate import ModelGate
from obt_agent.protocol.commands import InferenceParams
from obt_agent.protocol.streams import StreamFinal


def make(ollama: OllamaClient, policy: Policy, gate: ModelGate, traffic: GenerationGate) -> AnyCommand:
    """The command."""

    async def run(params: InferenceParams, context: CommandContext) -> StreamFinal:
        await gate.admit(params.model)
        with traffic.generation("generate"):
            body = policy.shape_request("generate", context.params, context.blob)
            return await relay(ollama, "/api/generate", body, context)

    return Command(method="generate", params=InferenceParams, run=run, shape="stream")
