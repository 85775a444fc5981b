"""Loaded models: loading, slots, the queue, the cache of prompts, expiry and sudden death."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from obt_standin.clock import expiry
from obt_standin.request_body import ErrorAnswer, Json
from obt_standin.runner_memory import RunnerMemory
from obt_standin.script import Behaviour, Model, Script
from obt_standin.store import details

# Options that a runner gets at its start (server/sched.go, needsReload).
_LOADS_ANEW = ("num_ctx", "num_gpu", "num_batch", "main_gpu", "num_thread", "use_mmap")


class RunnerKilledError(Exception):
    """The process that runs the model is gone."""


@dataclass(eq=False)
class LoadedModel:
    """One loaded model."""

    model: Model
    num_ctx: int
    # One for each parallel generation; whoever comes later waits, in order.
    slots: asyncio.Semaphore
    # Those with which it was loaded: a request with others loads it anew.
    options: tuple[object, ...]
    # Of the latest request; None is for ever.
    keep_alive_s: float | None = 0.0
    # As /api/ps shows it.
    expires_at: str = ""
    # Generations that hold a slot or wait for one: a model in use is not unloaded.
    in_use: int = 0
    # Set when its process is killed; generations end then, and the next request loads it anew.
    killed: asyncio.Event = field(default_factory=asyncio.Event)
    # Unloads it; None while it is in use, or stays for ever.
    timer: asyncio.TimerHandle | None = None
    # The prompts that its slots read last, the oldest first.
    cached: list[list[str]] = field(default_factory=list)
    # Its process; None where the script wants none.
    memory: RunnerMemory | None = None

    def common(self, prompt: list[str]) -> int:
        """How many tokens at a prompt's beginning some slot has read already."""
        return max((_common(prompt, other) for other in self.cached), default=0)

    def must_save(self, prompt: list[str], slots: int) -> bool:
        """Whether a prompt takes the slot of another one, of which it keeps less than half.

        As llama-server decides it (``server_slot::prompt_save``).
        """
        if len(self.cached) < slots:
            return False
        return 2 * self.common(prompt) < len(self.cached[0])

    def remember(self, prompt: list[str], slots: int) -> None:
        """Keep a prompt in a slot, the oldest one's place if all are taken."""
        self.cached = [*self.cached, prompt][-slots:]


@dataclass
class Lease:
    """A slot of a runner, held for one generation; ``load_ns`` is how long the model took to load."""

    runner: LoadedModel
    load_ns: int


