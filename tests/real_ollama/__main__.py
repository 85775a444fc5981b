"""``make test-ollama``: every command and every figure against the Ollama at ``OLLAMA_URL``.

A server and two agents of this project are started. The first is at that Ollama: every command once, and
a benchmark whose memory and CPU are held against psutil's readings of the same processes. The second is at a
relay before it that stamps each byte: lists and answers are held against Ollama's own, and a benchmark's
times and rates against the stamps and the counters that went by. Each figure is printed beside what it was
compared with; exit status 1 when a command failed or a figure is off, 0 and a word when no Ollama answers.

``OBT_TEST_PULL=NAME`` lets the second agent pull that model, and pulls it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from rich import box
from rich.console import Console
from rich.table import Table

from obt_agent.benchmark.preflight import weights
from obt_agent.benchmark.result import BenchmarkResult
from obt_agent.config.schema import OllamaConfig
from obt_agent.errors import AgentError
from obt_agent.ollama.client import OllamaClient
from obt_server.client import ApiError, Client
from obt_server.demo.environment import DemoEnvironment, demo_environment
from obt_server.demo.machines import machine
from obt_server.demo.ollama_target import answering, wanted
from obt_server.demo.processes import ChildFailed
from obt_server.demo.report import SmokeReport
from obt_server.demo.smoke_test import SmokeTest, run_smoke_test
from tests.ports import free_port
from tests.real_ollama.figures import RELAY_MS, Compared, by_processes, by_relay
from tests.real_ollama.process_readings import reading
from tests.real_ollama.tap import Exchange, Tap

ITERATIONS: Final = 5
TOKENS: Final = 96
PROMPT: Final = "Name three rivers."
BENCHMARK_WITHIN_S: Final = 1800.0
PULL_WITHIN_S: Final = 3600.0
WIDE: Final = 130


class Same(NamedTuple):
    """Something that is equal to Ollama's own, or is not."""

    what: str
    other: str
    equal: bool
    shown: str


def plan(model: str) -> dict[str, Any]:
    """A short benchmark of one model; unsampled at first, its prompts have their length by then."""
    return {
        "model_name": model,
        "num_iterations": ITERATIONS,
        "max_iterations": ITERATIONS,
        "cooldown_s": 0.0,
        "min_duration_s": 0.0,
        "sample_interval_ms": 250,
        "prompt_config": {"prompt_tokens": 64, "completion_tokens": TOKENS},
    }


async def benchmark(client: Client, agent: str, model: str) -> BenchmarkResult:
    """The result of one, through the server."""
    job = await client.post("/benchmarks", {"agent": agent, "plan": plan(model)})
    await ended(client, job["job_id"], BENCHMARK_WITHIN_S)
    result = msgspec.convert(await client.get(f"/benchmarks/{job['job_id']}/result"), BenchmarkResult)
    if result.status != "completed":
        raise ChildFailed(f"the benchmark ended {result.status}: {result.error}")
    return result


async def ended(client: Client, job_id: str, within_s: float) -> dict[str, Any]:
    """The job as it ended."""
    async with asyncio.timeout(within_s):
        async for name, data in client.events("GET", f"/benchmarks/{job_id}/progress"):
            if name == "end":
                job: dict[str, Any] = data
                return job
    raise ChildFailed(f"the progress of job {job_id} broke off")


async def with_processes(ready: DemoEnvironment, model: str) -> list[Compared]:
    """Memory and CPU of a benchmark beside psutil's."""
    async with OllamaClient(OllamaConfig(url=ready.target.url)) as ollama:
        # The run loads it itself, so that its memory is known from the first answer on.
        await ollama.unload(model)
        blob = await weights(ollama, model)
    async with reading(ready.target.url, blob) as found:
        result = await benchmark(ready.client, ready.agent_id, model)
    compared = list(by_processes(result, found))
    if not compared:
        reason = next((one.unavailable.get("memory_peak_mb") for one in result.metrics), None)
        sys.stdout.write(
            f"Memory and CPU are compared with nothing: {reason or 'psutil cannot read those processes'}.\n"
        )
    return compared


async def with_relay(folder: Path, ready: DemoEnvironment, model: str) -> tuple[list[Same], list[Compared]]:
    """Lists, answers and a benchmark beside what went over a relay."""
    tap = Tap(ready.target.url)
    folder.mkdir()
    pulled = os.environ.get("OBT_TEST_PULL")
    async with tap.listening() as url:
        config: dict[str, Any] = {
            "server": {"url": ready.url},
            "ollama": {"url": url},
            "agent": {"name": "relayed"},
        }
        if pulled:
            config["policy"] = {"allow_changes": ["pull_model"]}
        async with machine(folder, ready.client, config) as agent:
            same = [one async for one in _equal(ready.client, agent, tap, model)]
            if pulled:
                same.append(await _pull(ready.client, agent, tap, pulled))
            tap.exchanges.clear()
            result = await benchmark(ready.client, agent, model)
    return same, list(by_relay(result, tap.exchanges, turn_ms()))


def turn_ms() -> float:
    """What a turn of either program may take: where more want a CPU than there are, all wait for theirs."""
    return RELAY_MS * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


