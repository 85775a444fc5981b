"""``list_models``: the installed models that the owner shows."""

from __future__ import annotations

from obt_agent.command import AnyCommand, Command, CommandContext
from obt_agent.errors import OllamaUnavailable
from obt_agent.policy import Policy
from obt_agent.policy.gate import GateCatalog
from obt_agent.protocol.commands import ListModelsParams, ListModelsResult


def make(catalog: GateCatalog, policy: Policy) -> AnyCommand:
    """The command.

    Raises (when it runs):
        OllamaUnavailable: a fresh list was asked for, and nothing answers.
    """

    async def run(params: ListModelsParams, _context: CommandContext) -> ListModelsResult:
        snapshot = await catalog.refresh() if params.refresh else catalog.snapshot
        if params.refresh and not snapshot.state.reachable:
            raise OllamaUnavailable(
                snapshot.state.error or "Ollama does not answer; start it, or ask with refresh: false."
            )
        return ListModelsResult(
            models=policy.visible(snapshot.models), list_digest=snapshot.list_digest, ollama=snapshot.state
        )

    return Command(method="list_models", params=ListModelsParams, run=run)
