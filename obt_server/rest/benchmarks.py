"""Benchmarks, and the other jobs: start, list, follow, cancel, delete, compare."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from obt_agent.benchmark.compare import Comparison, compare
from obt_agent.benchmark.obt_format import to_obt
from obt_agent.benchmark.result import BenchmarkResult
from obt_agent.errors import InvalidParams
from obt_agent.protocol.commands import CancelResult
from obt_agent.protocol.jobs import JobState
from obt_server.hub.events import JobChanged
from obt_server.hub.storage import ENDED_STATES, JobRecord
from obt_server.rest import audit, responses
from obt_server.rest.agents import samples
from obt_server.rest.context import Context, api_router
from obt_server.rest.paging import Before, BeforeAgent, BeforeId
from obt_server.rest.problems import JobOpen
from obt_server.rest.sse import EventStream, after_first, event
from obt_server.rest.struct_route import described
from obt_server.rest.views import JobView, job_view
from obt_server.storage import JobFilter, NotStored

State = Literal[JobState, "starting", "lost"]
"""The protocol's states, and two of the server's own (docs/reference/rest.md)."""
MAX_TIME: Final = 253_402_300_799.0
"""The end of the year 9999, in Unix seconds: later times no calendar can show."""
_EXAMPLE: Final[dict[str, Any]] = {
    "agent": "box",
    "plan": {
        "model_name": "llama3.2:1b",
        "num_iterations": 3,
        "prompt_config": {"prompt": "Why is the sky blue?", "completion_tokens": 128},
    },
}


class StartBenchmark(BaseModel):
    """What to run, and where. ``plan`` is the protocol's plan, a superset of OBT's ``BenchmarkConfig``."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    agent: Annotated[str, Field(description="id or unique name")]
    plan: Annotated[dict[str, Any], Field(description="at least model_name")]
    job_id: Annotated[str | None, Field(min_length=1, max_length=128)] = None
    not_after: Annotated[
        float | None,
        Field(ge=0, le=MAX_TIME, description="Unix seconds; an hour from now when omitted"),
    ] = None
    signature: Annotated[
        dict[str, str] | None,
        Field(description="of obt-agent sign, where the agent's owner lists signers; give its job_id, too"),
    ] = None


class JobAccepted(msgspec.Struct, frozen=True, kw_only=True):
    """The agent has stored the job."""

    job_id: str
    agent_id: str
    state: JobState
    position: int | None


def routes(context: Context) -> APIRouter:
    """The routes."""
    router = api_router(context, "benchmarks", responses.AGENT)
    _starting(router, context)
    _reading(router, context)
    _following(router, context)
    _ending(router, context)
    return router


def _starting(router: APIRouter, context: Context) -> None:

    @router.post(
        "/benchmarks",
        status_code=202,
        summary="Start a benchmark; 409 agent_offline when the agent is not connected",
    )
    async def start(body: StartBenchmark) -> JobAccepted:
        agent = await context.hub.find(body.agent)
        audit.note(agent.id)
        params = {"job_id": body.job_id, "plan": body.plan, "not_after": body.not_after}
        params["signature"] = body.signature
        # Left out, and not null: the agent's own defaults hold, and a signature covers what was given.
        given = {key: value for key, value in params.items() if value is not None}
        started = await context.hub.start_job(agent.id, "run_benchmark", given)
        audit.note(job=started.job_id)
        return JobAccepted(
            job_id=started.job_id, agent_id=agent.id, state=started.state, position=started.position
        )