async def _equal(client: Client, agent: str, tap: Tap, model: str) -> AsyncIterator[Same]:
    listed = (await client.command(agent, "list_models", {}))["models"]
    ours = sorted((one["name"], one["digest"], one["size_bytes"]) for one in listed)
    # Those that run elsewhere are hidden unless the owner allows them.
    theirs = sorted(
        (one["name"], one["digest"], one["size"])
        for one in latest(tap, "/api/tags")["models"]
        if not one.get("remote_host")
    )
    yield Same("list_models", "/api/tags: names, digests, sizes", ours == theirs, f"{len(ours)} models")
    for method, field, body in (
        (
            "generate",
            "response",
            {"model": model, "prompt": PROMPT, "options": {"num_predict": 24, "seed": 1}},
        ),
        (
            "chat",
            "message",
            {
                "model": model,
                "messages": [{"role": "user", "content": PROMPT}],
                "options": {"num_predict": 24, "seed": 1},
            },
        ),
    ):
        yield await _streamed(client, agent, tap, method, field, body)
    running = (await client.command(agent, "running_models", {}))["models"]
    there = latest(tap, "/api/ps")["models"]
    equal = {(one["name"], one["size_vram_bytes"]) for one in running} == {
        (one["name"], one["size_vram"]) for one in there
    }
    yield Same("running_models", "/api/ps: names, GPU memory", equal, f"{len(running)} loaded")
    able = [one["name"] for one in listed if "embedding" in (one.get("capabilities") or [])]
    if able:
        yield await _embedded(client, agent, tap, able[0])


async def _streamed(
    client: Client, agent: str, tap: Tap, method: str, field: str, body: dict[str, Any]
) -> Same:
    """The text that came over the server, beside the relay's."""
    seen: list[Any] = []
    async for name, data in client.stream(agent, method, body):
        if name == "item":
            seen.append(data["chunk"].get(field))
    exchange = next(_exchanges(tap, f"/api/{method}"))
    there = [line.get(field) for _, line in exchange.lines if not line.get("done")]
    # The last line is the command's final, and holds no text of its own.
    mine = seen[: len(there)]
    return Same(method, "each line's text, as the relay saw it", mine == there, f"{len(there)} lines")


async def _embedded(client: Client, agent: str, tap: Tap, model: str) -> Same:
    answer = await client.command(agent, "embed", {"model": model, "input": [PROMPT]})
    there = latest(tap, "/api/embed")["embeddings"]
    return Same("embed", "/api/embed: each number", answer["embeddings"] == there, f"{len(there[0])} numbers")


async def _pull(client: Client, agent: str, tap: Tap, model: str) -> Same:
    job = await client.command(agent, "pull_model", {"model": model})
    state = (await ended(client, job["job_id"], PULL_WITHIN_S))["state"]
    await client.command(agent, "list_models", {})
    listed = {one["name"] for one in latest(tap, "/api/tags")["models"]}
    there = any(name.startswith(model) for name in listed)
    return Same("pull_model", "/api/tags lists it", state == "completed" and there, f"{model} {state}")


def _exchanges(tap: Tap, path: str) -> Iterator[Exchange]:
    """Those of a path, the newest first."""
    return (one for one in reversed(tap.exchanges) if f" {path} ".encode() in one.request)


def latest(tap: Tap, path: str) -> dict[str, Any]:
    """The newest answer of which all has come: the agent asks by itself, too, and may be in the middle."""
    answers = (one.whole for one in _exchanges(tap, path))
    return next(one for one in answers if one is not None)


def show(console: Console, same: Sequence[Same], compared: Sequence[Compared]) -> int:
    """The table; returns how many are off."""
    title = "Figures beside what each was compared with"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for heading, justify in (
        ("Figure", "left"),
        ("Agent", "right"),
        ("Compared with", "left"),
        ("That", "right"),
        ("Off", "right"),
        ("Allowed ±", "right"),
        ("", "left"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type] # the words are rich's own
    for one in same:
        table.add_row(one.what, one.shown, one.other, "", "", "equal", "ok" if one.equal else "OFF")
    for figure in compared:
        off = figure.ours / figure.theirs - 1 if figure.theirs else 0.0
        table.add_row(
            figure.figure,
            f"{figure.ours:,.3f}",
            figure.other,
            f"{figure.theirs:,.3f}",
            f"{off:+.2%}",
            f"{figure.allowed:,.3f}",
            "ok" if figure.passes else "OFF",
        )
    console.print(table)
    off_count = sum(not one.equal for one in same) + sum(not one.passes for one in compared)
    total = len(same) + len(compared)
    console.print(f"{total - off_count} of {total} agree (load {os.getloadavg()[0]:.1f})")
    return off_count


async def run(folder: Path, console: Console) -> int:
    """Everything; the exit status."""
    url = wanted(os.environ.get("OLLAMA_URL") or OllamaConfig().url)
    if await answering(url) is None:
        console.print(f"Skipped: no Ollama answers at {url} (set OLLAMA_URL).")
        return 0
    async with demo_environment(folder, free_port()) as ready:
        report = SmokeReport(console, ready.target)
        report.head(ready.target, ready.url)
        test = await run_smoke_test(ready.client, ready.agent_id, report.step)
        status = report.verdict()
        model = _model(test)
        if model is None:
            return status
        compared = await with_processes(ready, model)
        same, relayed = await with_relay(folder / "relayed", ready, model)
    return 1 if show(console, same, [*relayed, *compared]) else status


def _model(test: SmokeTest) -> str | None:
    with contextlib.suppress(Exception):
        return test.model
    sys.stdout.write("No model that generates is installed: no figure was compared.\n")
    return None


def main() -> int:
    """Exit status 0 when everything holds, or no Ollama answers."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    try:
        with tempfile.TemporaryDirectory(prefix="obt-ollama-") as folder:
            return asyncio.run(run(Path(folder), console))
    except (ChildFailed, ApiError, AgentError) as error:
        console.print(f"Not ended: {error}", style="red")
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
