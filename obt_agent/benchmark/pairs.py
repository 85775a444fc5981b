"""Two plans in turns on one machine, so that what drifts hits both sides alike. Pure.

Each pair is one run of either side, in random order, each of one iteration after a warm-up of its own; a load
of the model falls into the warm-up. ``compare.compare_pairs`` gives the interval of the pairs' ratios.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from obt_agent.benchmark import flags, report
from obt_agent.benchmark.expansion import expand
from obt_agent.benchmark.plan import Plan
from obt_agent.benchmark.report import RunOutcome, RunRecords
from obt_agent.benchmark.result import BenchmarkResult, BenchmarkWarning, SamplerReport


def single(plan: Plan) -> Plan:
    """The plan for one turn: one warm-up, one iteration, no cold load."""
    return msgspec.structs.replace(
        plan, num_iterations=1, max_iterations=None, warmup_iterations=1, cold_load=False
    )


def turns(pairs: int, source: random.Random) -> list[int]:
    """Whose turn it is, 0 or 1: each pair holds both, in random order."""
    # Random within each pair, so that a drift of the machine favours neither side.
    return [side for _ in range(pairs) for side in source.sample((0, 1), 2)]


def merged(runs: Sequence[BenchmarkResult]) -> BenchmarkResult:
    """One side's runs as one result; its plan is that of one turn. The live series are left out."""
    first, last = runs[0], runs[-1]
    metrics = [one for run in runs for one in run.metrics]
    records = RunRecords(
        job_id=first.id,
        client_id=first.client_id,
        plan=first.config,
        cells=expand(first.config),
        start_time=first.start_time,
        end_time=last.end_time,
        environment=last.environment,
        # Flags that compare an iteration with others are worked out anew.
        metrics=[msgspec.structs.replace(one, index=index) for index, one in enumerate(metrics)],
        warmups=[one for run in runs for one in run.warmups],
        cold_load=None,
        stops={},
        warnings=_warnings(runs),
        sampler=_sampler(runs),
        samples=(),
        samples_dropped=sum(len(run.samples) + run.samples_dropped for run in runs),
        resumed=0,
        hardware=last.hardware,
    )
    whole = report.assemble(records, RunOutcome(last.status))
    return msgspec.structs.replace(whole, error=last.error, error_kind=last.error_kind)


def _warnings(runs: Sequence[BenchmarkResult]) -> list[BenchmarkWarning]:
    """The runs' warnings that speak of no iteration, each once."""
    found = {
        (one.code, one.cell): one
        for run in runs
        for one in run.warnings
        if one.code not in flags.ADVICE and not one.iterations
    }
    return list(found.values())


def _sampler(runs: Sequence[BenchmarkResult]) -> SamplerReport | None:
    known = [run.sampler for run in runs if run.sampler is not None]
    if not known:
        return None
    return SamplerReport(
        interval_ms=known[0].interval_ms,
        samples=sum(one.samples for one in known),
        missed=sum(one.missed for one in known),
    )
