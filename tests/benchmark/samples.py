"""Samples of a machine, made by hand."""

from typing import Any

from obt_agent.hardware.samples import CpuSample, GpuClocks, GpuSample, MemorySample, OllamaProcess, Sample

GIB = 1 << 30
SECOND = 10**9


def gpu(**fields: Any) -> GpuSample:
    usual: dict[str, Any] = {
        "id": "GPU-1",
        "state": "ok",
        "utilization_ratio": 0.9,
        "memory_used_bytes": 8 * GIB,
        "power_watts": 300.0,
        "temperature_celsius": 60.0,
        "clocks": GpuClocks(sm_hertz=2_000_000_000),
        "throttle_reasons": (),
    }
    return GpuSample(**{**usual, **fields})


def sample(at_s: float, *gpus: GpuSample, cpu: float | None = 0.5, **fields: Any) -> Sample:
    usual: dict[str, Any] = {
        "cpu": CpuSample(utilization_ratio=cpu, temperature_celsius=50.0),
        "memory": MemorySample(used_bytes=4 * GIB),
        "gpus": gpus,
        "ollama": (
            OllamaProcess(pid=9, role="server", rss_bytes=0),
            OllamaProcess(pid=10, role="runner", server_pid=9, cpu_ratio=1.5, rss_bytes=GIB),
        ),
    }
    return Sample(t_wall=at_s, t_mono_ns=round(at_s * SECOND), **{**usual, **fields})
