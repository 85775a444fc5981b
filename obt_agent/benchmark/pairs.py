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
    # The last run says how the side ended, and what it ran on; a run that was cut short is always the last.
    records = msgspec.structs.replace(
        last,
        id=first.id,
        benchmark_id=first.id,
        start_time=first.start_time,
        # Flags that compare an iteration with others are worked out anew.
        metrics=tuple(msgspec.structs.replace(one, index=index) for index, one in enumerate(metrics)),
        warmups=tuple(one for run in runs for one in run.warmups),
        cold_load=None,
        warnings=_warnings(runs),
        sampler=_sampler(runs),
        samples=(),
        samples_dropped=sum(len(run.samples) + run.samples_dropped for run in runs),
        resumed=0,
    )
    return report.assemble(records, expand(first.config), {})


def _warnings(runs: Sequence[BenchmarkResult]) -> tuple[BenchmarkWarning, ...]:
    """The runs' warnings that speak of no iteration, each once."""
    found = {
        (one.code, one.cell): one
        for run in runs
        for one in run.warnings
        if one.code not in flags.ADVICE and not one.iterations
    }
    return tuple(found.values())


def _sampler(runs: Sequence[BenchmarkResult]) -> SamplerReport | None:
    known = [run.sampler for run in runs if run.sampler is not None]
    if not known:
        return None
    return SamplerReport(
        interval_ms=known[0].interval_ms,
        samples=sum(one.samples for one in known),
        missed=sum(one.missed for one in known),
    )
