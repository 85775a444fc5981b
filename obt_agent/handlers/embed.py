"""``embed``: embeddings, Ollama's object as it came."""

from __future__ import annotations

import msgspec

from obt_agent.command import CommandContext
from obt_agent.handlers.services import Services
from obt_agent.protocol.commands import InferenceParams


async def run(services: Services, params: InferenceParams, context: CommandContext) -> msgspec.Raw:
    await services.gate.admit(params.model)
    with services.generation_gate.generation("embed"):
        # Within the gate: a benchmark that refuses company must see this request before Ollama does.
        body = services.policy.shape_request("embed", context.params, context.blob)
        return msgspec.Raw(await services.ollama.call("/api/embed", body))
