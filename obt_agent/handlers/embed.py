"""``embed``: embeddings, Ollama's object as it came."""

from __future__ import annotations

import msgspec

from obt_agent.command import AnyCommand, Command, CommandContext
from obt_agent.jobs.generation_gate import GenerationGate
from obt_agent.ollama.client import OllamaClient
from obt_agent.policy import Policy
from obt_agent.policy.gate import ModelGate
from obt_agent.protocol.commands import InferenceParams


def make(ollama: OllamaClient, policy: Policy, gate: ModelGate, traffic: GenerationGate) -> AnyCommand:
    """The command."""

    async def run(params: InferenceParams, context: CommandContext) -> msgspec.Raw:
        await gate.admit(params.model)
        with traffic.generation("embed"):
            body = policy.shape_request("embed", context.params, context.blob)
            return msgspec.Raw(await ollama.call("/api/embed", body))

    return Command(method="embed", params=InferenceParams, run=run)
