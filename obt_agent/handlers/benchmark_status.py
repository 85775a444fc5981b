"""``benchmark_status``: a job's state, progress and whatever results exist; also after a restart."""

from __future__ import annotations

from obt_agent.command import CommandContext
from obt_agent.handlers.services import Services
from obt_agent.protocol.commands import BenchmarkStatusParams, BenchmarkStatusResult


async def run(
    services: Services, params: BenchmarkStatusParams, _context: CommandContext
) -> BenchmarkStatusResult:
    return await services.jobs.status(params.job_id, include_result=params.include_result)