def _reading(router: APIRouter, context: Context) -> None:
    hub = context.hub

    @router.get("/benchmarks", summary="Benchmarks, the newest first")
    async def benchmarks(  # noqa: PLR0913 - each is a part of the query
        agent: str | None = None,
        model: str | None = None,
        state: State | None = None,
        before: Before = None,
        before_id: BeforeId = None,
        before_agent: BeforeAgent = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        *,
        requested: bool | None = None,
    ) -> list[JobView]:
        which = JobFilter(model=model, state=state, requested=requested, limit=limit, kind="benchmark")
        page = replace(which, before=before, before_id=before_id, before_agent=before_agent)
        return await _list(context, agent, page)

    @router.get("/jobs", summary="Jobs of every kind, the newest first")
    async def jobs(
        agent: str | None = None,
        state: State | None = None,
        before: Before = None,
        before_id: BeforeId = None,
        before_agent: BeforeAgent = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[JobView]:
        which = JobFilter(state=state, limit=limit)
        page = replace(which, before=before, before_id=before_id, before_agent=before_agent)
        return await _list(context, agent, page)

    @router.get("/benchmarks/compare", summary="Two results side by side")
    async def compare(a: str, b: str, a_agent: str | None = None, b_agent: str | None = None) -> Comparison:
        first, second = await _job(context, a, a_agent), await _job(context, b, b_agent)
        return await _compared(context, first, second)

    # After "compare": the first route that matches is taken, and this one takes every word.
    @router.get("/benchmarks/{job_id}", summary="One job: state, progress, digest of its model")
    async def one(job_id: str, agent: str | None = None) -> JobView:
        return job_view(hub, await _job(context, job_id, agent))

    @router.get(
        "/benchmarks/{job_id}/result",
        response_model=described(BenchmarkResult),
        response_description="As docs/explanation/benchmarking.md says; of a pull or a creation, its own.",
        summary="The result, byte by byte as the agent stored it (sha256 in ETag), or in OBT's own form",
    )
    async def result(job_id: str, agent: str | None = None, form: Literal["obt"] | None = None) -> Response:
        job = await _job(context, job_id, agent)
        text = await _result_text(context, job)
        if form == "obt":
            converted = await asyncio.to_thread(lambda: msgspec.json.encode(to_obt(_decoded(text))))
            return Response(converted, media_type="application/json")
        # Never decoded and encoded again: the hash in the header, and a signature of the agent's owner, are
        # of these bytes.
        return Response(text, media_type="application/json", headers={"ETag": f'"{job.sha256}"'})


def _following(router: APIRouter, context: Context) -> None:
    hub = context.hub

    @router.get(
        "/benchmarks/{job_id}/metrics",
        response_class=Response,
        responses=responses.events(("sample", responses.SAMPLE), ("end", {})),
        summary="Live samples of a running benchmark (SSE): `sample` events, then `end`",
    )
    async def metrics(
        job_id: str,
        agent: str | None = None,
        after: int = 0,
        last_event_id: Annotated[int | None, Header()] = None,
    ) -> Response:
        job = await _job(context, job_id, agent)

        async def events() -> AsyncIterator[bytes]:
            # A browser that reconnects says where it was; the address still holds where it began.
            start = after if last_event_id is None else last_event_id
            async with hub.watch_benchmark(job.agent_id, job.job_id, start) as viewer:
                async for chunk in samples(viewer):
                    yield chunk

        return EventStream(await after_first(events(), 2.0))

    @router.get(
        "/benchmarks/{job_id}/progress",
        response_class=Response,
        responses=responses.events(
            ("job", {"job_id": "8256...", "state": "running"}),
            ("end", {"job_id": "8256...", "state": "completed", "result_available": True}),
        ),
        summary="How far a job is (SSE): `job` events, then `end` with the job when it has ended",
    )
    async def progress(job_id: str, agent: str | None = None) -> Response:
        return EventStream(_progress(context, await _job(context, job_id, agent)))


def _ending(router: APIRouter, context: Context) -> None:
    hub, storage = context.hub, context.storage

    @router.post("/benchmarks/{job_id}/cancel", summary="Cancel a job at its agent")
    async def cancel(job_id: str, agent: str | None = None) -> CancelResult:
        job = await _job(context, job_id, agent)
        audit.note(job.agent_id)
        # Agent and id together: several agents may have a job of one id.
        return await hub.cancel_job(job.agent_id, job.job_id)

    @router.delete("/benchmarks/{job_id}", status_code=204, summary="Forget a job that has ended")
    async def remove(job_id: str, agent: str | None = None) -> None:
        job = await _job(context, job_id, agent)
        audit.note(job.agent_id)
        # Forgotten while it runs, its result would come back as one that nobody asked for.
        if job.state not in ENDED_STATES:
            raise JobOpen(f"Job {job.job_id} is {job.state}: cancel it first.")
        await storage.delete_job(job.agent_id, job.job_id)


async def _list(context: Context, agent: str | None, which: JobFilter) -> list[JobView]:
    if agent is not None:
        found = await context.hub.find(agent)
        which = replace(which, agent_id=found.id)
    return [job_view(context.hub, job) for job in await context.storage.jobs(which)]


async def _job(context: Context, job_id: str, agent: str | None) -> JobRecord:
    agent_id = None if agent is None else (await context.hub.find(agent)).id
    return await context.storage.job_by_id(job_id, agent_id)


async def _progress(context: Context, job: JobRecord) -> AsyncIterator[bytes]:
    # Listening before the first look: a change between the two would be missed, and the stream wait for ever.
    with context.hub.events.listen() as listener:
        while True:
            # Read anew for each event: the end of a job is its stored result, and not what a session said of
            # it.
            now = await context.storage.job_by_id(job.job_id, job.agent_id)
            view = job_view(context.hub, now)
            if now.state in ENDED_STATES:
                yield event("end", view)
                return
            yield event("job", view)
            while True:
                change = await listener.next()
                if isinstance(change, JobChanged) and (change.agent_id, change.job_id) == (
                    job.agent_id,
                    job.job_id,
                ):
                    break


async def _compared(context: Context, *jobs: JobRecord) -> Comparison:
    """Return the comparison of two stored results.

    Raises:
        NotStored: one of them has none.
        InvalidParams: one of them is no benchmark's result.
    """
    texts = [await _result_text(context, job) for job in jobs]
    # Decoding long results takes a while: not on the event loop.
    return await asyncio.to_thread(lambda: compare(*map(_decoded, texts)))


async def _result_text(context: Context, job: JobRecord) -> bytes:
    text = await context.storage.result(job.agent_id, job.job_id)
    if text is None:
        raise NotStored(f"Job {job.job_id} has no result yet; its state is {job.state}.")
    return text


def _decoded(text: bytes) -> BenchmarkResult:
    try:
        return msgspec.json.decode(text, type=BenchmarkResult)
    except msgspec.MsgspecError as error:
        raise InvalidParams(f"This is no benchmark's result: {error}.") from error
