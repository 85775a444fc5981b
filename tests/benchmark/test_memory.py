"""Memory is the model's: real processes, of one Ollama and of others beside it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from obt_agent.benchmark.compare import compare
from obt_standin import Model, Script
from obt_standin.script import ModelBlob
from tests.benchmark.ollama_process import measured, ollama

# Real processes, and the names that only Linux lets a program give itself.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

KEPT_MB = 16
MODEL = "m:1"
# The system counts pages, and Python takes some for itself.
ROUNDING_MB = 6.0


def script(**changes: object) -> Script:
    fields: dict[str, object] = {
        "models": [
            Model(name=name, blobs=(ModelBlob(f"sha256:{digit * 64}", 1),))
            for name, digit in ((MODEL, "a"), ("other:1", "b"))
        ],
        "runner_processes": True,
        "runner_memory_mb": 64,
        "decode_tps": 200.0,
        "prefill_tps": 4000.0,
        "tokens": 500,
    }
    return Script(**{**fields, **changes})  # type: ignore[arg-type] # the fields are the script's own


async def test_prompts_that_ollama_keeps_are_growth_and_no_memory_of_the_model(tmp_path: Path) -> None:
    async with ollama(tmp_path, script(prompt_cache_mb=KEPT_MB)) as one:
        result = await measured(one.url, MODEL, iterations=4, keep_alive="5m")
    memory = result.summary["memory_usage_mb"]
    assert (memory.n, memory.ci_low) == (1, None), "one load is one observation"
    # Two warm-ups came first: by the end of an iteration all prompts but the last one are kept.
    grown = [one.prompt_cache_growth_mb for one in result.metrics]
    assert grown == pytest.approx([KEPT_MB * n for n in (2, 3, 4, 5)], abs=ROUNDING_MB)
    assert all("prompts_kept" in one.flags for one in result.metrics)
    assert [one.memory_peak_mb for one in result.metrics] == pytest.approx(
        [memory.median + KEPT_MB * n for n in (2, 3, 4, 5)], abs=ROUNDING_MB
    )


async def test_without_a_cache_of_prompts_nothing_grows(tmp_path: Path) -> None:
    async with ollama(tmp_path, script(prompt_cache_mb=KEPT_MB, prompt_cache_limit_mb=0)) as one:
        result = await measured(one.url, MODEL)
    assert result.summary["prompt_cache_growth_mb"].max < ROUNDING_MB
    assert not any("prompts_kept" in one.flags for one in result.metrics)


async def test_two_runs_of_one_plan_agree_though_the_first_one_left_prompts(tmp_path: Path) -> None:
    async with ollama(tmp_path, script(prompt_cache_mb=KEPT_MB)) as one:
        first = await measured(one.url, MODEL)
        again = await measured(one.url, MODEL)
        # Another program's prompts, of before the third run.
        for number in range(4):
            await one.post("/api/generate", model=MODEL, prompt=f"{number} and more", stream=False)
        loaded = await measured(one.url, MODEL)
    assert first.summary["memory_usage_mb"].median == pytest.approx(
        again.summary["memory_usage_mb"].median, abs=ROUNDING_MB
    )
    assert "memory_usage_mb" in compare(first, again).cells[0].ratios
    assert [one.memory_usage_mb for one in loaded.metrics] == [None] * 3
    assert "loaded before the run" in loaded.metrics[0].unavailable["memory_usage_mb"]
    assert loaded.metrics[0].memory_peak_mb is not None
    assert "memory_usage_mb" not in compare(first, loaded).cells[0].ratios


async def test_a_second_ollama_with_the_same_model_changes_no_figure(tmp_path: Path) -> None:
    async with ollama(tmp_path, script()) as ours, ollama(tmp_path, script()) as other:
        await other.post("/api/generate", model=MODEL, prompt="Hi", stream=False)
        # Loaded before, so that its runner can be asked at the end.
        await ours.post("/api/generate", model=MODEL, prompt="Hi", stream=False)
        result = await measured(ours.url, MODEL)
        truth = ours.resident_mb("a" * 64)
    assert result.metrics[-1].memory_peak_mb == pytest.approx(truth, abs=ROUNDING_MB)


async def test_the_runner_of_another_model_is_not_counted(tmp_path: Path) -> None:
    async with ollama(tmp_path, script()) as one:
        await one.post("/api/generate", model="other:1", prompt="Hi", stream=False)
        both = await measured(one.url, MODEL)
    async with ollama(tmp_path, script()) as one:
        alone = await measured(one.url, MODEL)
    expected = alone.summary["memory_usage_mb"].median
    assert both.summary["memory_usage_mb"].median == pytest.approx(expected, abs=ROUNDING_MB)
    assert both.metrics[-1].memory_peak_mb == pytest.approx(expected, abs=ROUNDING_MB)
    assert both.metrics[0].memory_delta_mb == pytest.approx(alone.metrics[0].memory_delta_mb, abs=ROUNDING_MB)
    # The runner itself: Python, and what it was told to hold.
    assert 64 < (both.metrics[0].memory_delta_mb or 0) < 64 + 32
