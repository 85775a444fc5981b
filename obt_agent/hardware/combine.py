"""One sample out of what the kernel's files and the GPU providers gave. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from obt_agent.hardware.host.reader import HostReading
from obt_agent.hardware.provider import GpuReadings
from obt_agent.hardware.schema import GpuSample, OllamaProcess, Sample


def combine(host: HostReading, readings: Iterable[GpuReadings]) -> Sample:
    """The sample, not yet stamped with its time."""
    gpus: list[GpuSample] = []
    memory: dict[int, dict[str, int]] = {}
    gaps: dict[int, str] = {}
    for reading in readings:
        gpus.extend(reading.gpus)
        gaps.update(reading.process_gaps)
        for pid, by_gpu in reading.process_memory.items():
            memory.setdefault(pid, {}).update(by_gpu)
    return Sample(
        t_wall=0.0,
        t_mono_ns=0,
        cpu=host.cpu,
        memory=host.memory,
        pressure=host.pressure,
        disk=host.disk,
        network=host.network,
        gpus=tuple(gpus),
        ollama=tuple(_with_gpu_memory(process, memory, gaps) for process in host.ollama),
    )


def _with_gpu_memory(
    process: OllamaProcess, memory: Mapping[int, Mapping[str, int]], gaps: Mapping[int, str]
) -> OllamaProcess:
    if process.pid in gaps:
        unavailable = process.unavailable | {"gpu_memory_bytes": gaps[process.pid]}
        process = msgspec.structs.replace(process, unavailable=unavailable)
    if process.pid not in memory:
        return process
    return msgspec.structs.replace(process, gpu_memory_bytes=dict(memory[process.pid]))
