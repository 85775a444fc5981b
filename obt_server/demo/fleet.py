"""Further machines for the demonstration: real agents on stand-ins of other speeds, some with scripted GPUs.

They come up in the background, and measure a little, so that every view of the page has something in it. None
of their figures says anything of real hardware, and each is marked: the stand-in in its version, a GPU in its
name.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from obt_server.client import JsonObject
from obt_server.demo.environment import DemoEnvironment
from obt_server.demo.machines import machine
from obt_server.demo.ollama_target import standins
from obt_server.demo.processes import ChildFailed
from obt_server.demo.scripted_gpus import GpuScript, as_json

# More often than a machine without work reads itself: people look at these.
SAMPLED_EVERY_S: Final = 5.0
BENCHMARKS_WITHIN_S: Final = 600.0

_FEW: Final = {"num_iterations": 4, "max_iterations": 4, "warmup_iterations": 1, "cooldown_s": 0.0}
# By the name under which the page lists them; each a few seconds on a fast machine.
PLANS: Final[dict[str, JsonObject]] = {
    "short answers": {"prompt_config": {"prompt_tokens": 128, "completion_tokens": 48}, **_FEW},
    "prompt lengths": {
        "prompt_config": {"prompt_tokens": 128, "completion_tokens": 32},
        "sweep": {"prompt_tokens": [128, 512, 2048], "concurrency": [1, 2, 4]},
        **_FEW,
        "num_iterations": 3,
        "max_iterations": 3,
    },
}


class DemoMachine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One machine: its ``name``, its stand-in's ``script``, and its GPUs.

    ``sweep_model`` is measured over prompt lengths and numbers of requests too; none on a slow machine.
    """

    name: str
    script: msgspec.Raw
    gpus: tuple[GpuScript, ...]
    sweep_model: str | None = None


MACHINES: Final = msgspec.json.decode(
    Path(__file__).with_name("machines.json").read_bytes(), type=tuple[DemoMachine, ...]
)


class DemoFleet:
    """The further machines while they run. ``on_change`` hears in words what there is to see."""

    def __init__(self, environment: DemoEnvironment, on_change: Callable[[str], None]) -> None:
        self._client = environment.client
        self._url = environment.url
        self._on_change = on_change
        # Ids by name, of those that are admitted.
        self.machines: dict[str, str] = {}
        # Set when nothing more comes: everything is there, or something failed.
        self._settled = asyncio.Event()
        self._problem: str | None = None

    async def ready(self) -> None:
        """Wait until the machines and their finished benchmarks are there. Raises ChildFailed."""
        await self._settled.wait()
        if self._problem is not None:
            raise ChildFailed(self._problem)

    async def run(self, folder: Path, machines: Sequence[DemoMachine]) -> None:
        """Start the machines, have them measure, and keep them until cancelled."""
        try:
            async with contextlib.AsyncExitStack() as stack:
                await self._start(stack, folder, machines)
                self._on_change(f"{len(machines)} more machines are connected; they measure a little.")
                async with asyncio.timeout(BENCHMARKS_WITHIN_S):
                    await self._measure(machines)
                self._on_change("Their benchmarks are finished: all views have something to show.")
                self._settled.set()
                # Until somebody ends the demonstration: leaving the stack ends the machines.
                await asyncio.get_running_loop().create_future()
        except* Exception as errors:  # noqa: BLE001 - whatever it is, the first machine and the page go on
            first = errors.exceptions[0]
            self._problem = f"The further machines ended: {str(first) or type(first).__name__}"
            self._on_change(self._problem)
        finally:
            self._settled.set()

    async def _start(
        self, stack: contextlib.AsyncExitStack, folder: Path, machines: Sequence[DemoMachine]
    ) -> None:
        scripts = [_file(folder, f"{one.name}.json", bytes(one.script)) for one in machines]
        urls = await stack.enter_async_context(standins(folder, scripts))
        # One after the other: the person at the page needs the processor too.
        for one, url in zip(machines, urls, strict=True):
            own = folder / one.name
            own.mkdir()
            gpus = _file(own, "gpus.json", as_json(one.gpus).encode())
            program = ("obt_server.demo.scripted_agent", str(gpus))
            running = machine(own, self._client, self._config(one, url), program)
            self.machines[one.name] = await stack.enter_async_context(running)

    def _config(self, one: DemoMachine, ollama: str) -> dict[str, Any]:
        return {
            "server": {"url": self._url},
            "ollama": {"url": ollama},
            "agent": {"name": one.name},
            "hardware": {"idle_interval_s": SAMPLED_EVERY_S},
        }

    async def _measure(self, machines: Sequence[DemoMachine]) -> None:
        for name, plan in PLANS.items():
            await self._client.put(f"/plans/{name}", {"plan": plan})
        async with asyncio.TaskGroup() as group:
            for one in machines:
                group.create_task(self._measure_one(one), name=f"demo-benchmarks-{one.name}")

    async def _measure_one(self, machine: DemoMachine) -> None:
        """Have one machine measure each of its models, one after the other."""
        agent = self.machines[machine.name]
        listed = (await self._client.command(agent, "list_models", {}))["models"]
        models = [one["name"] for one in listed if "completion" in (one.get("capabilities") or [])]
        jobs = [(model, PLANS["short answers"]) for model in models]
        if machine.sweep_model is not None:
            jobs.append((machine.sweep_model, PLANS["prompt lengths"]))
        for model, plan in jobs:
            body = {"agent": agent, "plan": {**plan, "model_name": model}}
            job = (await self._client.post("/benchmarks", body))["job_id"]
            async for event, _ in self._client.events("GET", f"/benchmarks/{job}/progress"):
                if event == "end":
                    break


@contextlib.asynccontextmanager
async def demo_fleet(
    folder: Path,
    environment: DemoEnvironment,
    machines: Sequence[DemoMachine] = MACHINES,
    on_change: Callable[[str], None] | None = None,
) -> AsyncIterator[DemoFleet]:
    """Have further machines come up in the background, and end them on leaving."""
    fleet = DemoFleet(environment, on_change or (lambda _words: None))
    # Beside the first machine's files, some of which have the same names.
    own = folder / "fleet"
    own.mkdir()
    task = asyncio.create_task(fleet.run(own, machines), name="demo-fleet")
    try:
        yield fleet
    finally:
        task.cancel()
        # Awaited, so that no process is left; what went wrong in it was told when it did.
        await asyncio.gather(task, return_exceptions=True)


def _file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path
