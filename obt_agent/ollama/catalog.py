"""What Ollama has and runs, kept fresh by cheap polling, and whether Ollama answers at all."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import structlog

from obt_agent.errors import AgentError, DeadlineExceeded, OllamaUnavailable
from obt_agent.ollama import lists
from obt_agent.ollama.client import OllamaClient
from obt_agent.ollama.payloads import InstalledModel, OllamaState, RunningModel

log = structlog.get_logger(__name__)

SHOWS_AT_ONCE: Final = 2
"""Requests for missing metadata that may run together: a machine with a hundred models is not stormed."""


@dataclass(frozen=True)
class Snapshot:
    """What was seen at one moment.

    ``generation`` grows when something changed that others must hear of: whether Ollama answers, its version,
    the installed models, the loaded ones. An expiry that moved is no such change. ``list_digest`` is a sha256
    over names and digests of the installed models. When Ollama does not answer, ``models`` is the last known
    list, ``stale`` is true and nothing counts as loaded.
    """

    generation: int
    state: OllamaState
    models: tuple[InstalledModel, ...]
    running: tuple[RunningModel, ...]
    list_digest: str
    stale: bool


@dataclass(frozen=True)
class _Metadata:
    """What ``/api/show`` says where ``/api/tags`` of an older Ollama says nothing."""

    capabilities: tuple[str, ...] = ()
    context_length: int | None = None


class Catalog:
    """Polls one Ollama.

    Args:
        client: the way to Ollama; open for as long as the catalog is used.
        poll_interval_s: seconds between two polls.
        probe_timeout_s: seconds after which a poll counts as unanswered. Together with the interval it bounds
            how late a change is seen: 4.5 s by default.
    """

    def __init__(
        self, client: OllamaClient, *, poll_interval_s: float = 2.0, probe_timeout_s: float = 2.5
    ) -> None:
        self._client = client
        self._interval = poll_interval_s
        self._probe_timeout = probe_timeout_s
        self._known: dict[str, _Metadata] = {}
        self._changed = asyncio.Condition()
        self._polling = asyncio.Lock()
        self._polls = 0
        unknown = OllamaState(reachable=False, since=time.time(), error="Ollama was not asked yet.")
        self._snapshot = Snapshot(0, unknown, (), (), list_digest(()), stale=True)

    @property
    def snapshot(self) -> Snapshot:
        """The latest one; generation 0 before the first poll."""
        return self._snapshot

    async def run(self) -> None:
        """Poll for ever. What goes wrong with Ollama becomes state, never an exception.

        Metadata is asked for beside the polling: an Ollama that is slow to show a model, or hangs over it,
        must not keep a change from being seen.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._poll_for_ever(), name="ollama-poll")
            group.create_task(self._fill_for_ever(), name="ollama-fill")

    async def _poll_for_ever(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(self._interval)

    async def _fill_for_ever(self) -> None:
        while True:
            generation = self._snapshot.generation
            await self.fill()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self.wait_changed(generation)

    async def refresh(self) -> Snapshot:
        """Poll now and return what was seen; never raises for what Ollama does.

        A caller that comes while a poll runs waits for the next one, and shares it with others that came so.
        """
        wanted = self._polls + (2 if self._polling.locked() else 1)
        async with self._polling:
            if self._polls < wanted:
                await self._poll()
                self._polls += 1
        return self._snapshot

    async def wait_changed(self, after_generation: int) -> Snapshot:
        """Wait until the generation is above ``after_generation``; return the snapshot."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._snapshot.generation > after_generation)
        return self._snapshot

    async def _poll(self) -> None:
        try:
            async with asyncio.timeout(self._probe_timeout):
                version = await self._client.version()
                installed = await self._client.installed()
                running = await self._client.running()
        except TimeoutError:
            await self._publish(self._lost(f"Ollama gave no answer within {self._probe_timeout:g} s."))
        except AgentError as error:
            await self._publish(self._lost(error.message))
        else:
            await self._publish(self._seen(version, installed, running))

    def _seen(
        self, version: str, installed: tuple[InstalledModel, ...], running: tuple[RunningModel, ...]
    ) -> Snapshot:
        state = OllamaState(reachable=True, version=version, since=self._since(reachable=True))
        loaded = {model.name for model in running}
        models = tuple(self._complete(model, loaded) for model in installed)
        return Snapshot(self._snapshot.generation, state, models, running, list_digest(models), stale=False)

    def _lost(self, why: str) -> Snapshot:
        before = self._snapshot
        state = OllamaState(
            reachable=False, version=before.state.version, since=self._since(reachable=False), error=why
        )
        models = tuple(msgspec.structs.replace(model, loaded=False) for model in before.models)
        return replace(before, state=state, models=models, running=(), stale=True)

    def _since(self, *, reachable: bool) -> float | None:
        state = self._snapshot.state
        return state.since if state.reachable == reachable and self._snapshot.generation else time.time()

    def _complete(self, model: InstalledModel, loaded: set[str]) -> InstalledModel:
        known = self._known.get(model.digest, _Metadata())
        return msgspec.structs.replace(
            model,
            loaded=model.name in loaded,
            capabilities=model.capabilities or known.capabilities,
            context_length=model.context_length or known.context_length,
        )

    async def _publish(self, seen: Snapshot) -> None:
        before = self._snapshot
        changed = before.generation == 0 or _essence(seen) != _essence(before)
        self._snapshot = replace(seen, generation=before.generation + changed)
        if changed:
            _log_change(before, seen)
            async with self._changed:
                self._changed.notify_all()

    @property
    def seen_within_s(self) -> float:
        """How many seconds a change of Ollama's stays unseen at most."""
        return self._interval + self._probe_timeout

    async def fill(self) -> None:
        """Ask ``/api/show`` for what the list left out, once for each digest; never raises for Ollama."""
        wanted = {
            model.digest: model.name
            for model in self._snapshot.models
            if _incomplete(model) and model.digest not in self._known
        }
        if not wanted or self._snapshot.stale:
            return
        slots = asyncio.Semaphore(SHOWS_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for digest, name in wanted.items():
                group.create_task(self._show(digest, name, slots), name=f"ollama-show {name}")
        before = self._snapshot
        listed = {model.digest for model in before.models}  # what is not listed any more is forgotten
        self._known = {digest: known for digest, known in self._known.items() if digest in listed}
        models = tuple(self._complete(model, _names(before.running)) for model in before.models)
        await self._publish(replace(before, models=models))

    async def _show(self, digest: str, name: str, slots: asyncio.Semaphore) -> None:
        async with slots:
            try:
                capabilities, context_length = lists.read_shown(await self._client.show(name))
            except AgentError as error:
                log.info("ollama.show_failed", model=name, error=error.message)
                if not isinstance(error, OllamaUnavailable | DeadlineExceeded):  # else it is asked again
                    self._known[digest] = _Metadata()  # the list stays useful without it
            else:
                self._known[digest] = _Metadata(capabilities, context_length)


def list_digest(models: Iterable[InstalledModel]) -> str:
    """A sha256 (hexadecimal) over names and digests, equal exactly when the lists are, in whatever order."""
    pairs = sorted((model.name, model.digest) for model in models)
    return hashlib.sha256(msgspec.json.encode(pairs)).hexdigest()


def _names(running: Iterable[RunningModel]) -> set[str]:
    return {model.name for model in running}


def _incomplete(model: InstalledModel) -> bool:
    return model.remote_model is None and not (model.capabilities and model.context_length)


def _essence(snapshot: Snapshot) -> tuple[object, ...]:
    """What makes a new generation when it differs."""
    running = tuple(msgspec.structs.replace(model, expires_at=None) for model in snapshot.running)
    return (snapshot.state.reachable, snapshot.state.version, snapshot.stale, snapshot.models, running)


def _log_change(before: Snapshot, seen: Snapshot) -> None:
    if seen.state.reachable != before.state.reachable or before.generation == 0:
        if seen.state.reachable:
            log.info("ollama.reachable", version=seen.state.version, models=len(seen.models))
        else:
            log.warning("ollama.unreachable", error=seen.state.error)
    elif seen.list_digest != before.list_digest:
        log.info("ollama.models_changed", models=len(seen.models))
