"""Every command of the protocol once, through the server's public API.

Each step is one command; one without a step of its own gets a plain one, so that none can be forgotten. A
step gives what it saw, or raises ``CommandFailed`` with what was expected.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from obt_agent.protocol.example import example
from obt_agent.protocol.methods import COMMANDS, Method
from obt_server.client import ApiError, Client, JsonObject

PROMPT: Final = "Explain in three sentences why the sky is blue."
NO_MODEL: Final = "Ollama has no model yet; pull one with: ollama pull llama3.2:1b"
ITERATIONS: Final = 3
BENCHMARK_WITHIN_S: Final = 900.0
STEP_WITHIN_S: Final = 960.0


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
    """What the steps share, and what the report shows in full."""

    client: Client
    agent: str
    # Each step leaves here what later steps and the report need; empty until its step has run.
    models: list[JsonObject] = field(default_factory=list)
    hardware: JsonObject = field(default_factory=dict)
    # The text of the streamed generation.
    answer: str = ""
    # Of the benchmark that three steps follow.
    job_id: str = ""
    result: JsonObject = field(default_factory=dict)

    async def command(self, method: str, **params: Any) -> Any:
        """A command's result."""
        return await self.client.command(self.agent, method, params)

    @property
    def model(self) -> str:
        """The smallest model that generates, here."""
        # A model with a remote host runs elsewhere: its figures would say nothing of this machine.
        able = [model for model in self.models if _can(model, "completion") and not model.get("remote_host")]
        if not able:
            raise CommandFailed(
                "no model that generates is installed; pull one with: ollama pull llama3.2:1b"
            )
        return str(min(able, key=lambda model: model["size_bytes"])["name"])


def _can(model: JsonObject, capability: str) -> bool:
    # An Ollama too old to list capabilities may do anything but embed.
    return capability in (model.get("capabilities") or ["completion"])


async def run_smoke_test(client: Client, agent: str, on_step: Callable[[StepResult], None]) -> SmokeTest:
    """Make every step, in the table's order; a failed one does not keep the others from being made."""
    test = SmokeTest(client, agent)
    for method, step in steps().items():
        on_step(await _run_step(test, method, step))
    return test


async def _run_step(test: SmokeTest, method: str, step: Step) -> StepResult:
    started = time.monotonic()
    try:
        async with asyncio.timeout(STEP_WITHIN_S):
            line, ok = await step(test), True
    except (CommandFailed, ApiError) as error:
        line, ok = str(error), False
    except TimeoutError:
        line, ok = f"did not end within {STEP_WITHIN_S:.0f} s", False
    return StepResult(method, line, ok, time.monotonic() - started)


# The steps.


async def list_models(test: SmokeTest) -> str:
    """All models, with what makes up a version."""
    answer = await test.command("list_models")
    test.models = answer["models"]
    if not test.models:
        raise CommandFailed(NO_MODEL)
    return f"{len(test.models)} models"


async def show_model(test: SmokeTest) -> str:
    """Metadata of one."""
    shown = await test.command("show_model", model=test.model)
    details = shown.get("details") or {}
    return f"{test.model}: {details.get('family')}, {details.get('parameter_size')}"


async def hardware(test: SmokeTest) -> str:
    """Inventory and a sample."""
    test.hardware = await test.command("hardware", legacy=True)
    cpu = test.hardware["inventory"]["cpu"]
    gpus = test.hardware["inventory"].get("gpus") or []
    return f"{cpu.get('model')}, {cpu.get('logical_cores')} threads, {_count(len(gpus), 'GPU')}"


async def hardware_watch(test: SmokeTest) -> str:
    """Two live samples, then the reader leaves."""
    samples = [sample async for sample in _first(test, "hardware_watch", {"interval_ms": 500}, 2)]
    last = samples[-1]["sample"]
    share = (last.get("cpu") or {}).get("utilization_ratio")
    return f"{len(samples)} live samples, CPU {_percent(share)}"


