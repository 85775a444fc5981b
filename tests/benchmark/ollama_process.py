"""The stand-in as the machine's list of processes shows an Ollama: a server with a child for each model."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
import psutil

from obt_agent.benchmark.plan import Plan, PromptConfig
from obt_agent.benchmark.records import NullJournal
from obt_agent.benchmark.result import BenchmarkResult
from obt_agent.benchmark.run import BenchmarkRun, RunDeadlines
from obt_agent.config.schema import HardwareConfig, OllamaConfig
from obt_agent.hardware.service import HardwareService
from obt_agent.ollama.client import OllamaClient
from obt_standin import Script
from tests.ports import free_port

MIB = 1 << 20


class OllamaProcesses(NamedTuple):
    """One such Ollama."""

    url: str
    pid: int

    async def post(self, path: str, **fields: Any) -> None:
        """As another program asks it; waits for the end of the answer."""
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.url}{path}", data=msgspec.json.encode(fields)) as answer,
        ):
            await answer.read()

    def resident_mb(self, weights: str) -> float:
        """MiB of the server and of its child that runs these weights, as psutil reads them."""
        server = psutil.Process(self.pid)
        runners = [one for one in server.children() if any(weights in word for word in one.cmdline())]
        assert len(runners) == 1
        return sum(one.memory_info().rss for one in (server, *runners)) / MIB


@asynccontextmanager
async def ollama(folder: Path, script: Script) -> AsyncIterator[OllamaProcesses]:
    """Run one until the context ends."""
    address = f"127.0.0.1:{free_port()}"
    written = folder / f"{address}.json"
    written.write_bytes(msgspec.json.encode(script))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "obt_standin", "serve", "--script", str(written)),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"OLLAMA_HOST": address},
    )
    try:
        async with asyncio.timeout(60):
            assert process.stdout is not None
            url = msgspec.json.decode(await process.stdout.readline())["url"]
        yield OllamaProcesses(url, process.pid)
    finally:
        # A test may have killed it.
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def measured(url: str, model: str, *, iterations: int = 3, **changes: Any) -> BenchmarkResult:
    """One benchmark with the machine's real readings, each request longer than two samples are apart."""
    plan = Plan(
        model_name=model,
        prompt_config=PromptConfig(prompt_tokens=40, completion_tokens=100),
        num_iterations=iterations,
        warmup_iterations=2,
        min_duration_s=0.0,
        cooldown_s=0.0,
        sample_interval_ms=200,
        **changes,
    )
    hardware = HardwareService(HardwareConfig(min_interval_s=0.2), ollama_url=url)
    await hardware.start()
    try:
        async with asyncio.timeout(110), OllamaClient(OllamaConfig(url=url)) as client:
            run = BenchmarkRun(
                plan,
                job_id="memory",
                client_id="memory",
                ollama=client,
                hardware=hardware,
                journal=NullJournal(),
                on_progress=lambda _: None,
                # Long enough for a machine at load 20: a sample that comes late is waited for.
                limits=RunDeadlines(settle_s=30.0, settle_samples=1, runner_s=30.0),
            )
            return await run.execute()
    finally:
        await hardware.close()


@contextlib.contextmanager
def spinning(programs: int = 1) -> Iterator[None]:
    """Other programs, each of which keeps a core busy until the context ends."""
    words = (sys.executable, "-c", "print(flush=True)\nwhile True: pass")
    with contextlib.ExitStack() as stack:
        for _ in range(programs):
            program = stack.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE))
            stack.callback(program.kill)
            assert program.stdout is not None
            # It spins from here on.
            program.stdout.readline()
        yield
