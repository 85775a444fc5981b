"""``create_model``: a job that makes a model from another one. No file of the host can be named."""

from __future__ import annotations

from obt_agent.command import AnyCommand, Command, CommandContext
from obt_agent.jobs import JobService
from obt_agent.policy import Policy
from obt_agent.policy.gate import ModelGate, is_installed
from obt_agent.protocol.commands import CreateModelParams
from obt_agent.protocol.jobs import JobStarted


def make(jobs: JobService, policy: Policy, gate: ModelGate) -> AnyCommand:
    """The command. Both names must be allowed; a source that is not installed would be fetched by Ollama."""

    async def run(params: CreateModelParams, context: CommandContext) -> JobStarted:
        policy.check_fields(context.params)
        installed = await gate.admit(params.from_)
        policy.check_model(params.model, installed)
        if not is_installed(params.from_, installed):
            policy.check_command("pull_model")
            policy.check_source(params.from_, installed)
        return await jobs.start_create(params)

    return Command(method="create_model", params=CreateModelParams, run=run)