async def load_model(test: SmokeTest) -> str:
    """Load it, by the wall clock."""
    answer = await test.command("load_model", model=test.model)
    if not answer["loaded"]:
        raise CommandFailed(f"{test.model} is not loaded after loading it")
    return f"{test.model} loaded in {answer['wall_ms']:.0f} ms"


async def running_models(test: SmokeTest) -> str:
    """It is seen loaded."""
    names = [model["name"] for model in (await test.command("running_models"))["models"]]
    if test.model not in names:
        raise CommandFailed(f"{test.model} is loaded and not listed; listed are {names}")
    return f"loaded: {', '.join(names)}"


async def generate(test: SmokeTest) -> str:
    """A streamed generation."""
    body = {"model": test.model, "prompt": PROMPT, "options": {"num_predict": 48}}
    chunks, final = await _streamed(test, "generate", body)
    test.answer = "".join(chunk["chunk"].get("response", "") for chunk in chunks)
    return (
        f"{len(chunks)} chunks, first after {chunks[0]['t_us'] / 1000:.1f} ms, {final['eval_count']} tokens"
    )


async def chat(test: SmokeTest) -> str:
    """A streamed chat turn."""
    messages = [{"role": "user", "content": "Say hello."}]
    body = {"model": test.model, "messages": messages, "options": {"num_predict": 16}}
    chunks, final = await _streamed(test, "chat", body)
    return f"{len(chunks)} chunks, {final['eval_count']} tokens"


async def embed(test: SmokeTest) -> str:
    """Embeddings, where a model makes them."""
    able = [model["name"] for model in test.models if _can(model, "embedding")]
    try:
        answer = await test.command("embed", model=(able or [test.model])[0], input=["one", "two"])
    except ApiError as error:
        if able:
            raise
        return f"no installed model makes embeddings ({error.kind}); pull one with: ollama pull all-minilm"
    return f"{len(answer['embeddings'])} embeddings of {len(answer['embeddings'][0])} dimensions by {able[0]}"


async def run_benchmark(test: SmokeTest) -> str:
    """A benchmark as a job, followed to its end; the result comes by itself."""
    plan = {"model_name": test.model, "num_iterations": ITERATIONS, "max_iterations": ITERATIONS}
    plan |= {"prompt_config": {"prompt": PROMPT, "completion_tokens": 64}}
    started = await test.client.post("/benchmarks", {"agent": test.agent, "plan": plan})
    test.job_id = started["job_id"]
    return f"job {test.job_id} is {started['state']}"


async def benchmark_metrics(test: SmokeTest) -> str:
    """Its live series while it runs."""
    samples = [sample async for sample in _first(test, "benchmark_metrics", {"job_id": test.job_id}, 2)]
    if not samples:
        raise CommandFailed("the running benchmark sent no live sample")
    return f"{len(samples)} live samples while it ran"


async def benchmark_status(test: SmokeTest) -> str:
    """Its end, and the result that the server stored."""
    await _ended(test, test.job_id)
    job = (await test.command("benchmark_status", job_id=test.job_id, include_result=False))["job"]
    if job["state"] != "completed":
        raise CommandFailed(f"the benchmark ended {job['state']}: {(job.get('error') or {}).get('message')}")
    test.result = await test.client.get(f"/benchmarks/{test.job_id}/result")
    measured = [metrics for metrics in test.result["metrics"] if metrics.get("tokens_per_second")]
    if len(measured) < ITERATIONS:
        raise CommandFailed(f"{len(measured)} of {ITERATIONS} iterations have a speed")
    return f"completed, {_count(len(measured), 'iteration')}, result stored by the server"


