"""Results made by hand."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from obt_agent.benchmark import report
from obt_agent.benchmark.environment import Environment
from obt_agent.benchmark.expansion import expand
from obt_agent.benchmark.plan import Plan, plan_hash
from obt_agent.benchmark.result import BenchmarkResult, IterationMetrics
from obt_agent.errors import AgentError
from obt_agent.hardware.inventory import CpuInfo, GpuInfo, GpuMemory, Inventory, MemoryInfo
from tests.benchmark.runs import plan

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MACHINE = Inventory(
    fingerprint="f",
    collected_at=0.0,
    cpu=CpuInfo(model="A CPU", physical_cores=8, logical_cores=16),
    memory=MemoryInfo(total_bytes=64 << 30),
    gpus=(
        GpuInfo(
            id="GPU-1",
            vendor="nvidia",
            provider="nvidia",
            name="A GPU",
            memory=GpuMemory(total_bytes=24 << 30),
        ),
    ),
)


def iteration(index: int = 0, speed: float | None = 100.0, **fields: Any) -> IterationMetrics:
    usual: dict[str, Any] = {
        "index": index,
        "cell": 0,
        "started_at": START,
        "prompt_sha256": "0" * 64,
        "cache_state": "bust",
        "tokens_per_second": None if speed is None else speed * 12 / 11,
        "decode_tps_corrected": speed,
        "first_token_ms": 50.0,
        "latency_ms": 50.0,
        "average_token_ms": None if speed is None else 1000 / speed,
        "prefill_tps": 1000.0,
        "total_duration_ms": 2000.0,
        "load_ms": 2.0,
        "unaccounted_ms": 1.0,
        "prompt_tokens": 40,
        "completion_tokens": 12,
        "total_tokens": 52,
        "chunks": 12,
        "num_ctx": 4096,
    }
    return IterationMetrics(**{**usual, **fields})


def environment(of: Plan, **fields: Any) -> Environment:
    usual: dict[str, Any] = {
        "plan_hash": plan_hash(of),
        "agent_version": "1",
        "ollama_version": "0.33.0",
        "model": "m:latest",
        "model_digest": "d1",
        "quantization": "Q4_K_M",
        "gpu": ("A GPU",),
        "gpu_offload_ratio": 1.0,
    }
    return Environment(**{**usual, **fields})


def result(
    *metrics: IterationMetrics,
    of: Plan | None = None,
    status: str = "completed",
    error: AgentError | None = None,
    records: dict[str, Any] | None = None,
    **about: Any,
) -> BenchmarkResult:
    of = of or plan()
    fields: dict[str, Any] = {
        "id": "j",
        "benchmark_id": "j",
        "client_id": "c",
        "config": of,
        "status": status,
        "error": None if error is None else error.message,
        "error_kind": None if error is None else error.kind,
        "start_time": START,
        "end_time": START,
        "environment": environment(of, **about),
        "metrics": metrics,
        "hardware": MACHINE,
    }
    more = dict(records or {})
    # How cells ended is passed beside the records.
    stops = more.pop("stops", {})
    return report.assemble(BenchmarkResult(**{**fields, **more}), expand(of), stops)


def speeds(*values: float, **more: Any) -> BenchmarkResult:
    """A result with these decode speeds."""
    return result(*(iteration(n, value) for n, value in enumerate(values)), **more)


def as_json(one: msgspec.Struct) -> Any:
    return msgspec.json.decode(msgspec.json.encode(one))
