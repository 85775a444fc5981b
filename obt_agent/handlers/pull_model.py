"""``pull_model``: a job that downloads a model, with progress in bytes."""

from __future__ import annotations

from obt_agent.command import CommandContext
from obt_agent.handlers.services import Services
from obt_agent.protocol.commands import PullModelParams
from obt_agent.protocol.jobs import JobStarted


async def run(services: Services, params: PullModelParams, context: CommandContext) -> JobStarted:
    """Ollama dials the host in a model's name: its registry must be on the owner's list."""
    services.policy.check_fields(context.params)
    services.policy.check_source(params.model, services.catalog.snapshot.models)
    return await services.jobs.start_pull(params)
