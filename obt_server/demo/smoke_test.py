"""Every command of the protocol once, through the server's public API.

Each stop is one command; the table must name every command of the protocol, so that a new one cannot be
forgotten. A stop gives what it saw, or raises ``CommandFailed`` with what was expected.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from obt_agent.protocol.methods import COMMANDS
from obt_server.demo.client import ApiError, Client, JsonObject

PROMPT: Final = "Explain in three sentences why the sky is blue."
NO_MODEL: Final = "Ollama has no model yet; pull one with: ollama pull llama3.2:1b"
ITERATIONS: Final = 3
BENCHMARK_WITHIN_S: Final = 900.0
STOP_WITHIN_S: Final = 960.0


class CommandFailed(Exception):
    """A command did not do what it should; the message says what was seen."""


@dataclass(frozen=True)
class StepResult:
    """What one command showed: a line for the report, and the data behind it."""

    method: str
    line: str
    ok: bool = True
    seconds: float = 0.0


@dataclass
class SmokeTest:
    """What the stops share, and what the report shows in full."""

    client: Client
    agent: str
    models: list[JsonObject] = field(default_factory=list)
    hardware: JsonObject = field(default_factory=dict)
    answer: str = ""
    job_id: str = ""
    result: JsonObject = field(default_factory=dict)

    async def command(self, method: str, **params: Any) -> Any:
        """A command's result."""
        return await self.client.command(self.agent, method, params)

    @property
    def model(self) -> str:
        """The smallest model that generates, here."""
        able = [model for model in self.models if _can(model, "completion") and not model.get("remote_host")]
        if not able:
            raise CommandFailed(
                "no model that generates is installed; pull one with: ollama pull llama3.2:1b"
            )
        return str(min(able, key=lambda model: model["size_bytes"])["name"])


def _can(model: JsonObject, capability: str) -> bool:
    """An Ollama too old to tell of capabilities may do anything but embed."""
    return capability in (model.get("capabilities") or ["completion"])


async def run_tour(client: Client, agent: str, on_seen: Callable[[StepResult], None]) -> SmokeTest:
    """Make every stop, in the table's order; a failed one does not keep the others from being made."""
    tour = SmokeTest(client, agent)
    for method, stop in STOPS.items():
        on_seen(await _make(tour, method, stop))
    return tour


async def _make(tour: SmokeTest, method: str, stop: Stop) -> StepResult:
    started = time.monotonic()
    try:
        async with asyncio.timeout(STOP_WITHIN_S):
            line, ok = await stop(tour), True
    except (CommandFailed, ApiError) as error:
        line, ok = str(error), False
    except TimeoutError:
        line, ok = f"did not end within {STOP_WITHIN_S:.0f} s", False
    return StepResult(method, line, ok, time.monotonic() - started)


# The stops.


async def list_models(tour: SmokeTest) -> str:
    """All models, with what makes up a version."""
    answer = await tour.command("list_models")
    tour.models = answer["models"]
    if not tour.models:
        raise CommandFailed(NO_MODEL)
    return f"{len(tour.models)} models"


async def show_model(tour: SmokeTest) -> str:
    """Metadata of one."""
    shown = await tour.command("show_model", model=tour.model)
    details = shown.get("details") or {}
    return f"{tour.model}: {details.get('family')}, {details.get('parameter_size')}"


async def hardware(tour: SmokeTest) -> str:
    """Inventory and a sample."""
    tour.hardware = await tour.command("hardware", legacy=True)
    cpu = tour.hardware["inventory"]["cpu"]
    gpus = tour.hardware["inventory"].get("gpus") or []
    return f"{cpu.get('model')}, {cpu.get('logical_cores')} threads, {_count(len(gpus), 'GPU')}"


async def hardware_watch(tour: SmokeTest) -> str:
    """Two live samples, then the reader leaves."""
    samples = [sample async for sample in _first(tour, "hardware_watch", {"interval_ms": 500}, 2)]
    last = samples[-1]["sample"]
    share = (last.get("cpu") or {}).get("utilization_ratio")
    return f"{len(samples)} live samples, CPU {_percent(share)}"


