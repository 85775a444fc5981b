"""How much disk a job's result may need. Pure."""

from __future__ import annotations

from typing import Final

from obt_agent.benchmark.expansion import budget
from obt_agent.benchmark.live import KEPT
from obt_agent.benchmark.plan import Plan

# A pull or a create has a result of a few hundred bytes; with room in SQLite's log.
TRANSFER_BYTES: Final = 64 << 10

_BASE_BYTES: Final = 128 << 10
# A record and its place in the result, each of about 4 KiB, and both once more in SQLite's log.
_ITERATION_BYTES: Final = 16 << 10
_SAMPLE_BYTES: Final = 256
_MOST_BYTES: Final = 64 << 20


def benchmark_bytes(plan: Plan) -> int:
    """Bytes to reserve for a benchmark, by its iterations and the samples of its longest run; ≤ 64 MiB."""
    cost = budget(plan)
    samples = min(KEPT, int(cost.worst_seconds * 1000 / plan.sample_interval_ms))
    need = _BASE_BYTES + cost.iterations * cost.concurrency * _ITERATION_BYTES + samples * _SAMPLE_BYTES
    return min(need, _MOST_BYTES)
