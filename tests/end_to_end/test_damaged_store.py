"""A real agent whose store of jobs is damaged on disk: before its start, and under its feet."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
from pathlib import Path

import pytest

from obt_agent.errors import AgentError
from obt_server.storage import JobFilter
from tests.end_to_end.world import AgentProcess, World
from tests.job_store import broken
from tests.waiting import until

pytestmark = pytest.mark.slow

FINISHED = 30


def store_of(agent: AgentProcess) -> Path:
    return agent.folder / "state" / "jobs.sqlite"


async def delivered(here: World) -> set[str]:
    return {job.job_id for job in await here.server.storage.jobs(JobFilter(state="completed", limit=1000))}


def problem(here: World, agent_id: str) -> str:
    presence = here.server.hub.presence(agent_id)
    return (presence and presence.heartbeat and presence.heartbeat.store_problem) or ""


async def output_of(here: World, agent: AgentProcess, command: str) -> str:
    folder = agent.folder / command
    folder.mkdir()
    program = await here.program(folder, command, "--config", str(agent.config))
    await program.ended()
    return program.log


async def test_a_store_damaged_while_the_agent_was_down_costs_only_what_cannot_be_read(here: World) -> None:
    agent = await here.enrolled("one", name="one")
    (view,) = await here.online()
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 0
    broken.filled(store_of(agent), finished=FINISHED, opened=0, acknowledged=0)
    broken.overwrite(store_of(agent), broken.page_of(store_of(agent), "done5"))
    agent = await here.start(agent.folder)
    await here.online()
    await until(lambda: problem(here, view["id"]), lambda: agent.log)
    assert "jobs.sqlite.damaged-" in problem(here, view["id"])

    async def most() -> bool:
        return len(await delivered(here)) >= FINISHED // 2

    await until(most, lambda: agent.log)
    assert "done5" not in await delivered(here)
    assert "store.damaged" in agent.log
    assert "damaged job stores were set aside" in await output_of(here, agent, "check")
    assert "The job store was damaged and set aside" in await output_of(here, agent, "status")


async def test_a_store_damaged_under_a_running_agent_is_replaced_and_its_new_id_is_told(here: World) -> None:
    agent = await here.enrolled("one", name="one")
    (view,) = await here.online()
    before = await here.server.storage.agent(view["id"])
    assert before is not None
    with contextlib.closing(sqlite3.connect(store_of(agent), isolation_level=None)) as other:
        other.execute("PRAGMA busy_timeout = 10000")
        page = other.execute("SELECT rootpage FROM sqlite_master WHERE name = 'jobs'").fetchone()[0]
        other.execute("INSERT INTO meta VALUES ('what', 'makes the agent read its file again')")
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        broken.overwrite(store_of(agent), page - 1)
        async with asyncio.timeout(60):
            with contextlib.suppress(AgentError):
                await here.server.hub.call(view["id"], "benchmark_status", {"job_id": "whichever"})

    async def new_id_known() -> bool:
        now = await here.server.storage.agent(view["id"])
        return now is not None and now.store_id != before.store_id

    await until(new_id_known, lambda: agent.log)
    assert agent.process.returncode is None
    await here.online()
    plan = {"model_name": "standin-small:latest"}
    started = await here.server.hub.start_job(view["id"], "run_benchmark", {"plan": plan})
    assert started.state == "queued"
