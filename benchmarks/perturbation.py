"""What the agent's sampler does to the speed it measures: ``python -m benchmarks.perturbation``.

One benchmark whose iterations are sampled and unsampled in turns, neighbours taken as pairs: the ratio of
decode speeds with its 95 % interval. Against the stand-in in a process of its own, and against the smallest
local model of the Ollama at OLLAMA_URL where one answers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from obt_agent.benchmark.plan import Plan, PromptConfig
from obt_agent.benchmark.records import Forgetful
from obt_agent.benchmark.result import BenchmarkResult
from obt_agent.benchmark.run import BenchmarkRun, Limits
from obt_agent.errors import AgentError
from obt_agent.hardware.service import HardwareService, HardwareSettings
from obt_agent.log_setup.setup import LogSettings, configure
from obt_agent.ollama.client import OllamaClient, OllamaSettings

AIM = 0.005
SCRIPT = {"decode_tps": 200, "prefill_tps": 5000, "tokens": 400}


@contextmanager
def standin_process() -> Iterator[str]:
    """The stand-in in a process of its own; gives its address."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "script.json"
        script.write_text(json.dumps(SCRIPT))
        command = [sys.executable, "-m", "obt_standin", "--script", str(script)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                yield json.loads(process.stdout.readline())["url"]
            finally:
                process.terminate()


async def smallest_model(url: str) -> str | None:
    """The smallest local model that generates; None when no Ollama answers or it has none."""
    try:
        async with OllamaClient(OllamaSettings(url=url, connect_timeout_s=2, retries=1)) as ollama:
            models = await ollama.installed()
    except AgentError:
        return None
    local = [one for one in models if not one.remote_host and "embedding" not in one.capabilities]
    return min(local, key=lambda one: one.size_bytes).name if local else None


async def measure(url: str, model: str, pairs: int, tokens: int) -> BenchmarkResult:
    """Sampled and unsampled iterations in turns."""
    plan = Plan(
        model_name=model,
        prompt_config=PromptConfig(prompt_tokens=64, completion_tokens=tokens),
        num_iterations=2 * pairs,
        temperature=0.0,
        seed=1,
        cooldown_s=0.0,
        alternate_sampling=True,
    )
    hardware = HardwareService(HardwareSettings(ollama_url=url))
    await hardware.start()
    try:
        async with OllamaClient(OllamaSettings(url=url)) as ollama:
            run = BenchmarkRun(
                plan,
                job_id="perturbation",
                client_id="perturbation",
                ollama=ollama,
                hardware=hardware,
                journal=Forgetful(),
                on_progress=lambda _: None,
                limits=Limits(),
            )
            return await run.execute()
    finally:
        await hardware.close()


def row(name: str, result: BenchmarkResult) -> tuple[str, ...]:
    """One line of the table."""
    sampler, speed = result.sampler, result.summary.get("decode_tps_corrected")
    if result.status != "completed" or sampler is None or sampler.effect is None or speed is None:
        return (name, result.status, result.error or "", "", "", "")
    effect = sampler.effect
    interval = (
        f"{effect.ci_low - 1:+.2%} to {effect.ci_high - 1:+.2%}"
        if effect.ci_low is not None and effect.ci_high is not None
        else "too few pairs"
    )
    worst = max(1 - (effect.ci_low or 0.0), 0.0)
    verdict = "shown" if worst <= AIM else "not shown: more pairs, or a quieter machine"
    return (
        name,
        f"{speed.median:.2f}",
        f"{effect.ratio - 1:+.2%}",
        interval,
        f"{sampler.cpu_percent or 0:.2f} %",
        verdict,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=400)
    given = parser.parse_args(argv)
    configure(LogSettings(level="error"))
    table = Table(
        box=box.SIMPLE_HEAD, title="Decode speed with the sampler on, over off, in interleaved pairs"
    )
    for heading in (
        "Model",
        "tok/s",
        "Difference",
        "95 % interval",
        "Sampler, of a core",
        f"≤ {AIM:.1%} lost",
    ):
        table.add_column(heading)
    with standin_process() as url:
        table.add_row(*row("stand-in", asyncio.run(measure(url, "standin-small", given.pairs, given.tokens))))
    real = os.environ.get("OLLAMA_URL", "http://127.0.0.1:11434")
    model = asyncio.run(smallest_model(real))
    if model is not None:
        table.add_row(*row(model, asyncio.run(measure(real, model, given.pairs, given.tokens))))
    Console().print(table)
    if model is None:
        print(f"No Ollama with a local model answers at {real}: measured on the stand-in only.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
