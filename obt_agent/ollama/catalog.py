"""What Ollama has and runs, kept fresh by cheap polling, and whether Ollama answers at all."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import msgspec
import structlog

from obt_agent.errors import AgentError, DeadlineExceeded, OllamaError, OllamaUnavailable
from obt_agent.ollama import lists
from obt_agent.ollama.client import OllamaClient
from obt_agent.ollama.lists import InstalledList, RunningList
from obt_agent.ollama.payloads import InstalledModel, OllamaState, RunningModel
from obt_agent.timer_grid import until_tick

log = structlog.get_logger(__name__)

# Requests for missing metadata that may run together: a machine with a hundred models is not stormed.
SHOWS_AT_ONCE: Final = 2
# Polls from one that asks for everything to the next, while nothing changes.
WHOLE_EVERY: Final = 15
# How late a change may be seen. Where two intervals are longer than that, each poll asks for everything.
SEEN_WITHIN_S: Final = 5.0


@dataclass(frozen=True)
class Snapshot:
    """Ollama's state at one moment.

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
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Metadata:
    """What ``/api/show`` says where ``/api/tags`` of an older Ollama says nothing."""

    capabilities: tuple[str, ...] = ()
    context_length: int | None = None


class _ModelKey(NamedTuple):
    """One version of one model. The digest alone is none: servers that imitate Ollama give all models one."""

    name: str
    digest: str
    modified_at: str | None


class _Answers(NamedTuple):
    """What one poll was told, and how many connections had been made to Ollama by then."""

    version: str
    installed: InstalledList
    running: RunningList
    connections: int


def _key(model: InstalledModel) -> _ModelKey:
    return _ModelKey(model.name, model.digest, model.modified_at)


