"""One iteration's object from its parts: timings, the machine's samples, what Ollama lists. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from obt_agent.benchmark import resources, statistics
from obt_agent.benchmark.metrics import Missing
from obt_agent.benchmark.metrics_registry import METRICS
from obt_agent.benchmark.model_processes import NOT_SEEN, MemoryReading
from obt_agent.benchmark.resources import MIB, EdgeReading, Energy, TimeWindow
from obt_agent.benchmark.result import Observed, RequestTimings
from obt_agent.hardware.samples import Sample
from obt_agent.ollama.payloads import RunningModel

NOT_SAMPLED: Final = "this iteration was not sampled, to measure what sampling costs"


class Baseline(NamedTuple):
    """The machine at rest, from the preflight: MiB and watts, each None when not known."""

    rss_mb: float | None = None
    vram_mb: float | None = None
    idle_watts: float | None = None


class Edges(NamedTuple):
    """Energy counters at the edges of an iteration's phases; None where they could not be read."""

    start: EdgeReading | None = None
    first_token: EdgeReading | None = None
    end: EdgeReading | None = None


class MachineContext(NamedTuple):
    """What the agent saw of the machine during one iteration.

    ``memory`` is what the model holds without kept prompts, ``no_process`` why the newest sample lacks one of
    the model's processes. ``first_token_ns`` parts prefill from decode; None when no text came or requests
    overlapped.
    """

    window: TimeWindow
    samples: Sequence[Sample]
    missed: int
    edges: Edges
    baseline: Baseline
    loaded: RunningModel | None
    first_token_ns: int | None
    sampled: bool = True
    memory: MemoryReading = MemoryReading(None)
    no_process: str | None = None


def combine_requests(requests: Sequence[RequestTimings], wall_ms: float) -> RequestTimings:
    """Timings of an iteration of several requests at once: means of speeds and times, sums of counts.

    A field that any request lacks is null, for its mean would be of others.
    """
    if len(requests) == 1:
        return requests[0]
    missing = {field: reason for one in requests for field, reason in one.unavailable.items()}
    # Gaps of streams that interleave would mean nothing.
    missing["inter_chunk_ms"] = "requests ran at once: each has its own"
    reasons = {one.done_reason for one in requests}
    combine: dict[str, Callable[[list[Any]], Any]] = {"mean": statistics.mean, "sum": sum}
    fields = {
        one.name: _combined(requests, one.name, combine[one.aggregation])
        for one in METRICS
        if one.aggregation in combine
    }
    return RequestTimings(
        **fields,
        latency_ms=fields["first_token_ms"],
        total_duration_ms=wall_ms,
        done_reason=next(iter(reasons)) if len(reasons) == 1 else "mixed",
        rejected_counters=tuple(dict.fromkeys(name for one in requests for name in one.rejected_counters)),
        short_output=any(one.short_output for one in requests),
        unavailable=missing,
    )


def _combined(requests: Sequence[RequestTimings], field: str, combine: Callable[[list[Any]], Any]) -> Any:
    values = [getattr(one, field) for one in requests]
    return None if any(value is None for value in values) else combine(values)


def observe(timings: RequestTimings, context: MachineContext) -> Observed:
    """The timings with the machine's figures beside them, null with a reason where nothing was read."""
    missing = Missing(timings.unavailable)
    fields: dict[str, Any] = msgspec.structs.asdict(timings)
    fields |= _of_ollamas_list(context.loaded, missing)
    if context.sampled:
        fields |= _of_samples(context, missing) | _of_energy(timings, context, missing)
    else:
        missing |= dict.fromkeys(_SAMPLED_FIELDS, NOT_SAMPLED)
    _explain_the_rest(fields, missing)
    fields["unavailable"] = dict(missing)
    return Observed(**fields)


_SAMPLED_FIELDS: Final = (
    "memory_usage_mb",
    "memory_peak_mb",
    "gpu_memory_usage_mb",
    "cpu_usage_percent",
    "gpu_usage_percent",
    "gpu_others_percent",
    "cpu_temperature",
    "gpu_temperature",
    "power_usage_watts",
    "energy_joules",
    "throttle",
)


