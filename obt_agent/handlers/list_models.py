"""``list_models``: the installed models that the owner shows."""

from __future__ import annotations

from obt_agent.command import CommandContext
from obt_agent.errors import OllamaUnavailable
from obt_agent.handlers.services import Services
from obt_agent.protocol.commands import ListModelsParams, ListModelsResult


async def run(services: Services, params: ListModelsParams, _context: CommandContext) -> ListModelsResult:
    """Return the installed models that the owner shows.

    Raises:
        OllamaUnavailable: a fresh list was wanted, and nothing answers.
    """
    snapshot = await services.catalog.refresh() if params.refresh else services.catalog.snapshot
    if params.refresh and not snapshot.state.reachable:
        raise OllamaUnavailable(
            snapshot.state.error or "Ollama does not answer; start it, or ask with refresh: false."
        )
    return ListModelsResult(
        models=services.policy.visible(snapshot.models),
        list_digest=snapshot.list_digest,
        ollama=snapshot.state,
    )
