"""``pull_model``: a job that downloads a model, with progress in bytes."""

from __future__ import annotations

from obt_agent.command import AnyCommand, Command, CommandContext
from obt_agent.jobs import JobService
from obt_agent.policy import Policy
from obt_agent.policy.gate import GateCatalog
from obt_agent.protocol.commands import PullModelParams
from obt_agent.protocol.jobs import JobStarted


def make(jobs: JobService, policy: Policy, catalog: GateCatalog) -> AnyCommand:
    """The command. Ollama dials the host in a model's name: its registry must be on the owner's list."""

    async def run(params: PullModelParams, context: CommandContext) -> JobStarted:
        policy.check_fields(context.params)
        policy.check_source(params.model, catalog.snapshot.models)
        return await jobs.start_pull(params)

    return Command(method="pull_model", params=PullModelParams, run=run)
