"""``chat``: one turn of a conversation, streamed as Ollama sends it."""

from __future__ import annotations

from obt_agent.command import CommandContext
from obt_agent.handlers.relay import relay
from obt_agent.handlers.services import Services
from obt_agent.protocol.commands import InferenceParams
from obt_agent.protocol.streams import StreamFinal


async def run(services: Services, params: InferenceParams, context: CommandContext) -> StreamFinal:
    await services.gate.admit(params.model, to="completion")
    with services.generation_gate.generation("chat"):
        # Within the gate: a benchmark that refuses company must see this request before Ollama does.
        body = services.policy.shape_request("chat", context.params, context.blob)
        return await relay(services.ollama, "/api/chat", body, context)
