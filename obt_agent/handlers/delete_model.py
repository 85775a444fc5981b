"""``delete_model``: remove an installed model, and say what that freed."""

from __future__ import annotations

from collections.abc import Sequence

from obt_agent.command import CommandContext
from obt_agent.daemon_thread import Stalled
from obt_agent.errors import AgentError
from obt_agent.handlers.services import Services
from obt_agent.ollama.client import OllamaClient
from obt_agent.ollama.lists import read_weights
from obt_agent.ollama.names import same_model
from obt_agent.protocol.commands import DeleteModelParams, DeleteResult


async def run(services: Services, params: DeleteModelParams, context: CommandContext) -> DeleteResult:
    """Remove a model, in memory or not; the one that is being measured is ``busy``."""
    services.policy.check_fields(context.params)
    installed = await services.gate.admit(params.model)
    services.generation_gate.check_deletion(params.model)
    model = services.policy.find_model(params.model, installed)
    weights = await _weights(services.ollama, params.model, context)
    running = (await services.ollama.running()).models
    was_loaded = any(same_model(one.name, params.model) for one in running)
    if was_loaded:
        # Ollama deletes the files of a loaded model and leaves it loaded: its memory and its disk space would
        # come back when it expires, which may be never.
        await services.ollama.unload(params.model)
    await services.ollama.delete(params.model)
    return DeleteResult(
        was_loaded=was_loaded,
        digest=None if model is None else model.digest,
        freed_bytes=None if model is None else await _freed(services.ollama, model.size_bytes, weights),
        free_bytes=await _free(services),
    )


async def _weights(ollama: OllamaClient, model: str, context: CommandContext) -> tuple[str, ...]:
    try:
        return read_weights(await ollama.show(model, hold=context.hold))
    except AgentError:
        # A stub of a remote model has none to show; whether there is such a model, the deletion says.
        return ()


async def _freed(ollama: OllamaClient, size: int, weights: Sequence[str]) -> int | None:
    """The model's size if its weights are gone, 0 if another model keeps them.

    Ollama lists no layers with their sizes, but it tells of a digest whether the file is still there.
    """
    try:
        kept = [await ollama.has_blob(digest) for digest in weights]
    except AgentError:
        # It is deleted, whatever else Ollama answers.
        return None
    if not kept or (any(kept) and not all(kept)):
        return None
    return 0 if kept[0] else size


async def _free(services: Services) -> int | None:
    try:
        store = await services.hardware.model_store()
    except Stalled:
        return None
    return None if store is None else store.free_bytes
