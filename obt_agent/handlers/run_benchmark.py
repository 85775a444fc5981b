"""``run_benchmark``: store a benchmark job and say where it stands."""

from __future__ import annotations

from obt_agent.command import AnyCommand, Command, CommandContext
from obt_agent.jobs import JobService
from obt_agent.policy import Policy
from obt_agent.policy.gate import ModelGate
from obt_agent.protocol.commands import RunBenchmarkParams
from obt_agent.protocol.jobs import JobStarted


def make(jobs: JobService, policy: Policy, gate: ModelGate) -> AnyCommand:
    """The command. The plan is checked against the policy before it is stored."""

    async def run(params: RunBenchmarkParams, _context: CommandContext) -> JobStarted:
        installed = await gate.admit(params.plan.model_name)
        policy.check_plan(params.plan, installed)
        return await jobs.start_benchmark(params)

    return Command(method="run_benchmark", params=RunBenchmarkParams, run=run)
