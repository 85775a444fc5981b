"""What a benchmark gives: a superset of OBT's ``BenchmarkResult`` and ``BenchmarkMetrics``. Pure.

Null (absent in the JSON) is never zero: a figure that was not measured is null, and ``unavailable`` of the
same object says why, by field name. Units stand in the names, except where OBT's names are kept (given in the
docstrings). How each figure is computed is said in ``obt_agent.benchmark.metrics``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

import msgspec

from obt_agent.benchmark.environment import Environment, SettleReport, UsedMeanwhile
from obt_agent.benchmark.plan import Plan
from obt_agent.hardware.inventory import Inventory
from obt_agent.wire_types import Int64

# Raised when a field changes its meaning; new fields need no new version.
RESULT_VERSION: Final = 1

Status = Literal["completed", "failed", "cancelled", "interrupted"]
Phase = Literal[
    "preflight", "settling", "cold_load", "warmup", "iteration", "cooldown", "reporting", "waiting"
]
CacheState = Literal["bust", "warm"]
StoppingReason = Literal[
    "fixed", "target_met", "max_iterations", "max_duration", "cancelled", "interrupted", "failed"
]


class ChunkGaps(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds between lines of the stream (not tokens: a line may hold several).

    ``p99`` is null under 100 gaps.
    """

    p50: float
    p90: float
    p99: float | None
    max: float