async def load_model(tour: SmokeTest) -> str:
    """Load it, by the wall clock."""
    answer = await tour.command("load_model", model=tour.model)
    if not answer["loaded"]:
        raise CommandFailed(f"{tour.model} is not loaded after loading it")
    return f"{tour.model} loaded in {answer['wall_ms']:.0f} ms"


async def running_models(tour: SmokeTest) -> str:
    """It is seen loaded."""
    names = [model["name"] for model in (await tour.command("running_models"))["models"]]
    if tour.model not in names:
        raise CommandFailed(f"{tour.model} is loaded and not listed; listed are {names}")
    return f"loaded: {', '.join(names)}"


async def generate(tour: SmokeTest) -> str:
    """A streamed generation."""
    body = {"model": tour.model, "prompt": PROMPT, "options": {"num_predict": 48}}
    chunks, final = await _streamed(tour, "generate", body)
    tour.answer = "".join(chunk["chunk"].get("response", "") for chunk in chunks)
    return (
        f"{len(chunks)} chunks, first after {chunks[0]['t_us'] / 1000:.1f} ms, {final['eval_count']} tokens"
    )


async def chat(tour: SmokeTest) -> str:
    """A streamed chat turn."""
    messages = [{"role": "user", "content": "Say hello."}]
    body = {"model": tour.model, "messages": messages, "options": {"num_predict": 16}}
    chunks, final = await _streamed(tour, "chat", body)
    return f"{len(chunks)} chunks, {final['eval_count']} tokens"


async def embed(tour: SmokeTest) -> str:
    """Embeddings, where a model makes them."""
    able = [model["name"] for model in tour.models if _can(model, "embedding")]
    try:
        answer = await tour.command("embed", model=(able or [tour.model])[0], input=["one", "two"])
    except ApiError as error:
        if able:
            raise
        return f"no installed model makes embeddings ({error.kind}); pull one with: ollama pull all-minilm"
    return f"{len(answer['embeddings'])} embeddings of {len(answer['embeddings'][0])} dimensions by {able[0]}"


async def run_benchmark(tour: SmokeTest) -> str:
    """A benchmark as a job, followed to its end; the result comes by itself."""
    plan = {"model_name": tour.model, "num_iterations": ITERATIONS, "max_iterations": ITERATIONS}
    plan |= {"prompt_config": {"prompt": PROMPT, "completion_tokens": 64}}
    started = await tour.client.post("/benchmarks", {"agent": tour.agent, "plan": plan})
    tour.job_id = started["job_id"]
    return f"job {tour.job_id} is {started['state']}"


async def benchmark_metrics(tour: SmokeTest) -> str:
    """Its live series while it runs."""
    wanted = _first(tour, "benchmark_metrics", {"job_id": tour.job_id}, 2)
    samples = [sample async for sample in wanted]
    if not samples:
        raise CommandFailed("the running benchmark sent no live sample")
    return f"{len(samples)} live samples while it ran"


async def benchmark_status(tour: SmokeTest) -> str:
    """Its end, and the result that the server stored."""
    await _ended(tour, tour.job_id)
    job = (await tour.command("benchmark_status", job_id=tour.job_id, include_result=False))["job"]
    if job["state"] != "completed":
        raise CommandFailed(f"the benchmark ended {job['state']}: {(job.get('error') or {}).get('message')}")
    tour.result = await tour.client.get(f"/benchmarks/{tour.job_id}/result")
    measured = [metrics for metrics in tour.result["metrics"] if metrics.get("tokens_per_second")]
    if len(measured) < ITERATIONS:
        raise CommandFailed(f"{len(measured)} of {ITERATIONS} iterations have a speed")
    return f"completed, {_count(len(measured), 'iteration')}, result stored by the server"


async def cancel(tour: SmokeTest) -> str:
    """A second benchmark, cancelled."""
    plan = {"model_name": tour.model, "num_iterations": 50, "max_iterations": 50}
    started = await tour.client.post("/benchmarks", {"agent": tour.agent, "plan": plan})
    job_id = started["job_id"]
    state = (await tour.command("cancel", job_id=job_id))["state"]
    job = await _ended(tour, job_id)
    if job["state"] != "cancelled":
        raise CommandFailed(f"the cancelled job ended {job['state']}")
    return f"{state}, then the job was {job['state']}"


