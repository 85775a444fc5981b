"""What scripted agents report: hardware, samples, results."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from obt_agent.ollama.payloads import InstalledModel, OllamaState
from obt_agent.protocol.admission import HeartbeatParams, LightSample
from obt_agent.protocol.jobs import JobProgress, JobProgressParams
from tests.server.agent_double import AgentDouble
from tests.server.conftest import Running
from tests.server.job_steps import finish, start

GIB = 1 << 30
GPU = {
    "id": "gpu-0",
    "vendor": "nvidia",
    "provider": "nvml",
    "name": "A big GPU",
    "memory": {"total_bytes": 24 * GIB},
    "power_limit_watts": 350,
}
LONG = "hf.co/" + "a-very-long-organisation-name/" * 3 + "model-GGUF:Q4_K_M"


def inventory(**more: Any) -> dict[str, Any]:
    known = {"fingerprint": "f1", "collected_at": 1.0, "memory": {"total_bytes": 64 * GIB}}
    return {"fingerprint": "f1", "revision": 1, "inventory": known | more}


def model(name: str, digest: str = "d", **details: Any) -> InstalledModel:
    return InstalledModel(name=name, digest=digest * 64, size_bytes=GIB, **details)


def sampled(n: int, gpu: dict[str, Any] | None = None, **more: Any) -> msgspec.Raw:
    sample: dict[str, Any] = {
        "t_wall": 1_700_000_000.0 + n,
        "t_mono_ns": n,
        "cpu": {"utilization_ratio": n / 10, "load": [1.5, 1.0, 0.5]},
        "memory": {"used_bytes": 16 * GIB, "available_bytes": 48 * GIB},
        "ollama": [{"pid": 7, "role": "runner", "cpu_ratio": 1.5, "rss_bytes": 2 * GIB}],
    }
    sample |= more
    if gpu is not None:
        sample["gpus"] = [{"id": "gpu-0", "state": "ok", **gpu}]
    return msgspec.Raw(json.dumps({"t_us": n, "n": n, "missed": 0, "sample": sample}).encode())


async def heartbeat(agent: AgentDouble, cpu: float = 0.5) -> None:
    hardware = LightSample(
        cpu_utilization_ratio=cpu,
        memory_used_bytes=16 * GIB,
        memory_available_bytes=48 * GIB,
    )
    state = OllamaState(reachable=True, version="0.9.0")
    await agent.notify("heartbeat", HeartbeatParams(ollama=state, t_mono_us=1, hardware=hardware))


async def progress(agent: AgentDouble, job_id: str, **fields: Any) -> None:
    params = JobProgressParams(job_id=job_id, state="running", progress=JobProgress(**fields))
    await agent.notify("job.progress", params)


def summary(mean: float) -> dict[str, Any]:
    return {
        "n": 3,
        "mean": mean,
        "median": mean,
        "stddev": 1.0,
        "cv": 0.02,
        "min": mean - 1,
        "max": mean + 1,
        "ci_low": mean - 2,
        "ci_high": mean + 2,
        "confidence": 0.95,
    }


def iteration(index: int, tps: float, ttft: float) -> dict[str, Any]:
    return {
        "index": index,
        "cell": 0,
        "started_at": "2026-01-01T00:00:00Z",
        "prompt_sha256": "0" * 64,
        "cache_state": "bust",
        "decode_tps_corrected": tps,
        "first_token_ms": ttft,
        "flags": ["short_output"] if index == 0 else [],
    }


def result(job_id: str, name: str, tps: float, **more: Any) -> str:
    plan_hash = more.pop("plan", "a" * 64)
    ttft = more.pop("ttft", 100 + tps)
    whole = {
        "id": job_id,
        "benchmark_id": job_id,
        "client_id": "pc",
        "status": "completed",
        "start_time": "2026-01-01T00:00:00Z",
        "end_time": "2026-01-01T00:01:00Z",
        "config": {"model_name": name},
        "environment": {
            "plan_hash": plan_hash,
            "agent_version": "1",
            "ollama_version": "0.9.0",
            "model": name,
            "model_digest": "d" * 64,
            "gpu": ["A big GPU"],
        },
        "metrics": [iteration(index, tps + index / 10, ttft + index / 10) for index in range(3)],
        "cells": [
            {
                "index": 0,
                "label": "512:128",
                "num_ctx": 4096,
                "concurrency": 1,
                "prompt_tokens_target": 512,
                "completion_tokens": 128,
                "stopping": {"reason": "fixed", "iterations": 3, "measured_s": 1.0},
                "summary": {"decode_tps_corrected": summary(tps), "first_token_ms": summary(ttft)},
            }
        ],
    }
    return json.dumps(whole | more)


async def finished(server: Running, agent: AgentDouble, name: str, tps: float, **more: Any) -> str:
    job_id = await start(server, agent)
    await finish(agent, job_id, result(job_id, name, tps, **more))
    return job_id