async def cancel(test: SmokeTest) -> str:
    """A second benchmark, cancelled."""
    # Long enough to be still open when the cancellation comes.
    plan = {"model_name": test.model, "num_iterations": 50, "max_iterations": 50}
    started = await test.client.post("/benchmarks", {"agent": test.agent, "plan": plan})
    job_id = started["job_id"]
    state = (await test.command("cancel", job_id=job_id))["state"]
    job = await _ended(test, job_id)
    if job["state"] != "cancelled":
        raise CommandFailed(f"the cancelled job ended {job['state']}")
    return f"{state}, then the job was {job['state']}"


async def unload_model(test: SmokeTest) -> str:
    """Unload it again."""
    answer = await test.command("unload_model", model=test.model)
    if answer["loaded"]:
        raise CommandFailed(f"{test.model} is still loaded")
    return f"{test.model} unloaded in {answer['wall_ms']:.0f} ms"


async def agent_info(test: SmokeTest) -> str:
    """The agent itself."""
    info = await test.command("agent_info")
    use = info["process"]
    return (
        f"version {info['version']}, {use['rss_bytes'] / 2**20:.0f} MiB, {use['cpu_s']:.1f} s of CPU so far"
    )


def refused_by_default(method: str, **params: Any) -> Step:
    """Return the step of a command that changes what is installed: nobody allowed it, and it must not run."""

    async def step(test: SmokeTest) -> str:
        try:
            await test.command(method, **params)
        except ApiError as error:
            if error.kind == "not_permitted":
                return f"refused, as it should be: {error.message}"
            raise
        raise CommandFailed("it ran, though the host's owner did not allow it")

    return step


Step = Callable[[SmokeTest], Awaitable[str]]

# Commands with a step of their own, named as on the wire, in an order in which each finds what it needs.
STEPS: Final[dict[str, Step]] = {
    step.__name__: step
    for step in (
        *(list_models, show_model, hardware, hardware_watch),
        *(load_model, running_models, generate, chat, embed),
        *(run_benchmark, benchmark_metrics, benchmark_status, cancel),
        *(unload_model, agent_info),
    )
}


def steps() -> dict[str, Step]:
    """Return a step for every command: its own, else that it is refused or answered, as the table says."""
    # From the protocol's table, so that a new command cannot be left out.
    return STEPS | {method.name: _plain_step(method) for method in COMMANDS if method.name not in STEPS}


def _plain_step(method: Method) -> Step:
    params = example(method.params)
    if method.changes:
        return refused_by_default(method.name, **params)

    async def step(test: SmokeTest) -> str:
        if method.shape == "request":
            await test.command(method.name, **params)
            return "answered"
        return f"{len([item async for item in _first(test, method.name, params, 1)])} items"

    return step


# Commands that a demonstration's agent refuses, since they change what is installed.
REFUSED: Final = frozenset(method.name for method in COMMANDS if method.changes)


# What several steps do.


async def _streamed(test: SmokeTest, method: str, body: JsonObject) -> tuple[list[JsonObject], JsonObject]:
    """Return the items and Ollama's last object of a streamed command."""
    items: list[JsonObject] = []
    async for name, data in test.client.stream(test.agent, method, body):
        if name == "item":
            items.append(data)
        elif name == "final":
            if not items:
                raise CommandFailed("the stream held no chunk")
            return items, data["final"]
    raise CommandFailed("the stream ended without its final")


async def _ended(test: SmokeTest, job_id: str) -> JsonObject:
    """The job as it ended."""
    async with asyncio.timeout(BENCHMARK_WITHIN_S):
        async for name, data in test.client.events("GET", f"/benchmarks/{job_id}/progress"):
            if name == "end":
                return data
    raise CommandFailed(f"the progress of job {job_id} broke off")


async def _first(test: SmokeTest, method: str, body: JsonObject, count: int) -> Any:
    """Yield the first items of a live series; leaving cancels it."""
    stream = test.client.stream(test.agent, method, body)
    # Closed here and not by the garbage collector: the server must hear at once that nobody reads on.
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