async def unload_model(tour: SmokeTest) -> str:
    """Unload it again."""
    answer = await tour.command("unload_model", model=tour.model)
    if answer["loaded"]:
        raise CommandFailed(f"{tour.model} is still loaded")
    return f"{tour.model} unloaded in {answer['wall_ms']:.0f} ms"


async def agent_info(tour: SmokeTest) -> str:
    """The agent itself."""
    info = await tour.command("agent_info")
    use = info["process"]
    return (
        f"version {info['version']}, {use['rss_bytes'] / 2**20:.0f} MiB, {use['cpu_s']:.1f} s of CPU so far"
    )


def refused_by_default(method: str, **params: Any) -> Stop:
    """A command that changes what is installed: the host's owner has not allowed it, and it must not run."""

    async def stop(tour: SmokeTest) -> str:
        try:
            await tour.command(method, **params)
        except ApiError as error:
            if error.kind == "not_permitted":
                return f"refused, as it should be: {error.message}"
            raise
        raise CommandFailed("it ran, though the host's owner did not allow it")

    return stop


Stop = Callable[[SmokeTest], Awaitable[str]]

STOPS: Final[dict[str, Stop]] = {
    "list_models": list_models,
    "show_model": show_model,
    "hardware": hardware,
    "hardware_watch": hardware_watch,
    "load_model": load_model,
    "running_models": running_models,
    "generate": generate,
    "chat": chat,
    "embed": embed,
    "run_benchmark": run_benchmark,
    "benchmark_metrics": benchmark_metrics,
    "benchmark_status": benchmark_status,
    "cancel": cancel,
    "unload_model": unload_model,
    "agent_info": agent_info,
    "pull_model": refused_by_default("pull_model", job_id="demo-pull", model="llama3.2:1b"),
    "create_model": refused_by_default("create_model", job_id="demo-create", model="a", **{"from": "b"}),
    "copy_model": refused_by_default("copy_model", source="a", destination="b"),
    "delete_model": refused_by_default("delete_model", model="a"),
}
"""Every command, in an order in which each finds what it needs."""

REFUSED: Final = frozenset(method.name for method in COMMANDS if method.changes)
"""Commands that a demonstration's agent refuses, since they change what is installed."""

FORGOTTEN: Final = {method.name for method in COMMANDS} ^ set(STOPS)
"""Commands without a stop, or stops without a command; a test wants it empty."""


# What several stops do.


async def _streamed(tour: SmokeTest, method: str, body: JsonObject) -> tuple[list[JsonObject], JsonObject]:
    """Items and Ollama's last object of a streamed command."""
    items: list[JsonObject] = []
    async for name, data in tour.client.stream(tour.agent, method, body):
        if name == "item":
            items.append(data)
        elif name == "final":
            return _some(items), data["final"]
    raise CommandFailed("the stream ended without its final")


async def _ended(tour: SmokeTest, job_id: str) -> JsonObject:
    """The job as it ended."""
    async with asyncio.timeout(BENCHMARK_WITHIN_S):
        async for name, data in tour.client.events("GET", f"/benchmarks/{job_id}/progress"):
            if name == "end":
                return data
    raise CommandFailed(f"the progress of job {job_id} broke off")


def _some(items: list[JsonObject]) -> list[JsonObject]:
    if not items:
        raise CommandFailed("the stream held no chunk")
    return items


async def _first(tour: SmokeTest, method: str, body: JsonObject, count: int) -> Any:
    """The first items of a live series; leaving cancels it."""
    stream = tour.client.stream(tour.agent, method, body)
    async with contextlib.aclosing(stream):  # type: ignore[type-var] # an async generator
        async for name, data in stream:
            if name == "item":
                yield data
                count -= 1
            if name == "final" or count == 0:
                return


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _percent(share: float | None) -> str:
    return "not known" if share is None else f"{share:.0%}"
