"""The figures of every stored benchmark in a few lines each: what a table over machines and models shows."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from obt_server.rest.context import Context, api_router
from obt_server.result_index import DigestCell, DigestWarning, IndexedResult, ResultQuery, matching


class ResultsParams(BaseModel):
    """Which results, in which order, and which page of them."""

    search: Annotated[str, Field(max_length=200, description="words: model, machine, GPU, CPU")] = ""
    agent: Annotated[str | None, Field(description="id or unique name")] = None
    model: str | None = None
    plan: Annotated[str | None, Field(description="a plan's hash")] = None
    status: str | None = None
    newest: Annotated[bool, Field(description="only the newest of each machine, model and plan")] = False
    sort: Annotated[
        str,
        Field(max_length=64, description="created, model, machine or a headline metric; - turns it round"),
    ] = "-created"
    offset: Annotated[int, Field(ge=0)] = 0
    limit: Annotated[int, Field(ge=1, le=500)] = 100


class ResultView(msgspec.Struct, frozen=True, kw_only=True):
    """A stored result in short.

    ``status`` is the result's own, ``plan_name`` that of the preset or saved plan whose hash it has.
    ``flags`` counts iterations by flag, ``excluded`` those that the figures leave out. ``cells`` has
    ``{index, label, summary: {metric: {n, mean, median, ci_low, ...}}}``.
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
    plan_name: str | None
    iterations: int
    excluded: int
    flags: dict[str, int]
    warnings: tuple[DigestWarning, ...]
    cells: tuple[DigestCell, ...]


class ResultsPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the results that match; ``total`` counts all of them."""

    total: int
    results: list[ResultView]


class MeasuredPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A plan that results have; ``name`` is that of the preset or saved plan with this hash."""

    plan_hash: str
    name: str | None
    results: int


def routes(context: Context) -> APIRouter:
    """The routes."""
    router = api_router(context, "benchmarks")
    index, plans = context.results, context.plans

    @router.get("/results", summary="Figures of stored benchmarks over all machines: searched, sorted, paged")
    async def results(asked: Annotated[ResultsParams, Query()]) -> ResultsPage:
        # An agent's name is looked up once, here; the index knows ids alone, which no rename changes.
        query = ResultQuery(
            search=asked.search,
            agent_id=None if asked.agent is None else (await context.hub.find(asked.agent)).id,
            model=asked.model,
            plan=asked.plan,
            status=asked.status,
            newest=asked.newest,
            sort=asked.sort,
        )
        # Names as they are now: a result keeps the id of its machine, and shows its present name.
        names = {one.id: one.name for one in (await context.hub.directory.current()).values()}
        # Searched and sorted over all results, and only then cut to a page: a page that filtered what it had
        # loaded would hide most of what matches.
        found = matching(await index.lines(), query, names)
        # Hashes are what results hold; people know plans by name.
        named = await plans.by_hash()
        shown = [_view(line, names, named) for line in found[asked.offset : asked.offset + asked.limit]]
        return ResultsPage(total=len(found), results=shown)

    @router.get("/results/plans", summary="Plans that completed results have, the most measured first")
    async def measured() -> list[MeasuredPlan]:
        digests = [line.digest for line in await index.lines()]
        # Of completed runs alone: a plan that always failed has nothing to compare.
        hashes = [one.environment.plan_hash for one in digests if one.status == "completed"]
        counted = Counter(hashed for hashed in hashes if hashed)
        named = await plans.by_hash()
        return [
            MeasuredPlan(plan_hash=hashed, name=named.get(hashed), results=count)
            for hashed, count in counted.most_common()
        ]

    return router


def _view(line: IndexedResult, names: dict[str, str], plans: dict[str, str]) -> ResultView:
    stored, digest, environment = line.stored, line.digest, line.digest.environment
    return ResultView(
        job_id=stored.job_id,
        agent_id=stored.agent_id,
        agent_name=names.get(stored.agent_id, ""),
        finished_at=stored.finished_at,
        created_at=stored.created_at,
        requested=stored.requested,
        status=digest.status,
        model=environment.model or stored.model,
        model_digest=environment.model_digest or stored.model_digest,
        quantization=environment.quantization,
        parameter_size=environment.parameter_size,
        ollama_version=environment.ollama_version,
        gpu=environment.gpu,
        cpu=environment.cpu,
        plan_hash=environment.plan_hash,
        plan_name=plans.get(environment.plan_hash or ""),
        iterations=digest.iterations,
        excluded=digest.excluded,
        flags=digest.flags,
        warnings=digest.warnings,
        cells=digest.cells,
    )