class Catalog:
    """Polls one Ollama.

    While nothing changes a poll is one question: for the installed models and for the loaded ones in turn.
    Whatever differs makes it ask for everything at once, as does a new connection: Ollama may have restarted.

    Args:
        client: the way to Ollama; open for as long as the catalog is used.
        poll_interval_s: seconds between two polls. A change of a list is seen within two of them, 4 s by
            default.
        probe_timeout_s: seconds after which a poll counts as unanswered. Together with the interval it bounds
            how late it is seen that Ollama hangs: 4.5 s by default.
    """

    def __init__(
        self, client: OllamaClient, *, poll_interval_s: float = 2.0, probe_timeout_s: float = 2.5
    ) -> None:
        self._client = client
        self._interval = poll_interval_s
        self._probe_timeout = probe_timeout_s
        # What /api/show answered, for models that the list leaves incomplete; only of models that are
        # listed now.
        self._metadata: dict[_ModelKey, _Metadata] = {}
        # Notified with every new generation.
        self._changed = asyncio.Condition()
        # Held during a poll, so that two never interleave and the later answer wins.
        self._polling = asyncio.Lock()
        # Polls for everything that have ended, by which those who wait know whether one began after
        # they came.
        self._polls = 0
        # What Ollama said last; None before it did, and after it did not. The list whose turn is next.
        self._last: _Answers | None = None
        self._installed_next = True
        unknown = OllamaState(reachable=False, since=time.time(), error="Ollama was not asked yet.")
        # Replaced as a whole, never changed: whoever holds one has one moment.
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
        # If one of the two ends by a fault, the other must not go on alone.
        async with asyncio.TaskGroup() as group:
            group.create_task(self._poll_for_ever(), name="ollama-poll")
            group.create_task(self._fill_for_ever(), name="ollama-fill")

    async def _poll_for_ever(self) -> None:
        often = 2 * self._interval < SEEN_WITHIN_S
        for number in itertools.count():
            await (self.look() if often and number % WHOLE_EVERY else self.refresh())
            await asyncio.sleep(until_tick(self._interval))

    async def _fill_for_ever(self) -> None:
        while True:
            generation = self._snapshot.generation
            await self.fill()
            # What could not be asked for is asked for again; a list that lacks nothing needs no timer.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval if self._missing() else None):
                    await self.wait_changed(generation)

    async def refresh(self) -> Snapshot:
        """Poll now and return the snapshot; never raises for what Ollama does.

        A caller that comes while a poll runs waits for the next one, and shares it with others that came so.
        """
        # A poll that runs now may have asked already: its answer may be older than this call.
        wanted = self._polls + (2 if self._polling.locked() else 1)
        async with self._polling:
            if self._polls < wanted:
                await self._poll()
                self._polls += 1
        return self._snapshot

    async def look(self) -> None:
        """Poll with one question; with all of them where its answer is another. Never raises for Ollama."""
        async with self._polling:
            await self._poll(whole=False)

    async def wait_changed(self, after_generation: int) -> Snapshot:
        """Wait until the generation is above ``after_generation``; return the snapshot."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._snapshot.generation > after_generation)
        return self._snapshot

    async def _poll(self, *, whole: bool = True) -> None:
        try:
            async with asyncio.timeout(self._probe_timeout):
                if not whole and not await self._something_differs():
                    return
                version = await self._client.version()
                installed = await self._client.installed()
                running = await self._running()
        except TimeoutError:
            await self._publish(self._unreachable(f"Ollama gave no answer within {self._probe_timeout:g} s."))
        except AgentError as error:
            await self._publish(self._unreachable(error.message))
        else:
            self._last = _Answers(version, installed, running, self._client.connections)
            await self._publish(self._answered(version, installed, running))

    async def _something_differs(self) -> bool:
        """Ask for one list, the other one's turn is next; whether it is, or may be, another than it was."""
        last = self._last
        if last is None:
            return True
        self._installed_next = not self._installed_next
        if self._installed_next:
            same = await self._running() == last.running
        else:
            same = await self._client.installed() == last.installed
        return not same or self._client.connections != last.connections

    async def _running(self) -> RunningList:
        """The loaded models. A server that imitates Ollama may have models, and no such list."""
        try:
            return await self._client.running()
        except OllamaUnavailable:
            raise
        except OllamaError as error:
            return RunningList((), (error.message,))

    def _answered(self, version: str, installed: InstalledList, running: RunningList) -> Snapshot:
        state = OllamaState(reachable=True, version=version, since=self._since(reachable=True))
        loaded = _names(running.models)
        models = tuple(self._complete(model, loaded) for model in installed.models)
        return Snapshot(
            self._snapshot.generation,
            state,
            models,
            running.models,
            list_digest(models),
            stale=False,
            problems=installed.problems + running.problems,
        )

    def _unreachable(self, why: str) -> Snapshot:
        self._last = None
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
        known = self._metadata.get(_key(model), _Metadata())
        return msgspec.structs.replace(
            model,
            loaded=model.name in loaded,
            capabilities=model.capabilities or known.capabilities,
            context_length=model.context_length or known.context_length,
        )

    async def _publish(self, new: Snapshot) -> None:
        before = self._snapshot
        changed = before.generation == 0 or _significant(new) != _significant(before)
        self._snapshot = replace(new, generation=before.generation + changed)
        if changed:
            _log_change(before, new)
            async with self._changed:
                self._changed.notify_all()

    def _missing(self) -> dict[_ModelKey, str]:
        """The names of models whose metadata is to be asked for; none while Ollama does not answer."""
        return {
            _key(model): model.name
            for model in (() if self._snapshot.stale else self._snapshot.models)
            if _incomplete(model) and _key(model) not in self._metadata
        }

    async def fill(self) -> None:
        """Ask ``/api/show`` for what the list left out, once for each model; never raises for Ollama."""
        missing = self._missing()
        if not missing:
            return
        slots = asyncio.Semaphore(SHOWS_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for key, name in missing.items():
                group.create_task(self._show(key, slots), name=f"ollama-show {name}")
        # The list may have changed while models were shown: what is gone is forgotten.
        before = self._snapshot
        listed = set(map(_key, before.models))
        self._metadata = {key: known for key, known in self._metadata.items() if key in listed}
        models = tuple(self._complete(model, _names(before.running)) for model in before.models)
        await self._publish(replace(before, models=models))

    async def _show(self, key: _ModelKey, slots: asyncio.Semaphore) -> None:
        async with slots:
            try:
                capabilities, context_length = lists.read_shown(await self._client.show(key.name))
            except AgentError as error:
                log.info("ollama.show_failed", model=key.name, error=error.message)
                if not isinstance(error, OllamaUnavailable | DeadlineExceeded):  # else it is asked again
                    self._metadata[key] = _Metadata()  # the list stays useful without it
            else:
                self._metadata[key] = _Metadata(capabilities, context_length)


def list_digest(models: Iterable[InstalledModel]) -> str:
    """A sha256 (hexadecimal) over names and digests, equal exactly when the lists are, in whatever order."""
    pairs = sorted((model.name, model.digest) for model in models)
    return hashlib.sha256(msgspec.json.encode(pairs)).hexdigest()


def _names(running: Iterable[RunningModel]) -> set[str]:
    return {model.name for model in running}


def _incomplete(model: InstalledModel) -> bool:
    return model.remote_model is None and not (model.capabilities and model.context_length)


def _significant(snapshot: Snapshot) -> tuple[object, ...]:
    """What makes a new generation when it differs."""
    # Each use of a model moves its expiry, which nobody needs to hear of.
    running = tuple(msgspec.structs.replace(model, expires_at=None) for model in snapshot.running)
    state = snapshot.state
    return (state.reachable, state.version, snapshot.stale, snapshot.models, running, snapshot.problems)


def _log_change(before: Snapshot, new: Snapshot) -> None:
    if new.state.reachable != before.state.reachable or before.generation == 0:
        if new.state.reachable:
            log.info("ollama.reachable", version=new.state.version, models=len(new.models))
        else:
            log.warning("ollama.unreachable", error=new.state.error)
    elif new.list_digest != before.list_digest:
        log.info("ollama.models_changed", models=len(new.models))
    if new.problems != before.problems:
        log.warning("ollama.entries_unreadable", problems=list(new.problems))
