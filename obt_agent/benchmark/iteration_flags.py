"""Flags that an iteration shows by itself, as it ends. Pure."""

from __future__ import annotations

from typing import Final

from obt_agent.benchmark.result import IterationMetrics
from obt_agent.benchmark.run_flags import (
    LENGTH_TOLERANCE,
    LENGTH_TOLERANCE_TOKENS,
    QUEUED_LEAST_MS,
    QUEUED_SHARE,
    ExpectedConditions,
)
from obt_agent.ollama.payloads import RunningModel

RELOAD_FACTOR: Final = 5.0
"""A load this many times as long as with the model warm, and of at least ``RELOAD_LEAST_MS``, is a reload."""
RELOAD_LEAST_MS: Final = 100.0


def flags(one: IterationMetrics, expected: ExpectedConditions, loaded: RunningModel | None) -> set[str]:
    """The flags of one iteration, given what was planned and what ``/api/ps`` lists after it."""
    raised = {
        "short_output": one.short_output,
        "counters_rejected": bool(one.rejected_counters),
        "no_text": one.chunks == 0,
        "prompt_length_off": _length_off(one, expected),
        "prompt_truncated": _truncated(one, expected),
        "queued": _queued(one),
        "throttled_thermal": one.throttle is not None and one.throttle.thermal_ms > 0,
        "throttled_power": one.throttle is not None and one.throttle.power_ms > 0,
        "samples_missed": one.samples_missed > 0,
        "reloaded": reloaded(one.load_ms, expected.warm_load_ms),
    }
    return {flag for flag, yes in raised.items() if yes} | _by_list(expected, loaded)


def reloaded(load_ms: float | None, warm_ms: float | None) -> bool:
    """Whether a request that should have found the model loaded waited for a load."""
    if load_ms is None:
        return False
    return load_ms > max(RELOAD_LEAST_MS, RELOAD_FACTOR * (warm_ms or 0.0))


def _by_list(expected: ExpectedConditions, loaded: RunningModel | None) -> set[str]:
    found: set[str] = set()
    if loaded is None:
        return found
    if loaded.context_length is not None and loaded.context_length < expected.num_ctx:
        found.add("num_ctx_clamped")
    if expected.digest is not None and loaded.digest != expected.digest:
        found.add("model_changed")
    return found


def _length_off(one: IterationMetrics, expected: ExpectedConditions) -> bool:
    if expected.prompt_tokens is None or one.prompt_tokens is None:
        return False
    requests = max(len(one.requests), 1)
    return not near(one.prompt_tokens / requests, expected.prompt_tokens)


def near(tokens: float, planned: int) -> bool:
    """Whether a prompt is as long as planned, within the tolerance."""
    return abs(tokens - planned) <= max(LENGTH_TOLERANCE_TOKENS, LENGTH_TOLERANCE * planned)


def _truncated(one: IterationMetrics, expected: ExpectedConditions) -> bool:
    """Whether the prompt filled the context: Ollama cuts what is longer and says so only in its log."""
    counts = [request.prompt_tokens for request in one.requests] or [one.prompt_tokens]
    return any(count is not None and count >= expected.num_ctx - 1 for count in counts)


def _queued(one: IterationMetrics) -> bool:
    if one.queue_ms_max is None or not one.total_duration_ms:
        return False
    return one.queue_ms_max > max(QUEUED_LEAST_MS, QUEUED_SHARE * one.total_duration_ms)
