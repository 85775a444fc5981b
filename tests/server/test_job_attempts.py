"""One job on one machine, as rollouts and campaigns carry it out."""

from __future__ import annotations

import asyncio
from typing import Any

from obt_agent.protocol.envelope import Request
from obt_agent.protocol.jobs import JobStarted
from obt_server.machine_jobs.attempt import JobAttempt, JobRequest
from obt_server.machine_jobs.settings import MachineJobSettings
from tests.server.agent_double import AgentDouble, Answer, Handler, uuid7
from tests.server.conftest import Running
from tests.server.job_steps import finish

LOOKS = 5


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
