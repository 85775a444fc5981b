"""The result as OBT's own ``BenchmarkResult``, for servers that know no other. Pure.

What that form cannot say is left out: flags, intervals, reasons, excluded iterations. Its required numbers
may not be null: a figure that was not measured is 0 there, and only there. A synthetic prompt is named
``synthetic-N`` of the suite ``obt-agent``. With several cells ``config`` shows the first one's prompt.

What OBT's page reads besides its server's models stands there too: the averages, ``config.client_id``, and
``timestamp`` and ``latency_ms`` of each row. A server that knows them not leaves them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from statistics import fmean
from typing import Any, Final, Literal

import msgspec

from obt_agent.benchmark import prompts
from obt_agent.benchmark.plan import Plan, PromptConfig
from obt_agent.benchmark.result import BenchmarkResult, IterationMetrics, ResourceSample, Status
from obt_agent.hardware.inventory import GpuInfo, Inventory

_MIB: Final = 1 << 20


class ObtPrompt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Either a named prompt or a text."""

    suite_name: str | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    completion_tokens: int = 100


class ObtHardwareConfig(msgspec.Struct, frozen=True, kw_only=True):
    """OBT's ``hardware`` of a configuration."""

    use_gpu: bool
    gpu_id: int | None = None


class ObtConfig(msgspec.Struct, frozen=True, kw_only=True):
    """OBT's ``BenchmarkConfig``; ``client_id`` as its page reads it."""

    client_id: str
    model_name: str
    prompt_config: ObtPrompt
    num_iterations: int
    temperature: float
    top_p: float
    top_k: int
    repeat_penalty: float
    hardware: ObtHardwareConfig


class ObtGpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU, memory in MB, utilization in percent."""

    id: int
    name: str
    memory_total: int
    memory_free: int
    utilization: float


class ObtHardware(msgspec.Struct, frozen=True, kw_only=True):
    """OBT's ``hardware_info`` of a result; ``ram_total`` in MB."""

    cpu_model: str
    cpu_cores: int
    cpu_threads: int
    ram_total: int
    gpus: tuple[ObtGpu, ...]


class ObtMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """OBT's ``BenchmarkMetrics``; ``timestamp`` in Unix seconds, ``latency_ms`` as ``first_token_ms``."""

    timestamp: float
    tokens_per_second: float
    first_token_ms: float
    latency_ms: float
    average_token_ms: float
    total_duration_ms: float
    memory_usage_mb: float
    cpu_usage_percent: float
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    gpu_memory_usage_mb: float | None = None
    gpu_usage_percent: float | None = None
    cpu_temperature: float | None = None
    gpu_temperature: float | None = None
    power_usage_watts: float | None = None


class ObtResult(msgspec.Struct, frozen=True, kw_only=True):
    """OBT's ``BenchmarkResult``. The averages are over ``metrics``; power is null where none was metered.

    A list may hold one that has not ended: it is ``running``, and has no ``end_time``.
    """

    id: str
    client_id: str
    config: ObtConfig
    hardware_info: ObtHardware
    metrics: tuple[ObtMetrics, ...]
    start_time: datetime
    end_time: datetime | None
    status: Status | Literal["running"]
    average_tokens_per_second: float
    average_latency_ms: float
    average_power_usage: float | None = None
    error: str | None = None


def to_obt(result: BenchmarkResult) -> ObtResult:
    """The result in OBT's form."""
    metrics = tuple(_metrics(one) for one in result.metrics if one.excluded is None)
    metered = [one.power_usage_watts for one in metrics if one.power_usage_watts is not None]
    return ObtResult(
        **_same(result, "id", "client_id", "start_time", "end_time", "status", "error"),
        config=obt_config(result.config, result.client_id),
        hardware_info=obt_hardware(result.hardware, result.samples),
        metrics=metrics,
        average_tokens_per_second=_mean([one.tokens_per_second for one in metrics]) or 0.0,
        average_latency_ms=_mean([one.first_token_ms for one in metrics]) or 0.0,
        average_power_usage=_mean(metered),
    )


def _mean(values: Sequence[float]) -> float | None:
    # sum() rounds otherwise since Python 3.12: the same result has the same form on each.
    return fmean(values) if values else None


def _same(source: msgspec.Struct, *names: str) -> dict[str, Any]:
    """Fields that have one name and one meaning in both forms."""
    return {name: getattr(source, name) for name in names}


def obt_config(plan: Plan, client_id: str) -> ObtConfig:
    """A plan as OBT's ``BenchmarkConfig``."""
    return ObtConfig(
        client_id=client_id,
        **_same(plan, "model_name", "num_iterations", "temperature", "top_p", "top_k", "repeat_penalty"),
        prompt_config=_prompt(plan.all_prompts[0]),
        hardware=ObtHardwareConfig(
            use_gpu=plan.hardware.use_gpu and plan.num_gpu != 0, gpu_id=plan.hardware.gpu_id
        ),
    )


def _prompt(prompt: PromptConfig) -> ObtPrompt:
    if prompt.prompt is not None:
        return ObtPrompt(prompt=prompt.prompt, completion_tokens=prompt.completion_tokens)
    return ObtPrompt(
        suite_name=prompt.suite_name or prompts.SUITE,
        prompt_name=prompt.prompt_name or f"synthetic-{prompt.prompt_tokens}",
        completion_tokens=prompt.completion_tokens,
    )


def _metrics(one: IterationMetrics) -> ObtMetrics:
    values = _same(one, *(name for name in ObtMetrics.__struct_fields__ if name != "timestamp"))
    # That form has one figure for memory: what was read, where the model's own is not known.
    values["memory_usage_mb"] = one.memory_usage_mb or one.memory_peak_mb
    values |= {"timestamp": one.started_at.timestamp(), "latency_ms": one.first_token_ms}
    # Fields without a default are OBT's required ones, which may not be null.
    required = ObtMetrics.__struct_fields__[: -len(ObtMetrics.__struct_defaults__)]
    return ObtMetrics(**values | {name: values[name] or 0 for name in required})


def obt_hardware(inventory: Inventory | None, samples: Sequence[ResourceSample] = ()) -> ObtHardware:
    """A machine as ``hardware_info`` of OBT's results."""
    here = inventory or Inventory(fingerprint="", collected_at=0.0)
    # Free memory is asked for and not known: total less what was in use at the first sample.
    used = next((one.gpu_memory_used_mb for one in samples if one.gpu_memory_used_mb), None)
    return ObtHardware(
        cpu_model=here.cpu.model or "unknown",
        cpu_cores=here.cpu.physical_cores or 0,
        cpu_threads=here.cpu.logical_cores or 0,
        ram_total=(here.memory.total_bytes or 0) // _MIB,
        gpus=tuple(
            _gpu(position, gpu, used if len(here.gpus) == 1 else None)
            for position, gpu in enumerate(here.gpus)
        ),
    )


def _gpu(position: int, gpu: GpuInfo, used_mb: float | None) -> ObtGpu:
    total = (gpu.memory.total_bytes or 0) // _MIB
    return ObtGpu(
        id=position if gpu.index is None else gpu.index,
        name=gpu.name or "unknown",
        memory_total=total,
        memory_free=0 if used_mb is None else max(total - round(used_mb), 0),
        utilization=0.0,
    )
