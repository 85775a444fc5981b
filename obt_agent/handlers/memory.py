"""What is in memory after a model was loaded or unloaded."""

from __future__ import annotations

from collections.abc import Sequence

from obt_agent.ollama.client import OllamaClient
from obt_agent.ollama.names import canonical
from obt_agent.ollama.payloads import InstalledModel
from obt_agent.policy import Policy
from obt_agent.protocol.commands import LoadResult


async def load_result(
    ollama: OllamaClient, policy: Policy, installed: Sequence[InstalledModel], model: str, wall_ms: float
) -> LoadResult:
    """The answer: whether the model is loaded now, what else is, and how long it took by the wall clock."""
    running = (await ollama.running()).models
    # Names are compared in full: Ollama adds registry, namespace and tag that a request left out.
    wanted = canonical(model)
    return LoadResult(
        model=model,
        loaded=any(canonical(one.name) == wanted for one in running),
        wall_ms=wall_ms,
        running=policy.visible_running(running, installed),
    )