# Figures that are null for another figure's reason, and their own reason where that one is there.
_FOLLOWS: Final = {
    "memory_delta_mb": ("memory_usage_mb", "the server was not seen before the load"),
    "prompt_cache_growth_mb": ("memory_usage_mb", ""),
    "cpu_usage_percent_max": ("cpu_usage_percent", ""),
    "cpu_process_percent": ("memory_peak_mb", "it takes two readings of the process"),
    "cpu_others_percent": ("memory_peak_mb", "it takes two readings of the process"),
    "gpu_usage_percent_max": ("gpu_usage_percent", ""),
    "cpu_temperature_start": ("cpu_temperature", ""),
    "cpu_temperature_end": ("cpu_temperature", ""),
    "gpu_temperature_start": ("gpu_temperature", ""),
    "gpu_temperature_end": ("gpu_temperature", ""),
    "gpu_clock_mhz_mean": ("gpu_usage_percent", "no driver gave it"),
    "gpu_clock_mhz_min": ("gpu_usage_percent", "no driver gave it"),
    "vram_baseline_mb": ("gpu_usage_percent", "the model was loaded before the run, or no driver gave it"),
    "idle_watts": ("power_usage_watts", "no driver gave power before the run"),
    "energy_net_joules": ("energy_joules", "the idle power of what was metered is not known"),
    "energy_uncertainty_joules": ("energy_joules", ""),
    **dict.fromkeys(
        ("energy_prefill_joules", "energy_decode_joules"),
        ("energy_joules", "its own window is too short, or requests overlapped"),
    ),
    **dict.fromkeys(
        ("energy_prefill_uncertainty_joules", "energy_prefill_net_joules"),
        ("energy_prefill_joules", "the idle power of what was metered is not known"),
    ),
    **dict.fromkeys(
        ("energy_decode_uncertainty_joules", "energy_decode_net_joules"),
        ("energy_decode_joules", "the idle power of what was metered is not known"),
    ),
    "joules_per_output_token": ("energy_joules", "no tokens were counted"),
}


def _explain_the_rest(fields: Mapping[str, Any], missing: Missing) -> None:
    for field, (leader, own) in _FOLLOWS.items():
        if fields.get(field) is None:
            missing.setdefault(field, missing.get(leader, own))


def _of_ollamas_list(loaded: RunningModel | None, missing: Missing) -> dict[str, Any]:
    absent = "Ollama did not list the model after the iteration"
    return {
        "model_size_mb": missing.unless(loaded and loaded.size_bytes / MIB, "model_size_mb", absent),
        "size_vram_mb": missing.unless(loaded and loaded.size_vram_bytes / MIB, "size_vram_mb", absent),
        "gpu_offload_ratio": missing.unless(loaded and loaded.gpu_offload_ratio, "gpu_offload_ratio", absent),
    }


def _of_samples(context: MachineContext, missing: Missing) -> dict[str, Any]:
    def mean(reading: resources.Reading) -> resources.Mean | None:
        return resources.over_time(context.samples, context.window, reading)

    cpu, gpu = mean(resources.cpu_percent), mean(resources.gpu_percent)
    rss, clock = mean(resources.ollama_rss), mean(resources.gpu_clock_mhz)
    process, others = mean(resources.ollama_cpu_percent), mean(resources.others_cpu_percent)
    others_gpu = mean(partial(resources.others_gpu_percent, since_ns=context.window.start_ns))
    why_not = _why_no_others(context)
    no_gpu = _why_no_gpu(context.samples)
    return {
        **_host_memory(rss and rss.high, context, missing),
        **_gpu_memory(context, missing, no_gpu),
        "cpu_usage_percent": missing.unless(cpu and cpu.mean, "cpu_usage_percent", "no sample has it"),
        "cpu_usage_percent_max": cpu and cpu.high,
        "cpu_process_percent": process and process.mean,
        "cpu_others_percent": others and others.mean,
        "gpu_usage_percent": missing.unless(gpu and gpu.mean, "gpu_usage_percent", no_gpu),
        "gpu_usage_percent_max": gpu and gpu.high,
        "gpu_others_percent": missing.unless(others_gpu and others_gpu.mean, "gpu_others_percent", why_not),
        **_temperatures(context, missing, no_gpu),
        "gpu_clock_mhz_mean": clock and clock.mean,
        "gpu_clock_mhz_min": clock and clock.low,
        "throttle": missing.unless(
            resources.throttle(context.samples, context.window), "throttle", _why_no_throttle(context.samples)
        ),
        "samples": len(resources.within(context.samples, context.window)),
        "samples_missed": context.missed,
    }


def _host_memory(peak: float | None, context: MachineContext, missing: Missing) -> dict[str, float | None]:
    unseen = context.no_process or NOT_SEEN
    model, before = context.memory.mb, context.baseline.rss_mb
    return {
        "memory_usage_mb": missing.unless(
            model, "memory_usage_mb", unseen if peak is None else context.memory.reason
        ),
        "memory_peak_mb": missing.unless(peak, "memory_peak_mb", unseen),
        "memory_delta_mb": None if model is None or before is None else model - before,
        "prompt_cache_growth_mb": None if model is None or peak is None else peak - model,
    }


