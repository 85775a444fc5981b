"""Everything, built from plain values and closed in the reverse order. Nothing runs yet."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obt_agent import __version__
from obt_agent.backoff import BackoffSettings
from obt_agent.benchmark.lock import BenchmarkLock
from obt_agent.benchmark.plan import Plan
from obt_agent.config.schema import Config
from obt_agent.daemon import facts
from obt_agent.dispatcher import Dispatcher
from obt_agent.errors import Unsupported
from obt_agent.handlers.services import Services
from obt_agent.handlers.table import commands
from obt_agent.hardware.host.platform import boot_id
from obt_agent.hardware.provider import GpuProvider
from obt_agent.hardware.service import HardwareService
from obt_agent.identity.credentials import Credentials
from obt_agent.identity.secret import Secret
from obt_agent.identity.state_dir import StateDir
from obt_agent.jobs import GenerationGate, JobService
from obt_agent.jobs.benchmarks import BenchmarkRunner
from obt_agent.jobs.store.job_store import JobStore
from obt_agent.jobs.transfer_run import TransferConditions
from obt_agent.jobs.transfers import TransferRunner
from obt_agent.link.connection import Link, LinkEvents
from obt_agent.link.session import LinkSession
from obt_agent.link.timings import LinkTimings
from obt_agent.ollama.catalog import Catalog
from obt_agent.ollama.client import OllamaClient
from obt_agent.policy import Policy
from obt_agent.protocol import limits
from obt_agent.protocol.admission import (
    AgentIdentity,
    AgentLimits,
    HelloParams,
    HelloResult,
    VersionRange,
)
from obt_agent.protocol.byte_budget import ByteBudget
from obt_agent.reporter import Gauges, Reporter

if TYPE_CHECKING:
    from obt_agent.benchmark.run import BenchmarkRun

OnAdmitted = Callable[[LinkSession, HelloResult], None]


@dataclass
class Components:
    """What was built. ``on_admitted`` is set by whoever runs it."""

    catalog: Catalog
    hardware: HardwareService
    policy: Policy
    jobs: JobService
    dispatcher: Dispatcher
    reporter: Reporter
    link: Link = field(init=False)
    on_admitted: OnAdmitted | None = None

    def admitted(self, session: LinkSession, hello: HelloResult) -> None:
        """The link has a session."""
        if self.on_admitted is not None:
            self.on_admitted(session, hello)


async def build(
    stack: AsyncExitStack,
    config: Config,
    state: StateDir,
    token: Secret | None,
    *,
    timings: LinkTimings | None = None,
    backoff: BackoffSettings | None = None,
    gpus: Iterable[GpuProvider] | None = None,
) -> Components:
    """Build everything; ``stack`` closes it.

    ``timings`` and ``backoff`` are the protocol's, and ``gpus`` this machine's providers, unless given.

    Raises:
        ConfigError: quiet hours, the server's address or the store cannot be used.
        StorageFull: the store cannot be opened for want of room.
    """
    policy = Policy(config.policy)
    ollama = await stack.enter_async_context(OllamaClient(config.ollama))
    catalog = Catalog(ollama, poll_interval_s=config.ollama.poll_interval_s)
    hardware = HardwareService(config.hardware, ollama_url=config.ollama.url, providers=gpus)
    stack.push_async_callback(hardware.close)
    store = JobStore(state.path, config.storage)
    await store.open()
    stack.push_async_callback(store.close)
    gate = GenerationGate(config.benchmark.during_benchmark, transfers=config.benchmark.transfers)
    jobs = _jobs(config, state, policy, store, gate, ollama, hardware)
    stack.push_async_callback(jobs.close)
    services = Services(
        ollama=ollama,
        catalog=catalog,
        hardware=hardware,
        policy=policy,
        jobs=jobs,
        generation_gate=gate,
        facts=facts.agent_facts(config, state, lambda: components.link.statistics),
    )
    # One for the process: what the link holds for the server, and what commands hold for Ollama.
    budget = ByteBudget()
    components = _wired(services, budget)
    components.link = Link(
        config.server,
        credentials=Credentials(state.folder, token),
        events=LinkEvents(
            hello=functools.partial(_hello, config, state, components),
            on_admitted=components.admitted,
            on_state_request=components.reporter.request,
        ),
        handler=components.dispatcher,
        timings=timings,
        backoff=backoff,
        budget=budget,
    )
    return components


def _jobs(
    config: Config,
    state: StateDir,
    policy: Policy,
    store: JobStore,
    gate: GenerationGate,
    ollama: OllamaClient,
    hardware: HardwareService,
) -> JobService:
    conditions = TransferConditions(gate, _lock(config).other_holder, hardware.model_store)
    transfers = TransferRunner(ollama, policy, conditions)
    benchmarks = BenchmarkRunner(
        store,
        policy,
        gate,
        functools.partial(
            benchmark_run,
            cooldown_s=config.benchmark.cooldown_s,
            client_id=state.agent_id,
            ollama=ollama,
            hardware=hardware,
        ),
        client_id=state.agent_id,
        agent_version=__version__,
        make_lock=lambda who: _lock(config, who),
    )
    return JobService(store, {"benchmark": benchmarks, "pull": transfers, "create": transfers}, policy)


def _lock(config: Config, who: str | None = None) -> BenchmarkLock:
    return BenchmarkLock(config.ollama.url, Path(config.benchmark.lock_dir), who=who)


def benchmark_run(plan: Plan, *, cooldown_s: float, **given: Any) -> BenchmarkRun:
    """A run of the method. Its modules, 1 MB, are loaded when the first benchmark begins: 30 ms, once.

    Raises:
        Unsupported: they are not those of this process any more.
    """
    try:
        from obt_agent.benchmark.run import BenchmarkRun, RunDeadlines  # noqa: PLC0415 - an idle agent needs none of it
    except ImportError as error:
        raise Unsupported("obt-agent was replaced while it ran: restart it, then run this again.") from error
    return BenchmarkRun(plan, limits=RunDeadlines(cooldown_s=cooldown_s), **given)


def _wired(services: Services, budget: ByteBudget) -> Components:
    """Tie the knot: commands tell of the link, and the link hands commands to the dispatcher."""
    dispatcher = Dispatcher(
        commands(services), services.policy, budget=budget, agent_id=services.facts.agent_id
    )
    gauges = Gauges(streams=lambda: dispatcher.streams, loop_lag_ms=lambda: components.link.lag.last_ms)
    reporter = Reporter(
        models=services.catalog,
        machine=services.hardware,
        jobs=services.jobs,
        policy=services.policy,
        gauges=gauges,
    )
    components = Components(
        catalog=services.catalog,
        hardware=services.hardware,
        policy=services.policy,
        jobs=services.jobs,
        dispatcher=dispatcher,
        reporter=reporter,
    )
    return components


def _hello(config: Config, state: StateDir, components: Components) -> HelloParams:
    return HelloParams(
        protocol=VersionRange(min=limits.PROTOCOL_VERSION, max=limits.PROTOCOL_VERSION),
        agent=AgentIdentity(
            id=state.agent_id,
            name=config.agent.name,
            version=__version__,
            instance=state.instance,
            boot_id=boot_id(),
            labels=config.agent.labels,
        ),
        store_id=components.jobs.store.store_id,
        capabilities=components.policy.allowed_commands(),
        limits=AgentLimits(max_streams=components.policy.max_streams, max_jobs=components.policy.max_jobs),
        jobs=components.jobs.store.counts,
        outbox=components.jobs.store.waiting_counts,
    )
