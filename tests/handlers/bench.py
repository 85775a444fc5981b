"""The whole agent below the link: dispatcher, handlers, policy, jobs, store, client, over a stand-in."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from obt_agent.benchmark.lock import BenchmarkLock
from obt_agent.benchmark.run import BenchmarkRun
from obt_agent.config.schema import HardwareConfig, OllamaConfig
from obt_agent.dispatcher import Dispatcher
from obt_agent.handlers.services import AgentFacts, Services
from obt_agent.handlers.table import commands
from obt_agent.hardware.inventory import FoundBy, StorageInfo
from obt_agent.hardware.service import HardwareService
from obt_agent.jobs import GenerationGate, JobService
from obt_agent.jobs.benchmarks import BenchmarkRunner
from obt_agent.jobs.store import JobStore
from obt_agent.jobs.transfer_run import TransferConditions, TransferTimings
from obt_agent.jobs.transfers import TransferRunner
from obt_agent.ollama.catalog import Catalog
from obt_agent.ollama.client import OllamaClient
from obt_agent.policy import Policy
from obt_agent.protocol.commands import LinkStatistics, ProcessUse
from obt_standin import StandIn
from tests.dispatcher.doubles import FakeSession, permissive, request
from tests.jobs.doubles import FAST, fast_uploader


def facts() -> AgentFacts:
    return AgentFacts(
        version="1.2.3",
        agent_id="an-id",
        name="a name",
        config=b'{"server":{"url":"wss://example.org"}}',
        started_at=time.time(),
        started_mono=time.monotonic(),
        link=LinkStatistics,
        process=lambda: ProcessUse(cpu_s=1.0, rss_bytes=2, threads=3),
    )


class Bench:
    """Wired as the agent wires it."""

    def __init__(
        self,
        standin: StandIn,
        folder: Path,
        *,
        during: Any = "note",
        transfers: Any = "pause",
        **section: Any,
    ) -> None:
        self.standin = standin
        self.folder = folder
        self.locks = folder / "locks"
        self.policy: Policy = permissive(**section)
        self.traffic = GenerationGate(during, transfers=transfers)
        self.session = FakeSession()
        self.found_by: FoundBy = "setting"
        self._ids = 0

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            settings = OllamaConfig(url=self.standin.url)
            self.ollama = await stack.enter_async_context(OllamaClient(settings))
            self.catalog = Catalog(self.ollama)
            await self.catalog.refresh()
            self.hardware = HardwareService(HardwareConfig(min_interval_s=0.05), providers=())
            await self.hardware.start()
            stack.push_async_callback(self.hardware.close)
            self.outbox = JobStore(self.folder)
            await self.outbox.open()
            stack.push_async_callback(self.outbox.close)
            self.jobs = self._job_service()
            self.running = asyncio.create_task(self.jobs.run(), name="jobs")
            stack.push_async_callback(self._stop_jobs)
            self.services = Services(
                ollama=self.ollama,
                catalog=self.catalog,
                hardware=self.hardware,
                policy=self.policy,
                jobs=self.jobs,
                generation_gate=self.traffic,
                facts=facts(),
            )
            self.dispatcher = Dispatcher(commands(self.services), self.policy)
            stack.push_async_callback(self.dispatcher.close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    def _job_service(self) -> JobService:
        transfers = TransferRunner(self.ollama, self.policy, self._conditions())
        benchmarks = BenchmarkRunner(
            self.outbox,
            self.policy,
            self.traffic,
            lambda plan, **named: BenchmarkRun(
                plan, client_id="c", ollama=self.ollama, hardware=self.hardware, **named
            ),
            client_id="c",
            agent_version="1.2.3",
            make_lock=lambda who: BenchmarkLock(self.standin.url, self.locks, who=who),
        )
        runners: Any = {"benchmark": benchmarks, "pull": transfers, "create": transfers}
        return JobService(
            self.outbox, runners, self.policy, uploader=fast_uploader(self.outbox), timings=FAST
        )

    def _conditions(self) -> TransferConditions:
        lock = BenchmarkLock(self.standin.url, self.locks)
        fast = TransferTimings(poll_s=0.05, return_s=20.0, look_s=0.05, space_s=0.0)
        return TransferConditions(self.traffic, lock.other_holder, self.model_store, fast)

    async def model_store(self) -> StorageInfo | None:
        """The stand-in's disk, found as where Ollama's own setting can be read; None when it has no end."""
        free = self.standin.store.free_bytes
        return (
            None if free is None else StorageInfo(purpose="models", found_by=self.found_by, free_bytes=free)
        )

    async def _stop_jobs(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await self.jobs.close()

    def send(self, method: str, **params: Any) -> int:
        """Send a command; gives its id."""
        self._ids += 1
        self.dispatcher.on_request(self.session, request(self._ids, method, **params))
        return self._ids

    async def result(self, method: str, **params: Any) -> Any:
        """Send a command and wait for its result."""
        return await self.session.result(self.send(method, **params))

    async def refusal(self, method: str, **params: Any) -> tuple[str, Any]:
        """Send a command and wait for its error: its kind and its policy key."""
        error = await self.session.error(self.send(method, **params))
        assert error.data is not None
        return error.data.kind, error.data.detail.get("policy_key")

    async def job(self, job_id: str) -> str:
        """Wait for a job's end; gives its state."""
        async with asyncio.timeout(60):
            while True:
                generation = self.outbox.generation
                job = await self.outbox.get(job_id)
                if job is not None and job.terminal:
                    return job.state
                await self.outbox.wait_changed(generation)
