"""One job on one machine, as rollouts and campaigns carry it out."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from obt_agent.protocol.envelope import Request
from obt_agent.protocol.jobs import JobStarted
from obt_server.hub.storage import JobRecord
from obt_server.machine_jobs.attempt import JobAttempt, JobRequest
from obt_server.machine_jobs.settings import MachineJobSettings
from obt_server.store.postgresql import DatabaseUnavailable
from tests.server.agent_double import AgentDouble, Answer, Handler, uuid7
from tests.server.conftest import Running
from tests.server.job_steps import finish

LOOKS = 5


async def test_a_start_that_cannot_be_stored_now_is_sent_again_and_is_the_same_job(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, refusals = uuid7(), 3
    storage = server.parts.storage
    create_job = storage.create_job

    async def away(job: JobRecord) -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise DatabaseUnavailable("away", retry_after_ms=1000)
        await create_job(job)

    async def starts(_: AgentDouble, request: Request) -> Answer:
        assert msgspec.json.decode(request.params)["job_id"] == job_id
        return JobStarted(job_id=job_id, state="running")

    async def note(_: dict[str, Any]) -> None:
        pass

    monkeypatch.setattr(storage, "create_job", away)
    async with server.agent() as agent:
        agent.handlers["pull_model"] = starts
        request = JobRequest(
            agent_id=agent.agent_id,
            job_id=job_id,
            method="pull_model",
            params=lambda: {"model": "m"},
            attempt=1,
        )
        settings = MachineJobSettings(poll_s=0.01, start_again_s=3600)
        work = asyncio.create_task(JobAttempt(server.parts.hub, storage, settings, request, note).run())
        async with asyncio.timeout(60):
            await agent.until(lambda: [one.method for one in agent.requests] == ["pull_model"])
            await finish(agent, job_id, "{}", kind="pull")
            end = await work
    assert end.error is None
    assert end.job is not None
    assert (end.job.state, refusals) == ("completed", 0)


async def test_a_machine_that_takes_its_time_to_stop_is_asked_once_in_each_session(server: Running) -> None:
    asked: list[int] = []
    job_id = uuid7()

    async def starts(*_: object) -> Answer:
        return JobStarted(job_id=job_id, state="running")

    async def stops_later(agent: AgentDouble, _: Request) -> Answer:
        assert agent.hello_result is not None
        asked.append(agent.hello_result.session)
        return {"state": "cancelling"}

    handlers: dict[str, Handler] = {"pull_model": starts, "cancel": stops_later}
    looks = asyncio.Semaphore(0)

    async def note(_: dict[str, Any]) -> None:
        looks.release()
        # As often as events come that may have changed something.
        attempt.wake()

    credentials = await server.enrol()
    request = JobRequest(
        agent_id=credentials[0],
        job_id=job_id,
        method="pull_model",
        params=lambda: {"model": "m"},
        attempt=1,
    )
    parts = server.parts
    attempt = JobAttempt(parts.hub, parts.storage, MachineJobSettings(), request, note)
    async with server.agent(credentials=credentials) as agent:
        agent.handlers |= handlers
        work = asyncio.create_task(attempt.run(), name="an attempt")
        async with asyncio.timeout(60):
            await looks.acquire()
            attempt.cancel()
            for _ in range(LOOKS):
                await looks.acquire()
    async with server.agent(credentials=credentials) as agent:
        agent.handlers |= handlers
        await agent.until(lambda: agent.hello_result is not None and agent.hello_result.session in asked)
        await finish(agent, job_id, "{}", kind="pull", state="cancelled")
        async with asyncio.timeout(60):
            end = await work
    assert end.job is not None
    assert end.job.state == "cancelled"
    assert asked == [1, 2]
