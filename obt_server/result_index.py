"""Every stored benchmark in short, and which of them a query matches."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from obt_agent.benchmark.metrics_registry import METRICS
from obt_agent.benchmark.result import Summary
from obt_agent.errors import InvalidParams
from obt_server.storage import MOST_REPORTED, Reported, ServerStorage, StoredBenchmark

HEADLINE: Final = tuple(metric.name for metric in METRICS if metric.headline)
"""Metrics of a line. The result itself has all of them."""
DIGEST_VERSION: Final = 1
KEPT_AT_ONCE: Final = 200
"""Digests of one write, which waits for the disk once. Written one by one, those of five thousand results
would hold up the first list for minutes."""
MOST: Final = 64
"""Cells, warnings and kinds of flag of a line: an agent may send more, and a line stays short."""


class DigestEnvironment(msgspec.Struct, frozen=True):
    """Where a result was measured, as far as lists show it."""

    plan_hash: str | None = None
    model: str | None = None
    model_digest: str | None = None
    quantization: str | None = None
    parameter_size: str | None = None
    ollama_version: str | None = None
    gpu: tuple[str, ...] = ()
    cpu: str | None = None
    # What nights are compared by, to say what changed between them.
    agent_version: str | None = None
    os: str | None = None
    kernel: str | None = None
    driver: str | None = None
    power_limit_watts: float | None = None
    cpu_governor: str | None = None
    memory_bytes: Reported | None = None
    num_parallel: Reported | None = None
    other_models_loaded: tuple[str, ...] = ()
    cpu_temperature: float | None = None
    gpu_temperature: float | None = None
    idle_cpu_percent: float | None = None
    idle_gpu_percent: float | None = None


class DigestCell(msgspec.Struct, frozen=True):
    """One cell's headline figures."""

    index: Reported
    label: str
    summary: dict[str, Summary] = {}


# What is not named here is skipped by the decoder without being built: a result has megabytes of samples.
class _Iteration(msgspec.Struct, frozen=True):
    flags: tuple[str, ...] = ()
    excluded: str | None = None


class DigestWarning(msgspec.Struct, frozen=True):
    """A warning of the result."""

    code: str
    message: str
    action: str
    cell: Reported | None = None


class _Result(msgspec.Struct, frozen=True):
    """The part of a result that a line needs; the samples are skipped, not built."""

    status: str
    environment: DigestEnvironment
    # Whatever an agent sends there: a time that is none must not keep the result out of lists.
    start_time: Any = None
    end_time: Any = None
    cells: tuple[DigestCell, ...] = ()
    metrics: tuple[_Iteration, ...] = ()
    warnings: tuple[DigestWarning, ...] = ()


class ResultDigest(msgspec.Struct, frozen=True, kw_only=True):
    """What a result's text says in short. ``seconds``: from the start of its measurement to the end."""

    status: str
    environment: DigestEnvironment
    iterations: int
    excluded: int
    flags: dict[str, int]
    warnings: tuple[DigestWarning, ...]
    cells: tuple[DigestCell, ...]
    seconds: float | None = None
    # Of what this release puts into a digest: one that is stored with another number is made anew.
    version: int = 0


@dataclass(frozen=True, kw_only=True)
class IndexedResult:
    """A stored benchmark with its digest."""

    stored: StoredBenchmark
    digest: ResultDigest

    @property
    def model(self) -> str:
        """The model's name, as the result has it or else as it was asked for."""
        return self.digest.environment.model or self.stored.model or ""

    # Kept with the line: made anew for each search and sort of five thousand, this was most of an answer.
    @functools.cached_property
    def medians(self) -> dict[str, float]:
        """Each headline metric's median, in the first cell that has it."""
        cells = reversed(self.digest.cells)
        return {metric: found.median for cell in cells for metric, found in cell.summary.items()}

    @functools.cached_property
    def text(self) -> str:
        """What a search looks at besides the machine's name, in lower case."""
        env = self.digest.environment
        parts = (self.model, env.quantization, env.parameter_size, env.cpu, *env.gpu)
        return " ".join(part for part in (*parts, env.ollama_version, self.digest.status) if part).lower()


@dataclass(frozen=True, kw_only=True)
class ResultQuery:
    """Which results, in which order. ``sort`` names a column or a metric; ``-`` before it turns it round."""

    search: str = ""
    agent_id: str | None = None
    model: str | None = None
    plan: str | None = None
    status: str | None = None
    newest: bool = False
    sort: str = "-created"


