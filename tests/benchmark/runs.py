"""Benchmarks against the stand-in, with a machine made by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from obt_agent.benchmark.plan import Plan, PromptConfig
from obt_agent.benchmark.records import Progress, Record, decode, encode
from obt_agent.benchmark.result import BenchmarkResult, IterationMetrics, Phase
from obt_agent.benchmark.run import BenchmarkRun, RunDeadlines
from obt_agent.config.schema import OllamaConfig
from obt_agent.hardware.inventory import Inventory
from obt_agent.hardware.samples import Sample
from obt_agent.hardware.service import HardwareService
from obt_agent.hardware.temperatures import LowestTemperatures
from obt_agent.ollama.client import OllamaClient
from obt_standin import LoggedExchange, StandIn
from tests.benchmark.samples import sample

MODEL = "standin-small"
QUICK = RunDeadlines(
    settle_s=5,
    settle_samples=1,
    unload_s=5,
    poll_s=0.01,
    return_s=5,
    reading_s=5,
    # These machines give no further sample by themselves.
    runner_s=0.05,
    progress_s=0.02,
)


class FakeWatch:
    """A watch that gives what it is handed, and then waits for more."""

    def __init__(self, samples: Sequence[Sample], interval_s: float) -> None:
        self.interval_s = interval_s
        self.missed = 0
        self._queue: asyncio.Queue[Sample] = asyncio.Queue()
        for one in samples:
            self.push(one)

    def push(self, one: Sample) -> None:
        self._queue.put_nowait(one)

    async def taken(self) -> None:
        """Wait until the reader has done with all samples so far."""
        await self._queue.join()

    async def __aiter__(self) -> AsyncIterator[Sample]:
        while True:
            yield await self._queue.get()
            self._queue.task_done()  # the reader asks for the next one


class FakeMachine:
    """The hardware service, scripted."""

    def __init__(self, *samples: Sample, energy: Sequence[dict[str, float]] = ()) -> None:
        self.samples = samples or (now(),)
        self.energy = list(energy)
        self.watches: list[FakeWatch] = []
        self.watching = 0
        self.lowest_temperatures = LowestTemperatures()

    async def inventory(self, *, refresh: bool = False) -> Inventory:
        return Inventory(fingerprint="f", collected_at=0.0)

    @asynccontextmanager
    async def watch(self, interval_s: float, *, reason: str) -> AsyncIterator[FakeWatch]:
        self.watches.append(FakeWatch(self.samples, interval_s))
        self.watching += 1
        try:
            yield self.watches[-1]
        finally:
            self.watching -= 1

    async def push(self, one: Sample) -> None:
        """Give a sample to the run, and wait until it has taken it."""
        self.watches[-1].push(one)
        await self.watches[-1].taken()

    async def energy_edges(self) -> dict[str, float]:
        return self.energy.pop(0) if self.energy else {}


def now(*gpus: Any, **fields: Any) -> Sample:
    """A sample stamped with the present."""
    return msgspec.structs.replace(sample(0, *gpus, **fields), t_mono_ns=time.monotonic_ns())


def plan(**changes: Any) -> Plan:
    usual: dict[str, Any] = {
        "model_name": MODEL,
        "prompt_config": PromptConfig(prompt_tokens=40, completion_tokens=12),
        "num_iterations": 3,
        "warmup_iterations": 2,
        "min_duration_s": 0.0,
        "sample_interval_ms": 200,
    }
    return Plan(**{**usual, **changes})


@dataclass
class Stored:
    """A journal in memory that goes through the records' JSON."""

    records: list[Record] = field(default_factory=list)

    async def store(self, record: Record) -> None:
        self.records.append(decode(encode(record)))


@dataclass
class Hooked(Stored):
    """A journal that does something at each record, before it is durable."""

    hook: Callable[[Record], Awaitable[None]] = field(kw_only=True)

    async def store(self, record: Record) -> None:
        await super().store(record)
        await self.hook(record)


@dataclass
class Bench:
    """One run and what belongs to it."""

    run: BenchmarkRun
    journal: Stored
    machine: FakeMachine
    progress: list[Progress]


@asynccontextmanager
async def bench(
    standin: StandIn,
    of: Plan | None = None,
    *,
    machine: FakeMachine | None = None,
    journal: Any = None,
    restored: Sequence[Record] = (),
    limits: RunDeadlines = QUICK,
    settings: dict[str, Any] | None = None,
) -> AsyncIterator[Bench]:
    seen: list[Progress] = []
    async with (
        asyncio.timeout(120),
        OllamaClient(OllamaConfig(url=standin.url, **(settings or {}))) as ollama,
    ):
        journal, machine = journal or Stored(), machine or FakeMachine()
        run = BenchmarkRun(
            of or plan(),
            job_id="job-1",
            client_id="client-1",
            ollama=ollama,
            hardware=cast("HardwareService", machine),
            journal=journal,
            on_progress=seen.append,
            restored=restored,
            limits=limits,
        )
        yield Bench(run, journal, machine, seen)


async def result_of(standin: StandIn, of: Plan | None = None, **more: Any) -> BenchmarkResult:
    async with bench(standin, of, **more) as one:
        return await one.run.execute()


def flags_of(one: IterationMetrics) -> set[str]:
    """The flags, but for the one that a loaded machine may add: what delays the stand-in reads as a queue."""
    return set(one.flags) - {"queued"}


def generations(standin: StandIn) -> list[LoggedExchange]:
    """The requests that generated something, in order."""
    return [one for one in standin.requests if one.path == "/api/generate" and b'"prompt"' in one.body]


def body_of(one: LoggedExchange) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(one.body)
    return found


async def until_phase(one: Bench, phase: Phase) -> None:
    """Wait until a run says that it is in a phase."""
    while one.run.progress.phase != phase:  # noqa: ASYNC110 - a run has no event for it
        await asyncio.sleep(0.001)
