"""The state of a running benchmark, which its phases share: what was measured, and what goes on now."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import msgspec

from obt_agent.benchmark import estimate, resources
from obt_agent.benchmark.environment import Environment, SettleReport
from obt_agent.benchmark.expansion import Cell
from obt_agent.benchmark.iteration_result import Baseline
from obt_agent.benchmark.live import LiveSeries
from obt_agent.benchmark.metrics import rate_of_lines
from obt_agent.benchmark.model_processes import ModelMemory, ProcessFilter
from obt_agent.benchmark.plan import Plan
from obt_agent.benchmark.records import (
    CellRecord,
    ColdLoadRecord,
    IterationRecord,
    Progress,
    Record,
    RunJournal,
    RunStarted,
    WarmupRecord,
)
from obt_agent.benchmark.result import (
    BenchmarkWarning,
    ColdLoad,
    IterationMetrics,
    Phase,
    Stopping,
    Warmup,
)
from obt_agent.benchmark.sampling import RunPhase, Sampler
from obt_agent.benchmark.synthetic import Observation
from obt_agent.config.urls import ollama_port
from obt_agent.hardware.inventory import Inventory
from obt_agent.hardware.service import HardwareService
from obt_agent.ollama.client import Line, OllamaClient
from obt_agent.ollama.names import same_model
from obt_agent.ollama.payloads import RunningModel

_US_PER_S: Final = 1e6
# More than come in the second that the live speed looks back, so that long answers cost no more than short
# ones.
_RATE_LINES: Final = 4096
_OLLAMA_BACK: Final = "Ollama to answer again"


@dataclass(frozen=True)
class RunDeadlines:
    """Times in seconds that a plan does not set.

    Args:
        settle_s: longest preflight wait for an idle machine.
        settle_samples: samples that the preflight's idle figures rest on.
        unload_s: longest wait until Ollama no longer lists an unloaded model.
        poll_s: between looks at Ollama's list, and at an Ollama that went away.
        return_s: longest wait for an Ollama that went away.
        returns: how often a cell survives that.
        reading_s: longest single reading of the machine outside the sampler.
        runner_s: longest wait until a model's new process shows in the samples.
        progress_s: between progress reports.
        goodbye_s: longest tidying up at the end.
        cooldown_s: longest wait for the machine to cool, when the host's owner sets it below the plan's.
    """

    settle_s: float = 15.0
    settle_samples: int = 4
    unload_s: float = 60.0
    poll_s: float = 0.2
    return_s: float = 30.0
    returns: int = 2
    reading_s: float = 5.0
    runner_s: float = 3.0
    progress_s: float = 0.5
    goodbye_s: float = 5.0
    cooldown_s: float = math.inf


@dataclass
class Flow:
    """The lines of the requests that run now, for the live speed."""

    # Requests are under way; afterwards the last lines say nothing of the present.
    active: bool = False
    # Of the first line of any of them, counted from its own request.
    first_token_ms: float | None = None
    # Arrival of every line on the monotonic clock: requests that run at once were not sent at once.
    lines_us: list[int] = field(default_factory=list)

    def add(self, t_sent_ns: int, lines: Sequence[Line]) -> None:
        """Lines of one request arrived."""
        if self.first_token_ms is None and lines:
            self.first_token_ms = lines[0].t_us / 1e3
        self.lines_us.extend(t_sent_ns // 1000 + line.t_us for line in lines)

    def rate(self) -> float | None:
        """Lines a second over the last second; None when nothing runs."""
        if not self.active:
            return None
        now_us = time.monotonic_ns() // 1000
        return rate_of_lines(self.lines_us[-_RATE_LINES:], now_us)


@dataclass
class RunState:
    """One run's state. Phases write it; ``record`` is the only way by which measurements get in."""

    plan: Plan
    cells: tuple[Cell, ...]
    ollama: OllamaClient
    machine: HardwareService
    journal: RunJournal
    limits: RunDeadlines
    series: LiveSeries
    # Where the figures are taken: filled by the preflight, the offload by the first warm-up.
    environment: Environment
    # The first start's, also after a restart of the agent.
    start_time: datetime = field(default_factory=lambda: datetime.now(UTC))
    # In the order of their ends, of all cells, the excluded ones too.
    metrics: list[IterationMetrics] = field(default_factory=list)
    warmups: list[Warmup] = field(default_factory=list)
    cold_load: ColdLoad | None = None
    # By the cell's index; a cell that stands here is not opened again.
    stops: dict[int, Stopping] = field(default_factory=dict)
    # What concerns the run or a cell; what concerns an iteration follows from its flags.
    warnings: list[BenchmarkWarning] = field(default_factory=list)
    # How often the run was begun: above 1 it goes on after the agent was stopped.
    starts: int = 0
    inventory: Inventory | None = None
    # What tells the model's processes from Ollama's others; complete after the preflight.
    processes: ProcessFilter = field(init=False)
    memory: ModelMemory = field(default_factory=ModelMemory)
    # Memory without the model and idle power, which iterations are compared with.
    baseline: Baseline = field(default_factory=Baseline)
    # Degrees Celsius before the run, to which the machine cools down between iterations.
    start_temperature: float | None = None
    # The wait for an idle machine, of the last start; None where there was none. And who hears of its end.
    settled: SettleReport | None = None
    on_settled: Callable[[], None] = lambda: None
    # Other models that Ollama lists, by name, with the end of its keep-alive, which each request puts off.
    other_models: dict[str, str | None] = field(default_factory=dict)
    # Those of them that were loaded or used since the last iteration began.
    other_models_used: set[str] = field(default_factory=set)
    # Whether the model was loaded before the first start, and so is to be left loaded.
    was_loaded: bool = False
    # Of all cells: what one cell learnt of the tokenizer serves the next.
    observations: list[Observation] = field(default_factory=list)
    flow: Flow = field(default_factory=Flow)
    doing: RunPhase = field(default_factory=lambda: RunPhase("preflight"))
    # In words, while the run waits.
    waiting_for: str | None = None
    # Monotonic seconds of the run's start, and of the start of what it does now.
    began: float = field(default_factory=time.monotonic)
    step_began: float = field(default_factory=time.monotonic)
    # Tokens in a line of the stream, from the answer before; turns lines a second into tokens a second.
    tokens_per_line: float = 1.0
    sampler: Sampler = field(init=False)

    def __post_init__(self) -> None:
        self.processes = ProcessFilter(port=ollama_port(self.ollama.url))
        self.sampler = Sampler(
            self.machine,
            interval_s=self.plan.sample_interval_ms / 1e3,
            reason="benchmark",
            series=self.series,
            # Of the filter as it is then: the weights are known after the preflight.
            select=lambda seen: self.processes.select(seen),  # noqa: PLW0108 - as said
            doing=lambda: (self.doing, self.live_speed),
        )

    def apply(self, record: Record) -> None:
        """Take in a record, new or restored."""
        match record:
            case RunStarted():
                self.starts += 1
                if self.starts == 1:
                    self.start_time, self.environment = record.start_time, record.environment
                    self.was_loaded = record.was_loaded
            case ColdLoadRecord():
                self.cold_load = record.cold_load
            case WarmupRecord():
                self.warmups.append(record.warmup)
            case IterationRecord():
                self.metrics.append(record.metrics)
            case CellRecord():
                self.stops[record.cell] = record.stopping

    async def record(self, record: Record) -> None:
        """Take in a record and make it durable.

        Raises:
            StorageFull: the journal has no room; what was recorded stays in the result.
        """
        self.apply(record)
        await self.journal.store(record)

    def enter(self, phase: Phase, cell: Cell | None = None, iteration: int | None = None) -> None:
        """Say what the run does from now on; ``iteration`` counts from 1 within the cell."""
        doing = RunPhase(phase, None if cell is None else cell.index, iteration)
        if doing != self.doing:
            self.doing, self.step_began = doing, time.monotonic()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Say that the run waits for Ollama; afterwards it does again what it did."""
        before = self.doing
        self.doing, self.waiting_for = RunPhase("waiting", before.cell, before.iteration), _OLLAMA_BACK
        try:
            yield
        finally:
            self.doing, self.step_began, self.waiting_for = before, time.monotonic(), None

    def note_listed(self, listed: Sequence[RunningModel]) -> None:
        """Take what Ollama lists of other models: one that is new, or expires later than before, was used."""
        others = {
            one.name: one.expires_at for one in listed if not same_model(one.name, self.plan.model_name)
        }
        known = self.other_models
        self.other_models_used |= {name for name, end in others.items() if (name, end) not in known.items()}
        self.other_models = others

    def warn(self, code: str, message: str, action: str, cell: int | None = None) -> None:
        """Note a warning once."""
        if not any(one.code == code and one.cell == cell for one in self.warnings):
            self.warnings.append(BenchmarkWarning(code=code, message=message, action=action, cell=cell))

    @property
    def seconds_left(self) -> float:
        """Until the plan's ``max_duration_s``; never negative."""
        return max(self.began + self.plan.max_duration_s - time.monotonic(), 0.0)

    def of_cell(self, cell: Cell) -> list[IterationMetrics]:
        """The cell's iterations, excluded ones too."""
        return [one for one in self.metrics if one.cell == cell.index]

    def warmups_of(self, cell: Cell) -> list[Warmup]:
        """The cell's warm-ups."""
        return [one for one in self.warmups if one.cell == cell.index]

    def progress(self) -> Progress:
        """How far the run is."""
        cell = None if self.doing.cell is None else self.cells[self.doing.cell]
        so_far = estimate.Measured(self.plan, self.metrics, self.warmups)
        sample = self.sampler.latest
        cpu = resources.cpu_percent(sample) if sample else None
        gpu = resources.gpu_percent(sample) if sample else None
        last = self.metrics[-1] if self.metrics else None
        return Progress(
            phase=self.doing.phase,
            iteration=self.doing.iteration,
            iterations_planned=estimate.planned(so_far, cell or self.cells[0]),
            cell=cell.label if cell and len(self.cells) > 1 else None,
            tokens_per_second=self.live_speed or (last.tokens_per_second if last else None),
            first_token_ms=self.flow.first_token_ms or (last.first_token_ms if last else None),
            cpu_utilization_ratio=None if cpu is None else cpu / 100,
            gpu_utilization_ratio=None if gpu is None else gpu / 100,
            remaining_s=self._remaining_s(so_far),
            waiting_for=self.waiting_for,
        )

    def _remaining_s(self, so_far: estimate.Measured) -> float | None:
        working = self.doing.phase in ("warmup", "iteration")
        elapsed = time.monotonic() - self.step_began if working else 0.0
        left = estimate.remaining_s(so_far, self.cells, self.stops, elapsed)
        return None if left is None else min(left, self.seconds_left)

    @property
    def live_speed(self) -> float | None:
        """Tokens a second of the last second: its lines, by the tokens that a line of this model holds."""
        lines = self.flow.rate()
        return None if lines is None else lines * self.tokens_per_line

    def learn_line(self, tokens_per_chunk: float | None) -> None:
        """Note how many tokens a line of the stream held; 1 until the first answer has told."""
        if tokens_per_chunk is not None:
            self.tokens_per_line = tokens_per_chunk

    def learn_offload(self, ratio: float | None) -> None:
        """Note how much of the model is on GPUs, once it is loaded."""
        if ratio is not None:
            self.environment = msgspec.structs.replace(self.environment, gpu_offload_ratio=ratio)
