"""The server killed at every step of a job's life: what it acknowledged is there, and each result is one."""

import asyncio
import contextlib
import hashlib
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from obt_agent.protocol.jobs import JobFinishedParams, JobFinishedResult, JobPartParams, JobPartResult
from obt_server.auth import secrets
from obt_server.auth.operators import Operators
from obt_server.storage import Enrolment
from obt_server.store import Database, OperatorStore, SqlStorage
from tests.server.agent_double import AgentDouble, dial, never, uuid7
from tests.server.enrolling import enrol
from tests.server.job_steps import accept, sync_jobs
from tests.server.process import ServerProcess, server_process

pytestmark = pytest.mark.slow

TEXT = json.dumps({"metrics": list(range(9000))})
SHA256 = hashlib.sha256(TEXT.encode()).hexdigest()
HALF = len(TEXT) // 2


async def prepared(database: Path) -> tuple[str, str]:
    """A database with an agent and an operator's token; gives both secrets' owners."""
    opened = Database.sqlite(database)
    agent_id = uuid7()
    enrolment = Enrolment(agent_id=agent_id, name="pc", version="1", secret_sha256=secrets.sha256("mine"))
    await enrol(SqlStorage(opened), enrolment, time.time())
    store = OperatorStore(opened)
    await store.set_password("admin", "no hash", time.time())
    token, _ = await Operators(store).new_token("admin", "test", None)
    opened.close()
    return agent_id, token


def rows(database: Path, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(database)) as db:
        return db.execute(query).fetchall()


async def start(server: ServerProcess, token: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=30, trust_env=False) as http:
        body = {"agent": "pc", "plan": {"model_name": "a:1"}, "job_id": "once"}
        return await http.post("/api/v1/benchmarks", json=body)


async def part(agent: AgentDouble, offset: int, text: str) -> int:
    params = JobPartParams(job_id="once", offset=offset, data=text)
    return (await agent.request("job.part", params, JobPartResult)).next_offset


async def finished(agent: AgentDouble) -> JobFinishedResult:
    final = JobFinishedParams(
        job_id="once", kind="benchmark", state="completed", bytes=len(TEXT), sha256=SHA256
    )
    return await agent.request("job.finished", final, JobFinishedResult)


async def upload(agent: AgentDouble, offset: int = 0) -> None:
    """What an agent does with a finished job: parts from where the server stands, then the final."""
    while True:
        while offset < len(TEXT):
            offset = await part(agent, offset, TEXT[offset : offset + 20_000])
        answer = await finished(agent)
        if answer.resend_from is None:
            assert answer.sha256 == SHA256
            return
        offset = answer.resend_from


@pytest.mark.parametrize("step", ["sent", "accepted", "parts", "final", "acknowledged"])
async def test_a_server_killed_at_any_step_ends_with_one_result(tmp_path: Path, step: str) -> None:
    database = tmp_path / "obt.sqlite3"
    agent_id, token = await prepared(database)
    async with server_process(database) as server:
        async with dial(server.url, "mine", agent_id, name="pc") as agent:
            await agent.hello()
            await until_killed(server, agent, token, step)
        stored = rows(database, "select sha256 from obt_jobs")
        assert stored == [(SHA256 if step == "acknowledged" else None,)]
    async with server_process(database) as server, dial(server.url, "mine", agent_id, name="pc") as agent:
        agent.handlers["run_benchmark"] = accept
        await agent.hello()
        await sync_jobs(agent)
        if step == "sent":
            await agent.until(lambda: bool(agent.requests))
            assert agent.requests[0].method == "run_benchmark"
        await upload(agent, HALF if step == "parts" else 0)
        await upload(agent)
        assert [request.method for request in agent.requests].count("run_benchmark") == (step == "sent")
    assert rows(database, "select job_id, state, sha256 from obt_jobs") == [("once", "completed", SHA256)]
    assert rows(database, "select text from obt_results") == [(TEXT.encode(),)]


async def until_killed(server: ServerProcess, agent: AgentDouble, token: str, step: str) -> None:
    """Go as far as that step, and kill the server there."""
    agent.handlers["run_benchmark"] = never if step == "sent" else accept
    asked = asyncio.create_task(start(server, token))
    await agent.until(lambda: bool(agent.requests))
    if step == "sent":
        await server.kill()
        with pytest.raises(httpx.HTTPError):
            await asked
        return
    assert (await asked).status_code == 202
    if step in ("parts", "final", "acknowledged"):
        await part(agent, 0, TEXT[:HALF])
    if step in ("final", "acknowledged"):
        await part(agent, HALF, TEXT[HALF:])
    if step == "acknowledged":
        await finished(agent)
    await server.kill()


async def test_a_server_that_is_told_to_stop_says_goodbye_and_exits_0(tmp_path: Path) -> None:
    database = tmp_path / "obt.sqlite3"
    agent_id, _ = await prepared(database)
    async with server_process(database) as server, dial(server.url, "mine", agent_id, name="pc") as agent:
        await agent.hello()
        server.process.terminate()
        assert (await agent.until_closed())[0] == 4503
        assert [note.method for note in agent.notes] == ["server.drain"]
        assert await server.ended() == 0