class ResultIndex:
    """Every stored benchmark with its digest.

    A stored result never changes: its digest is computed once, and stored.

    Args:
        storage: where results and digests are.
    """

    def __init__(self, storage: ServerStorage) -> None:
        self._storage = storage
        # By agent, job and hash of the text: a text that came anew under the same id is another one. None:
        # the text is no benchmark's result.
        self._known: dict[tuple[str, str, str], ResultDigest | None] = {}
        self._loaded = False
        # The list as it was at ``_mark``: a table that is sorted and searched asks for it with each click.
        self._lines: list[IndexedResult] = []
        self._mark = ""
        # One reader fills the index; the others wait for it instead of decoding the same results again.
        self._filling = asyncio.Lock()

    async def lines(self) -> list[IndexedResult]:
        """Every stored benchmark, the newest first."""
        # After a restart ten open pages ask at once: one fills the index, the others find it full.
        async with self._filling:
            # Before the list: what comes between the two is read again with the next call.
            mark = await self._storage.benchmarks_mark()
            if mark != self._mark:
                stored = await self._storage.stored_benchmarks()
                await self._fill(stored)
                known = ((one, self._known.get(_key(one))) for one in stored)
                # A line that is as it was keeps what was worked out of it.
                before = {_key(line.stored): line for line in self._lines}
                lines = [IndexedResult(stored=one, digest=digest) for one, digest in known if digest]
                lines = [old if (old := before.get(_key(one.stored))) == one else one for one in lines]
                # On a thread, and before anybody searches or sorts: the first one would wait for all of it.
                await asyncio.to_thread(_work_out, lines)
                self._lines, self._mark = lines, mark
            return self._lines

    async def _fill(self, stored: Sequence[StoredBenchmark]) -> None:
        if not self._loaded:
            for agent_id, job_id, sha256, text in await self._storage.digests():
                with contextlib.suppress(msgspec.MsgspecError):  # another release's: it is computed again
                    digest = msgspec.json.decode(text, type=ResultDigest)
                    if digest.version == DIGEST_VERSION:
                        self._known[agent_id, job_id, sha256] = digest
            self._loaded = True
        keys = {_key(one) for one in stored}
        # A set of its own, so that the mapping may change while it is walked.
        for gone in self._known.keys() - keys:
            del self._known[gone]
        missing = [one for one in stored if _key(one) not in self._known]
        for start in range(0, len(missing), KEPT_AT_ONCE):
            await self._add(missing[start : start + KEPT_AT_ONCE])

    async def _add(self, some: Sequence[StoredBenchmark]) -> None:
        made = []
        for one in some:
            text = await self._storage.result(one.agent_id, one.job_id)
            # On a thread: decoding a long result takes a while, and agents' frames would wait for it.
            digest = None if text is None else await asyncio.to_thread(digest_of, text)
            # None too: what is no benchmark's result is not decoded again with each list.
            self._known[_key(one)] = digest
            if digest is not None:
                made.append((*_key(one), msgspec.json.encode(digest)))
        await self._storage.keep_digests(made)


def _work_out(lines: Sequence[IndexedResult]) -> None:
    """Have every line keep what searches and sorts ask of it."""
    for line in lines:
        _ = line.text, line.medians


def _key(one: StoredBenchmark) -> tuple[str, str, str]:
    return one.agent_id, one.job_id, one.sha256


def matching(
    lines: Sequence[IndexedResult], query: ResultQuery, names: dict[str, str]
) -> list[IndexedResult]:
    """The lines that match, in order; those that lack the sorted figure come last."""
    # Every word has to be there, wherever: people type a model and a machine in either order.
    words = query.search.lower().split()
    found = list(lines)
    # One pass for each filter that is set: most lists have none or one.
    if query.agent_id is not None:
        found = [line for line in found if line.stored.agent_id == query.agent_id]
    if query.model is not None:
        found = [line for line in found if line.model == query.model]
    if query.plan is not None:
        found = [line for line in found if line.digest.environment.plan_hash == query.plan]
    if query.status is not None:
        found = [line for line in found if line.digest.status == query.status]
    for word in words:
        machines = {agent_id for agent_id, name in names.items() if word in name.lower()}
        found = [line for line in found if word in line.text or line.stored.agent_id in machines]
    if query.newest:
        # One line for each machine, model and plan, as a leaderboard compares them.
        first: dict[tuple[str, str, str | None], IndexedResult] = {}
        for line in found:  # the newest come first
            first.setdefault((line.stored.agent_id, line.model, line.digest.environment.plan_hash), line)
        found = list(first.values())
    return _sorted(found, query.sort, names)


def _sorted(lines: list[IndexedResult], sort: str, names: dict[str, str]) -> list[IndexedResult]:
    column, backwards = sort.removeprefix("-"), sort.startswith("-")
    texts: dict[str, Callable[[IndexedResult], str]] = {
        "model": lambda line: line.model.lower(),
        "machine": lambda line: names.get(line.stored.agent_id, "").lower(),
    }
    if column == "created":
        return sorted(lines, key=lambda line: line.stored.created_at, reverse=backwards)
    if column in texts:
        return sorted(lines, key=texts[column], reverse=backwards)
    if column not in HEADLINE:
        raise InvalidParams(f"Results are not sorted by {column[:64]!r}.", field="sort")
    # No pairs of figure and line: for thousands of new tuples Python's collector walks all of the index.
    have = [line for line in lines if column in line.medians]
    have.sort(key=lambda line: line.medians[column], reverse=backwards)
    # Results without the figure come last in both directions: turned round they would hide the first page.
    return have + [line for line in lines if column not in line.medians]


def digest_of(text: bytes) -> ResultDigest | None:
    """A result's text in short; None when it is no benchmark's result. Decoding a long one takes a while."""
    try:
        result = msgspec.json.decode(text, type=_Result)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return ResultDigest(
        status=result.status,
        environment=result.environment,
        iterations=len(result.metrics),
        excluded=sum(one.excluded is not None for one in result.metrics),
        # The most frequent ones: an agent may invent as many as it has iterations.
        flags=dict(Counter(flag for one in result.metrics for flag in one.flags).most_common(MOST)),
        warnings=result.warnings[:MOST],
        cells=tuple(_headline(cell) for cell in result.cells[:MOST]),
        seconds=_seconds(result.start_time, result.end_time),
        version=DIGEST_VERSION,
    )


def _seconds(start: object, end: object) -> float | None:
    try:
        took = datetime.fromisoformat(str(end)) - datetime.fromisoformat(str(start))
    # No times, or one of them without a zone.
    except (ValueError, TypeError):
        return None
    return max(0.0, took.total_seconds())


def _headline(cell: DigestCell) -> DigestCell:
    found = ((name, cell.summary.get(name)) for name in HEADLINE)
    # What counts iterations is the agent's own word as well, and a line must be storable.
    summary = {name: one for name, one in found if one is not None and 0 <= one.n <= MOST_REPORTED}
    return DigestCell(index=cell.index, label=cell.label, summary=summary)
