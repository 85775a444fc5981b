"""The fields of OBT's own models: names, types and which are required. Facts of its public API, written anew.

A server of OBT validates what a client registers, and a result, by these rules, and answers 422 to the rest.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field


class AcceptedCpu(BaseModel):
    name: str
    architecture: str
    base_clock: float
    boost_clock: float | None = None
    cores: int
    threads: int
    core_types: dict[str, Any] | None = None
    features: list[str] = []


class AcceptedGpu(BaseModel):
    name: str
    vram_size: int
    vram_type: str
    tensor_cores: int | None = None
    cuda_cores: int | None = None
    compute_capability: str | None = None
    pcie_gen: int | None = None
    pcie_width: str | None = None
    index: int


class AcceptedRamModule(BaseModel):
    size: int
    speed: int
    location: str
    type: str


class AcceptedRam(BaseModel):
    speed: int
    type: str
    channels: int
    modules: list[AcceptedRamModule] = []


class AcceptedNpu(BaseModel):
    name: str | None = None
    compute_power: float | None = None
    precision_support: list[str] | None = None
    dedicated: bool | None = None


class AcceptedFirmware(BaseModel):
    bios_version: str
    bios_vendor: str
    bios_release_date: str
    cpu_microcode: str
    os_name: str
    os_version: str
    os_kernel: str
    ollama_version: str


class AcceptedHardware(BaseModel):
    cpu: AcceptedCpu
    gpus: list[AcceptedGpu] = []
    ram: AcceptedRam
    npu: AcceptedNpu | None = None
    total_memory: int
    firmware: AcceptedFirmware


class AcceptedModel(BaseModel):
    """One of a client's list; ``modified`` in Unix seconds."""

    name: str
    tags: list[str] = []
    size: int = 0
    modified: float = 0.0
    version: str = "unknown"
    digest: str = ""


class AcceptedResultGpu(BaseModel):
    id: int
    name: str
    memory_total: int
    memory_free: int
    utilization: float


class AcceptedResultHardware(BaseModel):
    cpu_model: str
    cpu_cores: int
    cpu_threads: int
    ram_total: int
    gpus: list[AcceptedResultGpu] = []


class AcceptedSelection(BaseModel):
    use_gpu: bool = True
    gpu_id: int | None = None


class AcceptedSuitePrompt(BaseModel):
    suite_name: str
    prompt_name: str
    completion_tokens: int = Field(100, ge=1)


class AcceptedOwnPrompt(BaseModel):
    prompt: str
    completion_tokens: int = Field(100, ge=1)


class AcceptedBenchmarkConfig(BaseModel):
    model_name: str
    prompt_config: AcceptedSuitePrompt | AcceptedOwnPrompt
    num_iterations: int = Field(3, ge=1)
    temperature: float = Field(0.7, ge=0, le=1)
    top_p: float = Field(1.0, ge=0, le=1)
    top_k: int = Field(40, ge=0)
    repeat_penalty: float = Field(1.1, ge=0)
    hardware: AcceptedSelection = AcceptedSelection()


class AcceptedMetrics(BaseModel):
    tokens_per_second: float
    first_token_ms: float
    average_token_ms: float
    total_duration_ms: float
    memory_usage_mb: float
    gpu_memory_usage_mb: float | None = None
    cpu_usage_percent: float
    gpu_usage_percent: float | None = None
    cpu_temperature: float | None = None
    gpu_temperature: float | None = None
    power_usage_watts: float | None = None
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AcceptedResult(BaseModel):
    id: str
    client_id: str
    config: AcceptedBenchmarkConfig
    hardware_info: AcceptedResultHardware
    metrics: list[AcceptedMetrics]
    start_time: datetime
    end_time: datetime
    status: str = "completed"
    error: str | None = None
