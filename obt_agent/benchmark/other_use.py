"""Whether others used the machine while a benchmark measured, and how much. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from obt_agent.benchmark import statistics
from obt_agent.benchmark.environment import UsedMeanwhile
from obt_agent.benchmark.result import IterationMetrics

FLAG: Final = "used_meanwhile"
# All other programs together, the agent left out, use the machine from this share of its CPUs on, or from one
# whole core on where that is less: what an idle system does by itself stays below.
USED_CPU_SHARE: Final = 0.10
USED_CPU_MOST_PERCENT: Final = 100.0
# And from this share of a GPU's time on: a desktop at rest takes less.
USED_GPU_PERCENT: Final = 10.0


def used_meanwhile(one: IterationMetrics, cores: int | None) -> bool:
    """Whether others used CPUs or GPUs beyond the stated shares, or Ollama for other models.

    Args:
        one: the iteration.
        cores: the machine's logical ones; None where that is not known.
    """
    cpu, gpu = cpu_percent(one), one.gpu_others_percent
    most = min(USED_CPU_SHARE * 100 * (cores or math.inf), USED_CPU_MOST_PERCENT)
    busy = (cpu is not None and cpu > most) or (gpu is not None and gpu > USED_GPU_PERCENT)
    return busy or bool(one.other_models_used)


def cpu_percent(one: IterationMetrics) -> float | None:
    """Percent of one core that others than the model and the agent used; None where it is not known."""
    if one.cpu_others_percent is None:
        return None
    # The two are read over spans that are not quite the same.
    return max(one.cpu_others_percent - (one.cpu_agent_percent or 0.0), 0.0)


def of_iterations(metrics: Sequence[IterationMetrics]) -> UsedMeanwhile:
    """The same of a whole run, from the flags of its iterations and what they saw."""
    flagged = tuple(one.index for one in metrics if FLAG in one.flags)
    missing: dict[str, str] = {}
    shares: dict[str, Any] = {}
    for name, reading in (("cpu_others_percent", cpu_percent), ("gpu_others_percent", _gpu_percent)):
        known = [percent for one in metrics if (percent := reading(one)) is not None]
        shares |= {name: statistics.mean(known) if known else None, f"{name}_max": max(known, default=None)}
        if not known:
            reasons = (why for one in metrics if (why := one.unavailable.get(name)))
            missing[name] = next(reasons, "no sample has it")
    return UsedMeanwhile(
        used=bool(flagged),
        iterations=flagged,
        **shares,
        other_models=tuple(sorted({name for one in metrics for name in one.other_models_used})),
        unavailable=missing,
    )


def _gpu_percent(one: IterationMetrics) -> float | None:
    return one.gpu_others_percent