class Throttle(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Milliseconds during which a GPU was held back, as the driver said at each sample, and its reasons."""

    thermal_ms: float = 0.0
    power_ms: float = 0.0
    reasons: tuple[str, ...] = ()


class RequestTimings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answered request, by the agent's monotonic clock and by Ollama's own figures.

    ``tokens_per_second`` is Ollama's eval_count / eval_duration under OBT's name; it reads high by n/(n-1)
    on versions that start the clock at the first token (see ``environment.metric_semantics``).
    ``rejected_counters`` names those figures of Ollama's last line that contradict the agent's clock or
    what was asked for; whatever rests on them is null. ``average_token_ms`` is TPOT. ``latency_ms`` equals
    ``first_token_ms`` (OBT's two names for one thing).
    """

    # Rates in tokens a second, times in milliseconds; each is defined in its row of the metrics' registry.
    tokens_per_second: float | None = None
    decode_tps_corrected: float | None = None
    decode_tps_by_ollama: float | None = None
    decode_tps_uncertainty: float | None = None
    output_tps_wall: float | None = None
    prefill_tps: float | None = None
    prefill_tps_ttft: float | None = None
    first_token_ms: float | None = None
    latency_ms: float | None = None
    slot_ms: float | None = None
    ttft_excluding_slot_ms: float | None = None
    ttft_answer_ms: float | None = None
    thinking_ms: float | None = None
    average_token_ms: float | None = None
    # Of the stream's lines, which are not tokens.
    inter_chunk_ms: ChunkGaps | None = None
    chunks: Int64 = 0
    tokens_per_chunk: float | None = None
    total_duration_ms: float | None = None
    # Ollama's counters, in milliseconds.
    server_total_ms: float | None = None
    load_ms: float | None = None
    prompt_eval_ms: float | None = None
    eval_ms: float | None = None
    # May be a little negative: Ollama takes its parts and its whole with different stamps.
    unaccounted_ms: float | None = None
    prompt_tokens: Int64 | None = None
    completion_tokens: Int64 | None = None
    total_tokens: Int64 | None = None
    thinking_chars: Int64 = 0
    # As Ollama says it: ``stop`` or ``length``; ``mixed`` when concurrent requests differ.
    done_reason: str | None = None
    short_output: bool = False
    rejected_counters: tuple[str, ...] = ()
    unavailable: dict[str, str] = {}


class Observed(RequestTimings, frozen=True, kw_only=True, omit_defaults=True):
    """Timings, and what the machine did meanwhile.

    Percentages are 0 to 100 and time-weighted means (``_max`` the maximum), memory is MiB (OBT's ``mb``),
    temperatures are maxima in degrees Celsius. ``memory_usage_mb`` is resident memory of the model's
    processes without kept prompts, ``gpu_memory_usage_mb`` the peak over all GPUs, by the method that
    ``gpu_memory_method`` names. With several GPUs utilisation is their mean, power and energy their sum,
    temperature their maximum.
    ``energy_joules`` is gross; ``energy_net_joules`` has the idle power of the preflight subtracted.
    """

    # Of the server and of the process that runs the model: once it had answered after its load, less what the
    # server held before that; the peak of the iteration, and what it has grown by since the first answer.
    memory_usage_mb: float | None = None
    memory_delta_mb: float | None = None
    memory_peak_mb: float | None = None
    prompt_cache_growth_mb: float | None = None
    # As Ollama lists the model after the iteration, by its own estimate.
    model_size_mb: float | None = None
    gpu_memory_usage_mb: float | None = None
    gpu_memory_method: Literal["ollama_processes", "device_minus_baseline", "ollama_ps"] | None = None
    vram_baseline_mb: float | None = None
    size_vram_mb: float | None = None
    # 0 to 1; null where Ollama lists more on the GPUs than in all.
    gpu_offload_ratio: float | None = None
    cpu_usage_percent: float | None = None
    cpu_usage_percent_max: float | None = None
    # Of one core, of the model's processes and of all others: may exceed 100.
    cpu_process_percent: float | None = None
    cpu_others_percent: float | None = None
    # Of one core, of the agent itself, which is one of the others.
    cpu_agent_percent: float | None = None
    gpu_usage_percent: float | None = None
    gpu_usage_percent_max: float | None = None
    # Of the time of the GPU that others than Ollama used most.
    gpu_others_percent: float | None = None
    cpu_temperature: float | None = None
    cpu_temperature_start: float | None = None
    cpu_temperature_end: float | None = None
    gpu_temperature: float | None = None
    gpu_temperature_start: float | None = None
    gpu_temperature_end: float | None = None
    # A clock that falls between iterations means that the machine was not in one state.
    gpu_clock_mhz_mean: float | None = None
    gpu_clock_mhz_min: float | None = None
    power_usage_watts: float | None = None
    # Of what power and energy are: ``gpus``, or ``cpu_package`` where no GPU is metered.
    power_scope: str | None = None
    idle_watts: float | None = None
    energy_joules: float | None = None
    energy_net_joules: float | None = None
    energy_uncertainty_joules: float | None = None
    energy_method: Literal["counter", "trapezoid"] | None = None
    # Parted at the first token; each withheld where its own window is too short to be metered.
    energy_prefill_joules: float | None = None
    energy_prefill_net_joules: float | None = None
    energy_prefill_uncertainty_joules: float | None = None
    energy_decode_joules: float | None = None
    energy_decode_net_joules: float | None = None
    energy_decode_uncertainty_joules: float | None = None
    joules_per_output_token: float | None = None
    throttle: Throttle | None = None
    # Samples of the machine that the figures rest on, and those that came too late to be taken.
    samples: Int64 = 0
    samples_missed: Int64 = 0


class IterationMetrics(Observed, frozen=True, kw_only=True, omit_defaults=True):
    """One measured iteration: a superset of OBT's ``BenchmarkMetrics``.

    ``index`` counts from 0 over the whole run, ``cell`` names the cell. With a concurrency above 1
    ``requests`` holds the timings of each request; the iteration's own speeds and times are their means, its
    counts their sums, ``total_duration_ms`` the wall time of all together, and ``output_tps_total`` all
    tokens over that.
    ``queue_ms_max`` is the longest ``unaccounted_ms``: waiting for a slot shows nowhere else.
    ``excluded`` is the recorded cause why the summary leaves the iteration out; null means it is in.
    """

    index: Int64
    cell: Int64
    started_at: datetime
    # Of the prompts as they were sent: shows that pairs are pairs, without storing texts.
    prompt_sha256: str
    cache_state: CacheState
    flags: tuple[str, ...] = ()
    excluded: str | None = None
    # Requests, or groups of them, that it took: short outputs and repetition are asked for again.
    attempts: Int64 = 1
    # False for every other one when the plan measures what sampling costs.
    sampled: bool = True
    cooldown_s: float = 0.0
    # As Ollama lists it, which may be less than was asked for.
    num_ctx: Int64 | None = None
    # Of other models, those that Ollama loaded or answered with meanwhile.
    other_models_used: tuple[str, ...] = ()
    output_tps_total: float | None = None
    queue_ms_max: float | None = None
    requests: tuple[RequestTimings, ...] = ()


class ColdLoad(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The load of the model from nothing: wall time of an empty request after an unload was seen in /api/ps.

    ``page_cache`` is ``warm`` when the model was in use just before, so that its file was cached by the
    system, else ``unknown``; the agent never drops the cache.
    """

    wall_ms: float
    unload_ms: float | None = None
    page_cache: Literal["warm", "dropped", "unknown"] = "unknown"


class Warmup(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One warm-up in the cell's full shape. ``words`` and ``prompt_tokens`` calibrate synthetic prompts."""

    cell: Int64
    index: Int64
    tokens_per_second: float | None = None
    first_token_ms: float | None = None
    total_duration_ms: float | None = None
    load_ms: float | None = None
    slot_ms: float | None = None
    prompt_tokens: Int64 | None = None
    completion_tokens: Int64 | None = None
    words: Int64 | None = None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One metric over a cell's iterations: sample standard deviation, t-interval of the mean.

    With one value the spread and the interval are null.
    """

    n: Int64
    mean: float
    median: float
    stddev: float | None
    cv: float | None
    min: float
    max: float
    ci_low: float | None
    ci_high: float | None
    confidence: float


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of one metric. Each is null below the observations it takes: p99 100, p95 20, p90 10."""

    n: Int64
    p50: float
    p90: float | None
    p95: float | None
    p99: float | None


class Stopping(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a cell ended: its rule and what was reached. Widths are of the 95 % interval over the mean."""

    reason: StoppingReason
    iterations: Int64
    measured_s: float
    target_ci: float | None = None
    width_decode: float | None = None
    width_ttft: float | None = None


class CellResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One cell: what it asked, how it ended, its figures. ``summary_warm`` is of the cached half of pairs.

    ``trend`` is Spearman's rank correlation of decode speed with the iteration's index, ``trend_p`` its
    two-sided p-value.
    """

    index: Int64
    label: str
    num_ctx: Int64
    concurrency: Int64
    prompt_tokens_target: Int64 | None
    completion_tokens: Int64
    stopping: Stopping
    summary: dict[str, Summary] = {}
    summary_warm: dict[str, Summary] = {}
    percentiles: dict[str, Percentiles] = {}
    trend: float | None = None
    trend_p: float | None = None


class BenchmarkWarning(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that a reader of the figures must know, and what to do about it."""

    code: str
    message: str
    action: str
    cell: Int64 | None = None
    iterations: tuple[Int64, ...] = ()


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """A ratio of two means with the interval of its confidence."""

    ratio: float
    ci_low: float | None
    ci_high: float | None
    confidence: float
    n_a: Int64
    n_b: Int64
    paired: bool


class SamplerReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The sampler during the run: its interval, ticks taken and missed, and its share of one core in percent.

    ``effect`` is the ratio of decode speed sampled to unsampled with its 95 % interval, when the plan asked
    to alternate.
    """

    interval_ms: float
    samples: Int64
    missed: Int64
    cpu_percent: float | None = None
    effect: Ratio | None = None


class ResourceSample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One tick of the run's live series.

    ``t_ms`` and ``n`` count from the start of the run, or from where it went on after the agent's restart.
    ``tokens_per_second`` is of the last second of the running iteration: lines of the stream, by the tokens
    that a line held in the answer before (1 during the first answer of a run).
    """

    n: Int64
    t_ms: float
    phase: Phase
    cell: Int64 | None = None
    iteration: Int64 | None = None
    tokens_per_second: float | None = None
    cpu_percent: float | None = None
    cpu_temperature: float | None = None
    memory_used_mb: float | None = None
    ollama_cpu_percent: float | None = None
    ollama_rss_mb: float | None = None
    gpu_percent: float | None = None
    gpu_memory_used_mb: float | None = None
    gpu_power_watts: float | None = None
    gpu_temperature: float | None = None
    gpu_clock_mhz: float | None = None


class BenchmarkResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A whole benchmark. OBT's ``BenchmarkResult`` with more beside it.

    ``id`` and ``benchmark_id`` are the job's id. ``summary`` and ``percentiles`` are those of the only cell;
    a sweep has them in ``cells`` only, since a mean over different shapes means nothing. ``resumed`` counts
    how often the run went on after the agent was stopped. ``error_kind`` is a kind of the errors of the wire.
    """

    id: str
    benchmark_id: str
    client_id: str
    status: Status
    start_time: datetime
    end_time: datetime
    config: Plan
    environment: Environment
    metrics: tuple[IterationMetrics, ...]
    result_version: Int64 = RESULT_VERSION
    error: str | None = None
    error_kind: str | None = None
    cold_load: ColdLoad | None = None
    warmups: tuple[Warmup, ...] = ()
    cells: tuple[CellResult, ...] = ()
    summary: dict[str, Summary] = {}
    percentiles: dict[str, Percentiles] = {}
    warnings: tuple[BenchmarkWarning, ...] = ()
    # Null where the plan did not ask to wait, or the run ended before it had waited.
    settled: SettleReport | None = None
    used_meanwhile: UsedMeanwhile | None = None
    sampler: SamplerReport | None = None
    samples: tuple[ResourceSample, ...] = ()
    samples_dropped: Int64 = 0
    resumed: Int64 = 0
    hardware: Inventory | None = None
    unavailable: dict[str, str] = {}
