"""Where and on what a benchmark was measured, who else was there, and what Ollama's figures mean. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from obt_agent.wire_types import Int64


class MetricSemantics(msgspec.Struct, frozen=True, kw_only=True):
    """What Ollama's own figures mean in this version."""

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
    context_length: Int64 | None = None
    num_parallel: Int64 | None = None
    gpu_offload_ratio: float | None = None
    gpu: tuple[str, ...] = ()
    driver: str | None = None
    power_limit_watts: float | None = None
    cpu: str | None = None
    memory_bytes: Int64 | None = None
    os: str | None = None
    kernel: str | None = None
    # How CPUs choose their clocks; several words where cores differ.
    cpu_governor: str | None = None
    hardware_fingerprint: str | None = None
    # Before the run, as its preflight found the machine: watts, percent, and degrees Celsius.
    idle_watts: float | None = None
    idle_cpu_percent: float | None = None
    idle_gpu_percent: float | None = None
    cpu_temperature: float | None = None
    gpu_temperature: float | None = None
    other_models_loaded: tuple[str, ...] = ()
    unavailable: dict[str, str] = {}


class SettleReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The wait for an idle machine: how long it took, and what was still missing where it was in vain."""

    waited_s: float
    reached: bool
    waiting_for: str | None = None


class UsedMeanwhile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether others used the machine while the iterations were measured.

    ``used`` says that they did, beyond the shares of ``other_use``; ``iterations`` in which. Of the CPUs the
    percentages are of one core, of all programs but the model's and the agent; of the GPUs of the time of
    one, of all programs but Ollama's: the mean of the iterations, and the highest. ``other_models`` are those
    that Ollama loaded or answered with, ``requests`` what the server sent meanwhile, by command.
    """

    used: bool
    iterations: tuple[Int64, ...] = ()
    cpu_others_percent: float | None = None
    cpu_others_percent_max: float | None = None
    gpu_others_percent: float | None = None
    gpu_others_percent_max: float | None = None
    other_models: tuple[str, ...] = ()
    requests: dict[str, Int64] = {}
    unavailable: dict[str, str] = {}
