"""One cell's world: a real server, the gate in front of it, a whole agent, and a stand-in for Ollama."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import trustme

from obt_agent.identity.secret import Secret
from obt_agent.identity.state_dir import StateDir
from obt_agent.jobs.store import JobStore
from obt_server import app as application
from obt_server.app import Server
from obt_server.serve import configure
from obt_server.storage import Enrolment
from obt_standin import StandIn
from obt_standin.script import Script
from tests.faults.agent import Agent, Site
from tests.faults.gate import Gate
from tests.faults.timing import Timing
from tests.job_store.doubles import new_job
from tests.server.enrolling import enrol

MODEL = "standin-small:latest"


@dataclass(frozen=True)
class Ledger:
    """Of the jobs that were accepted: finals that the server has, lost ones, and results beyond the first."""

    accepted: int
    finals: int
    duplicates: int

    @property
    def lost(self) -> int:
        """Accepted, and without a final."""
        return self.accepted - self.finals


@dataclass
class Certificates:
    """An authority's certificate and a server's, as files."""

    ca_file: Path
    cert: Path
    key: Path
    authority: trustme.CA

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        """For a server at ``localhost``."""
        authority = trustme.CA()
        issued = authority.issue_cert("localhost")
        made = cls(folder / "ca.pem", folder / "server.pem", folder / "server.key", authority)
        authority.cert_pem.write_to_path(str(made.ca_file))
        made.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(made.key))
        return made


@dataclass
class Environment:
    """Everything of one cell."""

    folder: Path
    timing: Timing
    standin: StandIn
    server: Server
    gate: Gate
    site: Site
    agent_id: str
    certificates: Certificates | None
    agent: Agent
    jobs: set[str] = field(default_factory=set)
    """Ids of the jobs that the agent has accepted."""

    @property
    def online(self) -> bool:
        """Whether the server has a session of the agent."""
        return self.agent_id in self.server.hub.online()

    async def start_benchmark(self, **plan: Any) -> str:
        """Have the server start a benchmark; its id."""
        body = {"model_name": MODEL, "num_iterations": 3, "warmup_iterations": 0, "cooldown_s": 0, **plan}
        body["prompt_config"] = {"prompt_tokens": 32, "completion_tokens": 20}
        started = await self.server.hub.start_job(self.agent_id, "run_benchmark", {"plan": body})
        job_id = started.job_id
        self.jobs.add(job_id)
        return job_id

    async def store_result(self, size: int) -> str:
        """Put a finished job with a result of about that size into the store of an agent that is down."""
        job_id = await store_result(self.site.folder, size)
        self.jobs.add(job_id)
        return job_id

    def ledger(self) -> Ledger:
        """What the server's database holds of the accepted jobs."""
        return ledger(self.folder / "server.sqlite3", self.jobs)

    async def settled(self) -> None:
        """Wait until the agent has nothing left to tell."""
        store = self.agent.components.jobs.store
        while store.counts.open or store.counts.finished_unacknowledged:
            await store.wait_changed(store.generation)


async def store_result(folder: Path, size: int) -> str:
    """A finished job with a result of about that size, in the store of an agent that is down; its id."""
    job_id = f"large-{secrets.token_hex(4)}"
    outbox = JobStore(folder)
    await outbox.open()
    try:
        await outbox.accept(new_job(job_id, reserve=1000))
        text = msgspec.json.encode({"id": job_id, "pad": secrets.token_hex(size // 2)})
        await outbox.finish(job_id, "completed", text)
    finally:
        await outbox.close()
    return job_id


def ledger(database: Path, jobs: set[str]) -> Ledger:
    """What a server's database holds of these jobs."""
    with contextlib.closing(sqlite3.connect(database)) as db:
        rows = db.execute("select job_id, accepted from obt_results").fetchall()
    finals = {job_id for job_id, accepted in rows if accepted and job_id in jobs}
    return Ledger(accepted=len(jobs), finals=len(finals), duplicates=len(rows) - len(finals))


@contextlib.asynccontextmanager
async def cell_environment(folder: Path, timing: Timing, *, tls: bool = False) -> AsyncIterator[Environment]:
    """Everything but the agent runs; the cell starts it."""
    certificates = Certificates.make(folder) if tls else None
    async with contextlib.AsyncExitStack() as stack:
        standin = await stack.enter_async_context(StandIn(Script(decode_tps=100.0, tokens=100_000)))
        parts, port = await stack.enter_async_context(serving(folder, timing, certificates))
        gate = await stack.enter_async_context(Gate(port))
        secret = Secret.new()
        state_folder = folder / "state"
        with StateDir.open(state_folder) as state:
            agent_id = state.agent_id
        enrolment = Enrolment(agent_id=agent_id, name="box", version="1", secret_sha256=secret.sha256())
        await enrol(parts.storage, enrolment, time.time())
        site = Site(
            folder=state_folder,
            url=f"{'https' if tls else 'http'}://localhost:{gate.port}",
            ollama_url=standin.url,
            secret=secret.reveal(),
            ca_file=None if certificates is None else certificates.ca_file,
        )
        made = Environment(
            folder, timing, standin, parts, gate, site, agent_id, certificates, Agent(site, timing)
        )
        try:
            yield made
        finally:
            await made.agent.close()


@contextlib.asynccontextmanager
async def serving(
    folder: Path, timing: Timing, certificates: Certificates | None
) -> AsyncIterator[tuple[Server, int]]:
    """The reference server on a port of its own, with a new database."""
    settings = application.AppSettings(database=folder / "server.sqlite3", hub=timing.hub)
    parts = application.build(settings)
    uvicorn = configure(
        parts,
        host="127.0.0.1",
        port=0,
        cert=None if certificates is None else certificates.cert,
        key=None if certificates is None else certificates.key,
    )
    task = asyncio.create_task(uvicorn.serve_without_signals(), name="server")
    try:
        await uvicorn.listening.wait()
        yield parts, uvicorn.port
    finally:
        uvicorn.should_exit = True
        await task
        parts.database.close()
