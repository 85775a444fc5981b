"""``benchmark_status``: a job's state, progress and whatever results exist; also after a restart."""

from __future__ import annotations

from obt_agent.command import AnyCommand, Command, CommandContext
from obt_agent.jobs import JobService
from obt_agent.protocol.commands import BenchmarkStatusParams, BenchmarkStatusResult


def make(jobs: JobService) -> AnyCommand:
    """The command."""

    async def run(params: BenchmarkStatusParams, _context: CommandContext) -> BenchmarkStatusResult:
        return await jobs.status(params.job_id, include_result=params.include_result)

    return Command(method="benchmark_status", params=BenchmarkStatusParams, run=run)
