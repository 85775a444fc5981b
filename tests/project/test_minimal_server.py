"""The document suffices: a server written from it alone serves a real agent."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import yaml

from obt_agent.protocol.limits import INLINE_RESULT_BYTES, LINK_CREDIT_BYTES
from obt_standin import Script, StandIn
from tests.project.paths import ROOT
from tests.waiting import until

pytestmark = pytest.mark.slow

WITHIN_S = 100
TOKENS = 12_000
"""Of the generation: their chunks are several times the credit that a session opens with."""
CHUNK_OVER_TEXT = 10
"""A chunk names its model and time beside its text: it is longer by more than this factor."""


@asynccontextmanager
async def running(*arguments: str | Path, log: Path) -> AsyncIterator[asyncio.StreamReader]:
    """A program of the project, its standard output, and its end."""
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *map(str, arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            limit=1 << 20,
            env={
                name: value for name, value in os.environ.items() if not name.startswith(("OBT_", "OLLAMA"))
            },
        )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.terminate()
        await process.wait()


async def line_with(output: asyncio.StreamReader, beginning: str) -> str:
    """The next line that begins so."""
    while line := (await output.readline()).decode():
        if line.startswith(beginning):
            return line.removeprefix(beginning).strip()
    raise AssertionError(f"the program ended before it said {beginning!r}")


def agent_config(folder: Path, server: str, ollama: str) -> Path:
    path = folder / "agent.yaml"
    config = {
        "server": {"url": server, "token_file": str(folder / "token")},
        "ollama": {"url": ollama},
        "agent": {"name": "box", "state_dir": str(folder / "state")},
        "benchmark": {"lock_dir": str(folder / "locks"), "cooldown_s": 0.0},
    }
    path.write_text(yaml.safe_dump(config))
    return path


async def test_a_server_written_from_the_document_alone_serves_a_real_agent(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a-credential-of-this-test-0123456789\n")
    token.chmod(0o600)
    script = Script(fast=True, numbered=True, tokens=TOKENS, thinking_tokens=0)
    async with asyncio.timeout(WITHIN_S), AsyncExitStack() as stack:
        ollama = await stack.enter_async_context(StandIn(script))
        example = ROOT / "docs/examples/minimal_server.py"
        server = await stack.enter_async_context(
            running(example, token, "0", tmp_path, log=tmp_path / "server.log")
        )
        url = await line_with(server, "listening on ")
        config = agent_config(tmp_path, url, ollama.url)
        await stack.enter_async_context(
            running("-m", "obt_agent", "run", "--config", config, log=tmp_path / "agent.log")
        )

        assert await line_with(server, "admitted: ") == "box"
        models = (await line_with(server, "models: ")).split(", ")
        text = (await server.readline()).decode()
        answer = json.loads(await line_with(server, "answer: "))
        started = json.loads(await line_with(server, "benchmark: "))
        job, state, stored = re.split(r" |, stored as ", await line_with(server, "job "))
        await until(lambda: "job.acknowledged" in (tmp_path / "agent.log").read_text())

    assert set(models) == {model.name for model in script.models if not model.remote_host}
    assert text.split() == [str(number) for number in range(TOKENS)], "every chunk, in order"
    assert len(text) * CHUNK_OVER_TEXT > 4 * LINK_CREDIT_BYTES, "no first credit covers it"
    assert answer["result"]["final"]["eval_count"] >= TOKENS
    assert answer["result"]["stream"]["next_seq"] > 1
    assert started["result"]["job_id"] == job
    assert state == "completed"
    result = (tmp_path / stored).read_bytes()
    assert hashlib.sha256(result).hexdigest() == stored.removesuffix(".json")
    assert len(result) > INLINE_RESULT_BYTES, "large enough to go in pieces"
    assert len(json.loads(result)["metrics"]) == 10
    assert json.loads(result)["config"]["prompt_config"]["completion_tokens"] == 32, "no field was ignored"
