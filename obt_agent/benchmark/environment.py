"""Where and on what a benchmark's figures were taken, and what Ollama's own mean there. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec


class MetricSemantics(msgspec.Struct, frozen=True, kw_only=True):
    """What Ollama's own figures mean in this version (see ``obt_agent.benchmark.semantics``)."""

    eval_duration: Literal["from_first_token", "from_first_token_without_sampling", "unknown"]
    prompt_eval_count: Literal["whole_prompt", "uncached_part", "unknown"]
    note: str


class Environment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where and on what the figures were taken. Null with the reason in ``unavailable``."""

    plan_hash: str
    agent_version: str
    ollama_version: str | None = None
    metric_semantics: MetricSemantics | None = None
    model: str | None = None
    model_digest: str | None = None
    quantization: str | None = None
    parameter_size: str | None = None
    context_length: int | None = None
    num_parallel: int | None = None
    gpu_offload_ratio: float | None = None
    gpu: tuple[str, ...] = ()
    driver: str | None = None
    power_limit_watts: float | None = None
    cpu: str | None = None
    memory_bytes: int | None = None
    os: str | None = None
    hardware_fingerprint: str | None = None
    idle_watts: float | None = None
    idle_cpu_percent: float | None = None
    other_models_loaded: tuple[str, ...] = ()
    unavailable: dict[str, str] = {}
