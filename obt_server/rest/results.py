"""The figures of every stored benchmark in a few lines each: what a table over machines and models shows."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Query

from obt_agent.benchmark.metrics_registry import METRICS
from obt_agent.benchmark.plan import Plan
from obt_agent.benchmark.presets import PRESETS
from obt_agent.benchmark.result import Summary
from obt_server.hub.storage import JobRecord
from obt_server.rest.context import Context, route_class
from obt_server.rest.struct_route import Shape
from obt_server.storage import JobFilter

HEADLINE: Final = tuple(metric.name for metric in METRICS if metric.headline)
"""Metrics of a line. The result itself has all of them."""
REMEMBERED: Final = 2000
"""Lines kept in memory. A stored result never changes, so that its line is computed once."""
MOST: Final = 64
"""Cells, warnings and kinds of flag of a line: an agent may send more, and a line stays short."""


Preset = Annotated[msgspec.Raw, Shape(Plan, partial=True)]
"""A plan without its model; what is left out has the plan's default."""


class _ResultEnvironment(msgspec.Struct, frozen=True):
    plan_hash: str | None = None
    model: str | None = None
    model_digest: str | None = None
    quantization: str | None = None
    parameter_size: str | None = None
    ollama_version: str | None = None
    gpu: tuple[str, ...] = ()
    cpu: str | None = None


class ResultCell(msgspec.Struct, frozen=True):
    """One shape of a sweep, with its headline metrics by name."""

    index: int
    label: str
    summary: dict[str, Summary] = {}


class _Iteration(msgspec.Struct, frozen=True):
    flags: tuple[str, ...] = ()
    excluded: str | None = None


class ResultWarning(msgspec.Struct, frozen=True):
    """What makes figures doubtful, and what to do about it."""

    code: str
    message: str
    action: str
    cell: int | None = None


class _Result(msgspec.Struct, frozen=True):
    """The part of a result that a line needs; the samples are skipped, not built."""

    status: str
    environment: _ResultEnvironment
    cells: tuple[ResultCell, ...] = ()
    metrics: tuple[_Iteration, ...] = ()
    warnings: tuple[ResultWarning, ...] = ()


class ResultDigest(msgspec.Struct, frozen=True, kw_only=True):
    """What a result's text says in short."""

    status: str
    environment: _ResultEnvironment
    iterations: int
    excluded: int
    flags: dict[str, int]
    warnings: tuple[ResultWarning, ...]
    cells: tuple[ResultCell, ...]


class ResultView(msgspec.Struct, frozen=True, kw_only=True):
    """A stored result in short.

    ``status`` is the result's own. ``flags`` counts iterations by flag, ``excluded`` those that the figures
    leave out. ``cells`` has ``{index, label, summary: {metric: {n, mean, median, ci_low, ...}}}``.
    """

    job_id: str
    agent_id: str
    agent_name: str
    finished_at: float | None
    created_at: float
    requested: bool
    status: str
    model: str | None
    model_digest: str | None
    quantization: str | None
    parameter_size: str | None
    ollama_version: str | None
    gpu: tuple[str, ...]
    cpu: str | None
    plan_hash: str | None
    iterations: int
    excluded: int
    flags: dict[str, int]
    warnings: tuple[ResultWarning, ...]
    cells: tuple[ResultCell, ...]


def routes(context: Context) -> APIRouter:
    """The routes."""
    router = APIRouter(route_class=route_class(context), tags=["benchmarks"])
    lines = ResultLines(context)

    @router.get("/results", summary="Figures of every stored benchmark, over all machines, the newest first")
    async def results(
        agent: str | None = None,
        model: str | None = None,
        before: Annotated[float | None, Query(description="created before this time, Unix seconds")] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
    ) -> list[ResultView]:
        agent_id = None if agent is None else (await context.hub.find(agent)).id
        which = JobFilter(
            agent_id=agent_id, kind="benchmark", model=model, before=before, limit=limit, with_result=True
        )
        names = {one.id: one.name for one in await context.storage.agents()}
        found = [(job, await lines.of(job)) for job in await context.storage.jobs(which)]
        return [_view(job, digest, names) for job, digest in found if digest is not None]

    @router.get("/benchmark-presets", summary="Named plans, the same that `obt-agent bench` knows")
    async def presets() -> dict[str, Preset]:
        return {name: msgspec.Raw(msgspec.json.encode(dict(plan))) for name, plan in PRESETS.items()}

    return router


class ResultLines:
    """Lines of results, each computed once.

    Args:
        context: where the results are.
        remembered: how many are kept, the latest asked for.
    """

    def __init__(self, context: Context, remembered: int = REMEMBERED) -> None:
        self._storage = context.storage
        self._remembered = remembered
        self._known: OrderedDict[tuple[str, str, str], ResultDigest | None] = OrderedDict()

    async def of(self, job: JobRecord) -> ResultDigest | None:
        """The line of a job's result; None where there is none, or its text is no benchmark's result."""
        key = (job.agent_id, job.job_id, job.sha256 or "")
        if key not in self._known:
            text = await self._storage.result(job.agent_id, job.job_id)
            digest = None if text is None else await asyncio.to_thread(digest_of, text)
            self._known[key] = digest
            if len(self._known) > self._remembered:
                self._known.popitem(last=False)
            return digest
        self._known.move_to_end(key)
        return self._known[key]


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
        flags=dict(Counter(flag for one in result.metrics for flag in one.flags).most_common(MOST)),
        warnings=result.warnings[:MOST],
        cells=tuple(_headline(cell) for cell in result.cells[:MOST]),
    )


def _headline(cell: ResultCell) -> ResultCell:
    summary = {name: cell.summary[name] for name in HEADLINE if name in cell.summary}
    return ResultCell(index=cell.index, label=cell.label, summary=summary)


def _view(job: JobRecord, digest: ResultDigest, names: dict[str, str]) -> ResultView:
    environment = digest.environment
    return ResultView(
        job_id=job.job_id,
        agent_id=job.agent_id,
        agent_name=names.get(job.agent_id, ""),
        finished_at=job.finished_at,
        created_at=job.created_at,
        requested=job.requested,
        status=digest.status,
        model=environment.model or job.model,
        model_digest=environment.model_digest or job.model_digest,
        quantization=environment.quantization,
        parameter_size=environment.parameter_size,
        ollama_version=environment.ollama_version,
        gpu=environment.gpu,
        cpu=environment.cpu,
        plan_hash=environment.plan_hash,
        iterations=digest.iterations,
        excluded=digest.excluded,
        flags=digest.flags,
        warnings=digest.warnings,
        cells=digest.cells,
    )
