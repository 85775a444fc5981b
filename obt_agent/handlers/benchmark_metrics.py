"""``benchmark_metrics``: the live series of a running benchmark."""

from __future__ import annotations

import msgspec

from obt_agent.command import CommandContext
from obt_agent.handlers.services import Services
from obt_agent.protocol.commands import BenchmarkMetricsParams
from obt_agent.protocol.streams import SeriesFinal


async def run(services: Services, params: BenchmarkMetricsParams, context: CommandContext) -> SeriesFinal:
    """Ends with the job; watching never makes a benchmark sample faster.

    What ``after`` fills in comes complete, as fast as the server reads; the live part may replace samples.
    """
    stream = context.stream
    async for point in services.jobs.live(params.job_id, after=params.after):
        if point.behind:
            await stream.wait_writable()
        sample = msgspec.json.encode(point.sample)
        await stream.send_latest(sample, t_us=point.t_us, n=point.n, missed=point.missed)
    return SeriesFinal(stream=stream.end)
