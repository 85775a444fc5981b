"""``make test-ollama`` against the stand-in as the list of processes shows an Ollama, and against none."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from obt_standin import Model, Script
from tests.benchmark.ollama_process import ollama

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.timeout(600),
]
# Of these a loaded machine moves neither side.
SURE = (
    *("list_models", "running_models", "generate", "chat", "embed", "pull_model"),
    *("tokens_per_second", "prefill_tps", "prompt_tokens", "completion_tokens"),
    *("load_ms", "prompt_eval_ms", "eval_ms", "server_total_ms"),
)
TIMED = (
    *("first_token_ms", "average_token_ms", "decode_tps_corrected", "total_duration_ms", "output_tps_wall"),
    *("ttft_excluding_slot_ms", "memory_peak_mb", "memory_usage_mb"),
)


async def run(url: str, **variables: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.real_ollama"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"OLLAMA_URL": url} | variables,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_every_command_is_run_and_every_figure_compared(tmp_path: Path) -> None:
    script = Script(
        runner_processes=True,
        prompt_cache_mb=4,
        slot_save_s=0.02,
        decode_tps=100,
        prefill_tps=2000,
        tokens=400,
        registry=[Model(name="extra:1b")],
    )
    async with ollama(tmp_path, script) as one:
        status, output = await run(one.url, OBT_TEST_PULL="extra:1b")
    assert "Every command of the protocol was run once." in output, output
    rows = dict(re.findall(r"^  (\w+)\b.* (ok|OFF) *$", output, re.MULTILINE))
    assert {name: rows.get(name) for name in SURE} == dict.fromkeys(SURE, "ok"), output
    assert set(TIMED) <= rows.keys(), output
    # A figure that is off is the exit status.
    assert status == (1 if " OFF" in output else 0)


async def test_where_no_ollama_answers_it_is_skipped_with_a_word() -> None:
    status, output = await run("http://127.0.0.1:9")
    assert status == 0
    assert output.startswith("Skipped: no Ollama answers at http://127.0.0.1:9")
