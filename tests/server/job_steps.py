"""What an agent double and an operator do about jobs."""

import hashlib
import json
from typing import Any

import msgspec

from obt_agent.protocol.envelope import Request
from obt_agent.protocol.jobs import (
    JobFinishedParams,
    JobFinishedResult,
    JobPartParams,
    JobPartResult,
    JobStarted,
    JobSummary,
)
from obt_agent.protocol.state import JobsSync, Page
from tests.server.agent_double import AgentDouble, Answer
from tests.server.conftest import Running

PLAN = {"model_name": "tiny:latest", "num_iterations": 3}
RESULT = json.dumps(
    {"id": "j", "environment": {"model": "tiny:latest", "model_digest": "d2"}, "metrics": [], "note": "é"},
    ensure_ascii=False,
)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


async def accept(_: AgentDouble, request: Request) -> Answer:
    return JobStarted(job_id=msgspec.json.decode(request.params)["job_id"], state="queued", position=1)


async def start(server: Running, agent: AgentDouble, **more: Any) -> str:
    agent.handlers["run_benchmark"] = accept
    answer = await server.http.post(
        "/api/v1/benchmarks", json={"agent": agent.agent_id, "plan": PLAN, **more}
    )
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["job_id"]
    return job_id


async def finish(agent: AgentDouble, job_id: str, text: str = RESULT, **more: Any) -> JobFinishedResult:
    fields: dict[str, Any] = {
        "kind": "benchmark",
        "state": "completed",
        "bytes": len(text.encode()),
        "sha256": digest(text),
        "result": text,
    }
    final = JobFinishedParams(job_id=job_id, **{**fields, **more})
    return await agent.request("job.finished", final, JobFinishedResult)


async def part(agent: AgentDouble, job_id: str, offset: int, data: str, **more: Any) -> int:
    params = JobPartParams(job_id=job_id, offset=offset, data=data, **more)
    return (await agent.request("job.part", params, JobPartResult)).next_offset


async def view(server: Running, job_id: str) -> dict[str, Any]:
    answer = await server.http.get(f"/api/v1/benchmarks/{job_id}")
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def sync_jobs(
    agent: AgentDouble, *jobs: JobSummary, revision: int = 1, page: Page | None = None
) -> None:
    sync = JobsSync(revision=revision, page=page or Page(), store_id=agent.store_id, jobs=jobs)
    await agent.ask("jobs.sync", sync)


def summary(job_id: str, state: Any) -> JobSummary:
    return JobSummary(job_id=job_id, kind="benchmark", state=state)
