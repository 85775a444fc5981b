"""``run_benchmark``: store a benchmark job and say where it stands."""

from __future__ import annotations

from obt_agent.command import CommandContext
from obt_agent.handlers.services import Services
from obt_agent.protocol.commands import RunBenchmarkParams
from obt_agent.protocol.jobs import JobStarted


async def run(services: Services, params: RunBenchmarkParams, _context: CommandContext) -> JobStarted:
    """The plan is checked against the policy before it is stored."""
    installed = await services.gate.admit(params.plan.model_name, to="completion")
    services.policy.check_plan(params.plan, installed)
    return await services.jobs.start_benchmark(params)
