"""A loaded model as a process of its own: what its command line says and what it holds."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

from obt_standin import Model, Script
from obt_standin.script import ModelBlob
from tests.benchmark.ollama_process import MIB, OllamaProcesses, ollama

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="a program names itself in /proc"),
]
BLOB = "a" * 64


def script(**changes: object) -> Script:
    fields: dict[str, object] = {
        "models": [Model(name="m:1", blobs=(ModelBlob(f"sha256:{BLOB}", 1),))],
        "runner_processes": True,
        "tokens": 2,
    }
    return Script(**{**fields, **changes})  # type: ignore[arg-type] # the fields are the script's own


def runners(of: OllamaProcesses) -> list[psutil.Process]:
    return psutil.Process(of.pid).children()


async def say(to: OllamaProcesses, prompt: str, **fields: object) -> None:
    await to.post("/api/generate", model="m:1", prompt=prompt, stream=False, **fields)


async def test_a_loaded_model_is_a_child_that_names_its_weights_and_ends_when_unloaded(
    tmp_path: Path,
) -> None:
    async with ollama(tmp_path, script()) as one:
        assert psutil.Process(one.pid).name() == "ollama"
        assert runners(one) == []
        await say(one, "Hi")
        (runner,) = runners(one)
        assert runner.name() == "llama-server"
        words = runner.cmdline()
        assert words[words.index("--model") + 1].endswith(f"/blobs/sha256-{BLOB}")
        assert int(words[words.index("--port") + 1]) > 0
        assert runner.memory_info().rss > 32 * MIB
        await one.post("/api/generate", model="m:1", keep_alive=0)
        assert runners(one) == []


async def test_before_llama_server_the_runner_is_ollamas_own_program(tmp_path: Path) -> None:
    async with ollama(tmp_path, script(version="0.12.6-standin")) as one:
        await say(one, "Hi")
        words = runners(one)[0].cmdline()
    assert words[-6:-1][:3] == ["runner", "--ollama-engine", "--model"]


async def test_finished_prompts_are_kept_up_to_the_limit_and_not_where_they_go_on(tmp_path: Path) -> None:
    async with ollama(tmp_path, script(prompt_cache_mb=20, prompt_cache_limit_mb=30)) as one:
        await say(one, "one two three four five six")
        at_first = runners(one)[0].memory_info().rss
        await say(one, "one two three four five six and more")
        assert runners(one)[0].memory_info().rss - at_first < 10 * MIB, "it goes on in its slot"
        await say(one, "another thing altogether")
        kept = runners(one)[0].memory_info().rss - at_first
        assert kept == pytest.approx(20 * MIB, abs=5 * MIB)
        await say(one, "a third thing that nobody said")
        assert runners(one)[0].memory_info().rss - at_first == pytest.approx(30 * MIB, abs=5 * MIB)


async def test_the_runner_ends_with_a_server_that_is_killed(tmp_path: Path) -> None:
    async with ollama(tmp_path, script()) as one:
        await say(one, "Hi")
        (runner,) = runners(one)
        psutil.Process(one.pid).kill()
        async with asyncio.timeout(60):
            # Its new parent may be slow to collect it.
            while runner.is_running() and runner.status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110 -- the system has no event for it
                await asyncio.sleep(0.05)
