"""Real processes and SIGKILL: agent or server is killed at each step of a job, and is started again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import yaml

from obt_agent.identity.secret import Secret
from obt_agent.identity.state_dir import StateDir
from obt_agent.jobs.store.database import JobDatabase
from obt_server import app as application
from obt_server.client import ApiError, Client
from obt_server.storage import Enrolment
from obt_standin import StandIn
from obt_standin.script import Script
from tests.faults.environment import MODEL, Ledger, ledger, store_result
from tests.ports import free_port
from tests.server.enrolling import enrol
from tests.waiting import until

PATIENCE_S = 240.0
RESULT_BYTES = 60_000
AGENT_STEPS = ("accept", "queue", "start", "add_record", "finish", "acknowledge")
SERVER_STEPS = ("create_job", "change_job", "store_part", "finish_job")
JOB = "once"
ITERATIONS = 2


@dataclass(frozen=True)
class Kill:
    """Who dies, and before or after which commit."""

    program: str
    step: str
    when: str

    @property
    def title(self) -> str:
        """For a person."""
        return f"of the {self.program} {self.when} {self.step}"


KILLS = tuple(
    Kill(program, step, when)
    for program, steps in (("agent", AGENT_STEPS), ("server", SERVER_STEPS))
    for step in steps
    for when in ("before", "after")
)


class Supervised:
    """A program that is started again as systemd does it; at its first start it kills itself."""

    def __init__(self, program: str, arguments: list[str], kill: Kill, log: Path) -> None:
        self.deaths = 0
        self._module = [f"obt_{program}"]
        self._first = self._module
        if kill.program == program:
            self._first = ["tests.faults.kill_at_step", program, kill.step, kill.when]
        self._arguments = arguments
        self._log = log

    async def run(self) -> None:
        """Until cancelled."""
        module = self._first
        while True:
            with self._log.open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", *module, *self._arguments, stdout=log, stderr=log, env=_environ()
                )
            try:
                status = await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            if status != -signal.SIGKILL:
                raise AssertionError(f"{module[0]} ended with {status}:\n{self._log.read_text()[-2000:]}")
            self.deaths += 1
            module = self._module


def _environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("OBT_", "OLLAMA"))}


async def run_kill(kill: Kill, folder: Path) -> tuple[Ledger, list[str]]:
    """One kill; the jobs' ledger, and what is not as it must be."""
    database = folder / "server.sqlite3"
    problems: list[str] = []
    jobs = {JOB}
    try:
        async with asyncio.timeout(PATIENCE_S), StandIn(Script(tokens=8)) as standin:
            url = f"http://127.0.0.1:{free_port()}"
            token, agent_id, config = await _prepare(folder, url, standin.url)
            jobs.add(await store_result(folder / "state", RESULT_BYTES))
            server_arguments = ["run", "--database", str(database), "--port", url.rsplit(":", 1)[1]]
            agent_arguments = ["run", "--config", str(config)]
            server = Supervised("server", server_arguments, kill, folder / "server.log")
            agent = Supervised("agent", agent_arguments, kill, folder / "agent.log")
            async with _running(server, agent), Client(url, token) as client:
                await _start(client, agent_id)
                # The agent may wait for a minute before it dials again, where the server starts slowly.
                await until(lambda: ledger(database, jobs).lost == 0, within_s=PATIENCE_S)
                await until(lambda: _nothing_waits(folder / "state"), within_s=PATIENCE_S)
            if server.deaths + agent.deaths != 1:
                problems.append(f"{server.deaths + agent.deaths} deaths, and 1 was meant")
    except* TimeoutError:
        problems.append(f"not settled after {PATIENCE_S:g} s")
    except* AssertionError as group:
        problems += [str(error) for error in group.exceptions]
    counted = ledger(database, jobs)
    if counted.lost or counted.duplicates:
        problems.append(f"{counted.lost} lost, {counted.duplicates} twice")
    elif (measured := _measured(database)) != ITERATIONS:
        problems.append(f"the result has {measured} iterations, and {ITERATIONS} were measured")
    return counted, problems


def _measured(database: Path) -> int:
    """Return how many iterations the benchmark's result has: none lost with a death, none doubled."""
    with contextlib.closing(sqlite3.connect(database)) as db:
        (text,) = db.execute("select text from obt_results where job_id = ? and accepted", (JOB,)).fetchone()
    return len(json.loads(text)["metrics"])


async def _prepare(folder: Path, url: str, ollama_url: str) -> tuple[str, str, Path]:
    """A database with an agent and an API token, and the agent's configuration."""
    parts = application.build(application.AppSettings(database=folder / "server.sqlite3"))
    secret = Secret.new()
    with StateDir.open(folder / "state") as state:
        agent_id = state.agent_id
    enrolment = Enrolment(agent_id=agent_id, name="box", version="1", secret_sha256=secret.sha256())
    await enrol(parts.storage, enrolment, time.time())
    await parts.operators.create_first("admin")
    token, _ = await parts.operators.new_token("admin", "tests", None)
    parts.database.close()
    token_file = folder / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(secret.reveal())
    config = folder / "agent.yaml"
    sections = {
        "server": {"url": url, "token_file": str(token_file)},
        "ollama": {"url": ollama_url, "poll_interval_s": 0.5},
        "agent": {"name": "box", "state_dir": str(folder / "state")},
        "benchmark": {"cooldown_s": 0},
    }
    config.write_text(yaml.safe_dump(sections))
    return token, agent_id, config


@contextlib.asynccontextmanager
async def _running(*programs: Supervised) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(program.run()) for program in programs]
        yield
        for task in tasks:
            task.cancel()


async def _start(client: Client, agent_id: str) -> None:
    """Ask for a benchmark, under one id, until it is accepted."""
    plan = {"model_name": MODEL, "num_iterations": ITERATIONS, "warmup_iterations": 0, "cooldown_s": 0}
    plan["prompt_config"] = {"prompt_tokens": 16, "completion_tokens": 8}
    while True:
        try:
            await client.post("/benchmarks", {"agent": agent_id, "plan": plan, "job_id": JOB})
        except (ApiError, aiohttp.ClientError, OSError):
            await asyncio.sleep(0.1)
        else:
            return


def _nothing_waits(folder: Path) -> bool:
    with contextlib.closing(JobDatabase(folder / "jobs.sqlite")) as db:
        return not db.unsettled()
