"""``create_model``: a job that makes a model from another one. No file of the host can be named."""

from __future__ import annotations

from obt_agent.command import CommandContext
from obt_agent.handlers.services import Services
from obt_agent.protocol.commands import CreateModelParams
from obt_agent.protocol.jobs import JobStarted


async def run(services: Services, params: CreateModelParams, context: CommandContext) -> JobStarted:
    """Both names must be allowed; a source that is not installed would be fetched by Ollama."""
    services.policy.check_fields(context.params)
    services.policy.check_template(params.template)
    installed = await services.gate.admit(params.from_)
    services.policy.check_model(params.model, installed)
    # Ollama pulls a source that it lacks: then the rules of a pull count, too.
    if services.policy.find_model(params.from_, installed) is None:
        services.policy.check_command("pull_model")
        services.policy.check_source(params.from_, installed)
    return await services.jobs.start_create(params)