def _why_no_gpu(samples: Sequence[Sample]) -> str:
    return "no GPU was seen" if not any(sample.gpus for sample in samples) else "no driver gave it"


def _why_no_others(context: MachineContext) -> str:
    reasons = (gpu.unavailable.get("others_ratio") for one in context.samples for gpu in one.gpus)
    return next(filter(None, reasons), _why_no_throttle(context.samples))


def _why_no_throttle(samples: Sequence[Sample]) -> str:
    return _why_no_gpu(samples) if not any(sample.gpus for sample in samples) else "not read meanwhile"


def _temperatures(context: MachineContext, missing: Missing, no_gpu: str) -> dict[str, float | None]:
    fields: dict[str, float | None] = {}
    for name, reading, reason in (
        ("cpu_temperature", resources.cpu_temperature, "no sensor gave it"),
        ("gpu_temperature", resources.gpu_temperature, no_gpu),
    ):
        known = [
            value
            for sample in resources.within(context.samples, context.window)
            if (value := reading(sample)) is not None
        ]
        fields[name] = missing.unless(max(known, default=None), name, reason)
        fields[f"{name}_start"] = known[0] if known else None
        fields[f"{name}_end"] = known[-1] if known else None
    return fields


def _gpu_memory(context: MachineContext, missing: Missing, no_gpu: str) -> dict[str, Any]:
    """Peak GPU memory: by Ollama's PIDs, else device less baseline, else Ollama's own estimate."""
    by_processes = resources.over_time(context.samples, context.window, resources.ollama_gpu_memory)
    of_device = resources.over_time(context.samples, context.window, resources.gpu_memory_used)
    baseline = context.baseline.vram_mb
    method, peak = None, None
    if by_processes is not None:
        method, peak = "ollama_processes", by_processes.high
    elif of_device is not None and baseline is not None:
        method, peak = "device_minus_baseline", max(of_device.high - baseline, 0.0)
    elif context.loaded is not None and context.loaded.size_vram_bytes:
        method, peak = "ollama_ps", context.loaded.size_vram_bytes / MIB
    return {
        "gpu_memory_usage_mb": missing.unless(peak, "gpu_memory_usage_mb", no_gpu),
        "gpu_memory_method": method,
        "vram_baseline_mb": baseline,
    }


def _of_energy(timings: RequestTimings, context: MachineContext, missing: Missing) -> dict[str, Any]:
    found = resources.energy(context.samples, context.window, context.edges.start, context.edges.end)
    # Two reasons look alike, a null, and call for different remedies.
    short = context.window.seconds < resources.LEAST_ENERGY_WINDOW_S
    why = (
        f"withheld: the window is shorter than {resources.LEAST_ENERGY_WINDOW_S:g} s"
        if short
        else "no counter and no power reading"
    )
    idle = context.baseline.idle_watts
    power = resources.over_time(context.samples, context.window, resources.gpu_power)
    watts = found.joules / context.window.seconds if found else power and power.mean
    scope = found.scope if found else ("gpus" if power else None)
    net = _net(found, idle, context.window)
    n = timings.completion_tokens
    return {
        "power_usage_watts": missing.unless(watts, "power_usage_watts", "no driver gave power or energy"),
        "power_scope": scope,
        "idle_watts": idle,
        "energy_joules": missing.unless(found and found.joules, "energy_joules", why),
        "energy_net_joules": net,
        "energy_uncertainty_joules": found and found.uncertainty,
        "energy_method": found and found.method,
        **_split(context),
        "joules_per_output_token": found.joules / n if found and n else None,
    }


def _net(found: Energy | None, idle_watts: float | None, window: TimeWindow) -> float | None:
    """Less the idle power, which is known of GPUs only."""
    if found is None or idle_watts is None or found.scope != "gpus":
        return None
    return found.joules - idle_watts * window.seconds


def _split(context: MachineContext) -> dict[str, float | None]:
    """Energy before and after the first token, each withheld when its own window is too short."""
    # Without one first token there is no moment that parts prefill from decode.
    if context.first_token_ns is None:
        return {}
    edges, first_ns = context.edges, context.first_token_ns
    fields: dict[str, float | None] = {}
    for part, window, start, end in (
        ("prefill", TimeWindow(context.window.start_ns, first_ns), edges.start, edges.first_token),
        ("decode", TimeWindow(first_ns, context.window.end_ns), edges.first_token, edges.end),
    ):
        found = resources.energy(context.samples, window, start, end)
        fields[f"energy_{part}_joules"] = found and found.joules
        fields[f"energy_{part}_net_joules"] = _net(found, context.baseline.idle_watts, window)
        fields[f"energy_{part}_uncertainty_joules"] = found and found.uncertainty
    return fields
