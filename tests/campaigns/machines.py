"""Machines whose agents are doubles that measure: they count their benchmarks, and end them as scripted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from obt_agent.benchmark.plan import Plan, plan_hash
from obt_agent.errors import AgentError
from obt_agent.protocol.envelope import Request
from obt_agent.protocol.errors import to_wire
from obt_agent.protocol.jobs import JobProgress, JobProgressParams, JobStarted
from obt_server.campaigns import CampaignSettings
from tests.rollouts.machines import Machine, connected, model
from tests.server.agent_double import AgentDouble, Answer, Handler
from tests.server.conftest import Running
from tests.server.job_steps import finish
from tests.waiting import until

__all__ = ["connected"]
QUICK = CampaignSettings(
    offline_grace_s=0.0, poll_s=0.5, start_again_s=1.0, busy_retry_s=(0.01, 0.1), quiet_check_s=0.5
)
"""Short pauses, for what no event announces."""
MODELS = ["small:latest", "large:latest"]
PLANS = [
    {"plan": {"num_iterations": 3, "prompts": [{"prompt_tokens": 64, "completion_tokens": 8}]}, "label": "A"},
    {"plan": {"num_iterations": 4, "prompts": [{"prompt_tokens": 64, "completion_tokens": 8}]}, "label": "B"},
]


def result(job_id: str, plan: dict[str, Any], speed: float, flags: tuple[str, ...] = ()) -> str:
    """A benchmark's result, as far as a server reads it."""
    summary = {
        "n": 3,
        "mean": speed,
        "median": speed,
        "stddev": 1.0,
        "cv": 0.01,
        "min": speed - 1,
        "max": speed + 1,
        "ci_low": speed - 2,
        "ci_high": speed + 2,
        "confidence": 0.95,
    }
    return json.dumps(
        {
            "id": job_id,
            "status": "completed",
            "start_time": "2030-01-01T00:00:00+00:00",
            "end_time": "2030-01-01T00:01:40+00:00",
            "environment": {
                "model": plan["model_name"],
                "model_digest": "d" * 64,
                "plan_hash": plan_hash(msgspec.convert(plan, Plan)),
            },
            "cells": [{"index": 0, "label": "A", "summary": {"decode_tps_corrected": summary}}],
            "metrics": [{"flags": list(flags)}],
            "warnings": [],
        }
    )


@dataclass
class MeasuringMachine(Machine):
    """A machine that measures, as well as it pulls."""

    speed: float = 50.0
    flags: tuple[str, ...] = ()
    benchmarks: list[dict[str, Any]] = field(default_factory=list)
    """Benchmarks that were begun here, in their order: ``{job_id, plan, not_after}``."""
    measures: bool = True
    """Whether a benchmark ends by itself."""
    broken: AgentError | None = None
    """What benchmarks end with."""
    busy: AgentError | None = None
    """What starts of benchmarks are answered with."""
    at_once_most: int = 0
    """The most benchmarks that were open at a time."""

    def handlers(self) -> dict[str, Handler]:
        return super().handlers() | {"run_benchmark": self._run}

    async def _run(self, agent: AgentDouble, request: Request) -> Answer:
        params = msgspec.json.decode(request.params)
        self.asked.append((request.method, params))
        if self.busy is not None:
            return self.busy
        job_id = params["job_id"]
        if job_id not in self.jobs:
            self.started[job_id] += 1
            self.jobs[job_id] = "running"
            self.benchmarks.append(params)
            self.at_once_most = max(self.at_once_most, len(self.open_benchmarks()))
            if self.measures:
                work = asyncio.create_task(self.finish_benchmark(job_id), name="benchmark of a double")
                agent._tasks.add(work)  # noqa: SLF001 - ended with the double
        return JobStarted(job_id=job_id, state="running")

    def open_benchmarks(self) -> list[str]:
        return [one["job_id"] for one in self.benchmarks if self.jobs[one["job_id"]] == "running"]

    async def finish_benchmark(self, job_id: str | None = None, **more: Any) -> None:
        """The benchmark ends as scripted; the only open one when none is named."""
        if job_id is None:
            (job_id,) = self.open_benchmarks()
        (plan,) = (one["plan"] for one in self.benchmarks if one["job_id"] == job_id)
        fields: dict[str, Any] = {"state": "completed"}
        text = result(job_id, plan, self.speed, self.flags)
        if self.broken is not None:
            fields, text = {"state": "failed", "error": to_wire(self.broken)}, "{}"
        self.jobs[job_id] = "finished"
        await finish(self.link, job_id, text, **(fields | more))
        self.jobs[job_id] = "acknowledged"

    async def until_measuring(self) -> None:
        """Wait until a benchmark is open here."""
        await until(self.open_benchmarks)

    async def say_iteration(self, iteration: int, planned: int) -> None:
        """Progress of the only open benchmark."""
        (job_id,) = self.open_benchmarks()
        progress = JobProgress(phase="iteration", iteration=iteration, iterations_planned=planned)
        await self.link.notify(
            "job.progress", JobProgressParams(job_id=job_id, state="running", progress=progress)
        )


async def measuring(server: Running, count: int, **fields: Any) -> list[MeasuringMachine]:
    """So many enrolled machines that have the models, none connected yet."""
    return [
        MeasuringMachine(
            f"m{number}",
            await server.enrol(f"m{number}"),
            **({"models": {name: model(name) for name in MODELS}} | fields),
        )
        for number in range(count)
    ]


def body(**fields: Any) -> dict[str, Any]:
    """Two models and two plans on all machines, unless the fields say otherwise."""
    return {"plans": PLANS, "models": MODELS, "targets": {"all": True}} | fields


async def begin(server: Running, **fields: Any) -> dict[str, Any]:
    answer = await server.http.post("/api/v1/campaigns", json=body(**fields))
    assert answer.status_code in (200, 201), answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def post(server: Running, path: str, **fields: Any) -> dict[str, Any]:
    answer = await server.http.post(f"/api/v1/campaigns/{path}", json=fields)
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def shown(server: Running, campaign_id: str) -> dict[str, Any]:
    answer = await server.http.get(f"/api/v1/campaigns/{campaign_id}")
    assert answer.status_code == 200, answer.text
    view: dict[str, Any] = answer.json()
    return view


async def until_shown(
    server: Running, campaign_id: str, ready: Callable[[dict[str, Any]], object]
) -> dict[str, Any]:
    """Wait until the campaign is shown so; return it."""
    last: dict[str, Any] = {}

    async def there() -> object:
        last.update(await shown(server, campaign_id))
        return ready(last)

    await until(there, lambda: json.dumps(last, indent=1))
    return last


async def until_over(server: Running, campaign_id: str) -> dict[str, Any]:
    return await until_shown(server, campaign_id, lambda view: view["state"] != "running")


def states(view: dict[str, Any]) -> list[str]:
    """Of all cells, in their order."""
    return [cell["state"] for cell in view["cells"]]


def only(view: dict[str, Any]) -> dict[str, Any]:
    (cell,) = view["cells"]
    found: dict[str, Any] = cell
    return found


ONE = {"plans": PLANS[:1], "models": MODELS[:1]}
"""One cell a machine."""
