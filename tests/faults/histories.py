"""Seeded random histories: jobs started, agents killed, connections cut, until every final is delivered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from obt_agent.errors import AgentError
from obt_agent.identity.secret import Secret
from obt_agent.identity.state_dir import StateDir
from obt_agent.jobs.worker import MAX_STARTS
from obt_agent.protocol.jobs import TERMINAL_STATES, JobStarted
from obt_server.app import Server
from obt_server.storage import Enrolment
from tests.faults.agent import Site
from tests.faults.agent_core import AgentCore, Killed, KillPoint
from tests.faults.environment import Ledger, serving
from tests.faults.gate import Gate
from tests.faults.measuring import RECORDS
from tests.faults.timing import SHORT
from tests.server.enrolling import enrol
from tests.waiting import until

KILLED_RUNS = 4
COMMITS = 24
CUT_WITHIN = {"up": 40_000, "down": 2_500}
"""Bytes to the next cut: results go up, answers come down."""
RUN_S = 0.25
"""A run that reaches no kill point is ended after so long."""
PATIENCE_S = 60.0

TIMING = replace(SHORT, hub=replace(SHORT.hub, probe_s=0.2))


@dataclass
class History:
    """One of them, and what it came to."""

    seed: int
    deaths: int = 0
    cuts: int = 0
    ledger: Ledger = field(default_factory=lambda: Ledger(0, 0, 0))
    problems: list[str] = field(default_factory=list)


@dataclass
class Ground:
    """The server and the gate that histories share; each has an agent of its own."""

    folder: Path
    server: Server
    gate: Gate

    async def site(self, name: str) -> tuple[str, Site]:
        """A new, enrolled agent: its id and its place."""
        secret = Secret.new()
        with StateDir.open(self.folder / name) as state:
            agent_id = state.agent_id
        enrolment = Enrolment(agent_id=agent_id, name=name, version="1", secret_sha256=secret.sha256())
        await enrol(self.server.storage, enrolment, time.time())
        url = f"http://127.0.0.1:{self.gate.port}"
        return agent_id, Site(self.folder / name, url, "http://127.0.0.1:1", secret.reveal())


@contextlib.asynccontextmanager
async def ground() -> AsyncIterator[Ground]:
    """Start it."""
    asyncio.get_running_loop().set_exception_handler(_without_killed)
    with tempfile.TemporaryDirectory(prefix="obt-histories-") as name:
        folder = Path(name)
        async with serving(folder, TIMING, None) as (server, port), Gate(port) as gate:
            yield Ground(folder, server, gate)


def _without_killed(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """What the tasks of a killed agent ended with says nothing."""
    error = context.get("exception")
    while isinstance(error, BaseException):
        if isinstance(error, Killed):
            return
        error = error.__context__
    loop.default_exception_handler(context)


async def run_history(here: Ground, seed: int) -> History:
    """One history; what is wrong is noted, never raised."""
    history = History(seed)
    chance = random.Random(seed)
    agent_id, site = await here.site(f"agent-{seed}")
    jobs = [f"job-{seed}-{number}" for number in range(chance.randint(1, 3))]
    try:
        async with asyncio.timeout(PATIENCE_S):
            starts = asyncio.create_task(_start(here.server, agent_id, jobs), name="starts")
            for _ in range(chance.randint(1, KILLED_RUNS)):
                kill_point = KillPoint(chance.randint(1, COMMITS), before=chance.random() < 0.5)
                await _run_until_killed(here, site, kill_point, chance, history)
            await _run_to_the_end(here, site, agent_id, starts, jobs)
    except TimeoutError:
        history.problems.append(f"not settled after {PATIENCE_S:g} s")
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to this seed
        history.problems.append(repr(error))
    here.gate.heal()
    _check(here, agent_id, jobs, history)
    return history


async def _start(server: Server, agent_id: str, jobs: list[str]) -> None:
    """As a caller does who wants a job: with the same id until it is accepted."""
    for job_id in jobs:
        await _started(server, agent_id, job_id)


async def _started(server: Server, agent_id: str, job_id: str) -> JobStarted:
    while True:
        await until(lambda: agent_id in server.hub.online())
        with contextlib.suppress(AgentError):
            params = {"job_id": job_id, "plan": {"model_name": "a"}}
            return await server.hub.start_job(agent_id, "run_benchmark", params)
        await asyncio.sleep(0)


async def _run_until_killed(
    here: Ground, site: Site, kill_point: KillPoint, chance: random.Random, history: History
) -> None:
    """One run, ended by its kill point, else when it has been long enough; connections are cut meanwhile."""
    core = asyncio.create_task(AgentCore(site, kill_point).run(), name="core")
    cutting = asyncio.create_task(_cut(here.gate, chance, history), name="cuts")
    reached = asyncio.create_task(kill_point.reached.wait(), name="kill point")
    try:
        await asyncio.wait([reached, core], timeout=RUN_S, return_when=asyncio.FIRST_COMPLETED)
        history.deaths += 1
    finally:
        for task in (reached, cutting):
            task.cancel()
        await _end(here.gate, core, kill_point)


async def _cut(gate: Gate, chance: random.Random, history: History) -> None:
    for _ in range(chance.randint(0, 3)):
        name = chance.choice(("up", "down"))
        lane = gate.up if name == "up" else gate.down
        lane.cut_after = lane.passed + chance.randint(1, CUT_WITHIN[name])
        await until(lambda lane=lane: lane.cut_after is None)  # type: ignore[misc]  # bound at once
        history.cuts += 1


async def _end(gate: Gate, core: asyncio.Task[None], kill_point: KillPoint) -> None:
    """The process is gone: first its connections, then everything that runs in it."""
    await gate.cut()
    core.cancel()
    kill_point.finish()
    (ended,) = await asyncio.gather(core, return_exceptions=True)
    gate.heal()
    if isinstance(ended, BaseExceptionGroup):
        ended = ended.split((Killed, asyncio.CancelledError))[1]
    if ended is not None and not isinstance(ended, Killed | asyncio.CancelledError):
        raise ended


async def _repeat_late(server: Server, agent_id: str, jobs: list[str]) -> None:
    """A caller that never heard of the start asks again when all is over: it starts nothing."""
    for job_id in jobs:
        started = await _started(server, agent_id, job_id)
        assert started.state in TERMINAL_STATES, f"a late repeat of {job_id} made it {started.state}"


async def _run_to_the_end(
    here: Ground, site: Site, agent_id: str, starts: asyncio.Task[None], jobs: list[str]
) -> None:
    """Nothing is killed any more: every job that was started must come to its end."""
    kill_point = KillPoint(None, before=True)
    core = AgentCore(site, kill_point)
    running = asyncio.create_task(core.run(), name="last run")
    try:
        await asyncio.wait([starts, running], return_when=asyncio.FIRST_COMPLETED)
        await until(lambda: running.done() or _finals(here, jobs) >= len(jobs))
        await core.settled()
        await _repeat_late(here.server, agent_id, jobs)
        await core.settled()
    finally:
        starts.cancel()
        await asyncio.gather(starts, return_exceptions=True)
        await _end(here.gate, running, kill_point)


def _finals(here: Ground, jobs: list[str]) -> int:
    marks = ",".join("?" * len(jobs))
    with contextlib.closing(sqlite3.connect(here.folder / "server.sqlite3")) as db:
        query = f"select count(*) from obt_jobs where sha256 is not null and job_id in ({marks})"  # noqa: S608 - marks
        return int(db.execute(query, jobs).fetchone()[0])


def _check(here: Ground, agent_id: str, jobs: list[str], history: History) -> None:
    """Every job has one final of three records, and there is none besides.

    A job that was running at three deaths is given up, and its final says so.
    """
    with contextlib.closing(sqlite3.connect(here.folder / "server.sqlite3")) as db:
        query = "select job_id, accepted, text from obt_results where agent_id = ?"
        rows = db.execute(query, (agent_id,)).fetchall()
    accepted = {job_id: text for job_id, good, text in rows if good}
    history.ledger = Ledger(len(jobs), len(accepted), len(rows) - len(accepted))
    history.problems += [f"{job_id} is lost" for job_id in jobs if job_id not in accepted]
    history.problems += [f"{job_id} was never asked for" for job_id in accepted if job_id not in jobs]
    if history.ledger.duplicates:
        history.problems.append(f"{history.ledger.duplicates} results twice")
    wanted = [str(number) for number in range(RECORDS)]
    for job_id, text in accepted.items():
        result = json.loads(text)
        given_up = result.get("starts", 0) >= MAX_STARTS
        if not given_up and result.get("records") != wanted:
            history.problems.append(f"{job_id}: {text[:200]!r}")


async def run_histories(count: int, seed: int) -> AsyncIterator[History]:
    """So many, from this seed on."""
    async with ground() as here:
        for number in range(count):
            yield await run_history(here, seed + number)