class Runners:
    """All loaded models of one stand-in."""

    def __init__(self, script: Script) -> None:
        self._script = script
        # By the name that lists show.
        self._loaded: dict[str, LoadedModel] = {}
        # Ollama loads one model at a time.
        self._loading = asyncio.Lock()
        # Requests that wait for it: what OLLAMA_MAX_QUEUE bounds. Those that wait for a slot are not counted.
        self._waiting = 0

    @asynccontextmanager
    async def lease(
        self, model: Model, options: Json, keep_alive_s: float | None, behaviour: Behaviour, slots: int = 1
    ) -> AsyncIterator[Lease]:
        """Load the model if need be and hold one slot; waiting for a slot has no limit.

        Raises:
            ErrorAnswer: too many requests wait for a load.
        """
        runner, load_ns = self._usable(model, options), 0
        # Not timed where nothing is loaded: on a busy machine a pause of this process would look like a load.
        if runner is None:
            began = time.monotonic_ns()
            runner = await self._ready(model, options, behaviour)
            load_ns = time.monotonic_ns() - began
        self._acquire(runner, keep_alive_s)
        try:
            for _ in range(slots):
                await runner.slots.acquire()
            try:
                yield Lease(runner, load_ns)
            finally:
                for _ in range(slots):
                    runner.slots.release()
        finally:
            self._release(runner)

    def ps(self) -> Json:
        """The answer of ``/api/ps``: the latest expiry first."""
        loaded = sorted(self._loaded.values(), key=lambda runner: runner.expires_at, reverse=True)
        return {"models": [self._listed(runner) for runner in loaded]}

    def loaded(self) -> list[LoadedModel]:
        """The runners that ``ps`` lists."""
        return list(self._loaded.values())

    def busy(self) -> bool:
        """Whether some generation holds or awaits a slot."""
        return any(runner.in_use for runner in self._loaded.values())

    def unload(self, model: Model) -> None:
        """Unload a model; one in use goes when its last request ends."""
        runner = self._loaded.get(model.name)
        if runner is not None:
            runner.keep_alive_s = 0.0
            if not runner.in_use:
                self._drop(runner)

    def kill(self, name: str | None = None) -> None:
        """Kill runners, all of them or one model's; ``ps`` goes on listing them, as Ollama's does."""
        for runner in self._loaded.values():
            if name is None or runner.model.name == name:
                runner.killed.set()
                if runner.memory is not None:
                    runner.memory.end()

    def close(self) -> None:
        """Forget everything, as when the server stops."""
        for runner in list(self._loaded.values()):
            self._drop(runner)

    async def _ready(self, model: Model, options: Json, behaviour: Behaviour) -> LoadedModel:
        """Load in turn."""
        if self._loading.locked() and self._waiting >= self._script.max_queue:
            raise ErrorAnswer(503, "server busy, please try again.  maximum pending requests exceeded")
        self._waiting += 1
        try:
            await self._loading.acquire()
        finally:
            self._waiting -= 1
        try:
            return await self._load(model, options, behaviour)
        finally:
            self._loading.release()

    async def _load(self, model: Model, options: Json, behaviour: Behaviour) -> LoadedModel:
        """Load, or find that another request has done so meanwhile."""
        if (runner := self._usable(model, options)) is not None:
            return runner
        if model.name in self._loaded:
            self._drop(self._loaded[model.name])
        await asyncio.sleep(behaviour.load_s)
        if behaviour.answer == "load_fails":
            raise ErrorAnswer(500, "llama-server process has terminated: signal: killed")
        slots = asyncio.Semaphore(self._script.num_parallel)
        num_ctx, wanted = self.num_ctx(model, options), self._options(model, options)
        runner = LoadedModel(model, num_ctx, slots, wanted)
        if self._script.runner_processes:
            runner.memory = RunnerMemory(self._script, model, num_ctx)
            try:
                await runner.memory.load()
            except BaseException:
                # Nobody else knows of the process yet.
                runner.memory.end()
                raise
        self._loaded[model.name] = runner
        return runner

    def _usable(self, model: Model, options: Json) -> LoadedModel | None:
        """The runner that serves a request without loading."""
        runner = self._loaded.get(model.name)
        if runner is None or runner.killed.is_set():
            return None
        return runner if runner.options == self._options(model, options) else None

    def num_ctx(self, model: Model, options: Json) -> int:
        """The context that a request gets: what it asks for, no more than the model has."""
        return min(int(options.get("num_ctx") or self._script.default_num_ctx), model.context_length)

    def _options(self, model: Model, options: Json) -> tuple[object, ...]:
        rest = tuple(options.get(name) for name in _LOADS_ANEW if name != "num_ctx")
        return (self.num_ctx(model, options), *rest)

    def _acquire(self, runner: LoadedModel, keep_alive_s: float | None) -> None:
        runner.in_use += 1
        runner.keep_alive_s = keep_alive_s
        runner.expires_at = expiry(keep_alive_s)
        if runner.timer is not None:
            runner.timer.cancel()
            runner.timer = None

    def _release(self, runner: LoadedModel) -> None:
        runner.in_use -= 1
        if runner.in_use or self._loaded.get(runner.model.name) is not runner:
            return
        runner.expires_at = expiry(runner.keep_alive_s)
        if runner.keep_alive_s == 0:
            self._drop(runner)
        elif runner.keep_alive_s is not None:
            loop = asyncio.get_running_loop()
            runner.timer = loop.call_later(runner.keep_alive_s, self._drop, runner)

    def _drop(self, runner: LoadedModel) -> None:
        if runner.timer is not None:
            runner.timer.cancel()
        if runner.memory is not None:
            runner.memory.end()
        if self._loaded.get(runner.model.name) is runner:
            del self._loaded[runner.model.name]

    def _listed(self, runner: LoadedModel) -> Json:
        model = runner.model
        size = model.size + runner.num_ctx * self._script.num_parallel * model.embedding_length * 16
        return {
            "name": model.name,
            "model": model.name,
            "size": size,
            "digest": model.digest,
            "details": details(model),
            "expires_at": runner.expires_at,
            "size_vram": int(size * model.vram_ratio),
            "context_length": runner.num_ctx,
        }


def _common(one: list[str], other: list[str]) -> int:
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
