"""Benchmarks of agents, started, listed and deleted as OBT's page does it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from obt_agent.benchmark.obt_format import ObtMetrics, ObtResult, obt_config, obt_hardware, to_obt
from obt_agent.benchmark.plan import Plan
from obt_agent.benchmark.result import BenchmarkResult
from obt_agent.errors import AgentError, InvalidParams
from obt_agent.protocol.jobs import JobProgress
from obt_server.contrib.obt.clients import ObtClients
from obt_server.hub.storage import ENDED_STATES, JobRecord
from obt_server.rest.context import Context
from obt_server.rest.obt_interface import client_ids
from obt_server.rest.views import job_view
from obt_server.storage import JobFilter

ObtStatus = Literal["running", "completed", "failed"]
"""OBT's words. What waits is running: its page stops looking when nothing is."""

MAX_RUNS: Final = 64
"""Of one start: models times prompts. One machine measures them one after the other."""
COMPLETION_TOKENS: Final = 100
"""OBT's default; its page does not ask."""
MAX_LISTED: Final = 200
"""Of one list, and of converted results in memory: the page asks every 2 s, and a text may have megabytes."""
_ZERO_ROW: Final = ObtMetrics(
    **dict.fromkeys(ObtMetrics.__struct_fields__[: -len(ObtMetrics.__struct_defaults__)], 0)
)
"""The page reads the first row of every result, of those without one as well."""


@dataclass(frozen=True)
class StartRequest:
    """Each model with each prompt, on one client."""

    client_id: str
    models: tuple[str, ...]
    prompts: tuple[str, ...]
    hardware: Mapping[str, Any]


class ObtBenchmarks:
    """The benchmarks of all agents, in OBT's words.

    Args:
        context: hub and storage.
        clients: OBT's own clients, whose ids are theirs.
    """

    def __init__(self, context: Context, clients: ObtClients) -> None:
        self._context = context
        self._clients = clients
        # by the hash of the stored text, the oldest first
        self._converted: OrderedDict[str, ObtResult | None] = OrderedDict()

    async def start(self, request: StartRequest) -> tuple[list[str], list[str]]:
        """Start all; return the ids of those that began, and why others did not.

        Raises:
            InvalidParams: there is no prompt, or there are too many runs.
            AgentError: none began; the first one's reason.
        """
        runs = [(model, prompt) for model in request.models for prompt in request.prompts]
        if not 1 <= len(runs) <= MAX_RUNS:
            raise InvalidParams(
                f"{len(runs)} benchmarks: choose models and prompts for 1 to {MAX_RUNS}.", field="prompts"
            )
        agent = await self._context.hub.find(request.client_id)
        ids, errors = [], []
        for model, prompt in runs:
            plan = {
                "model_name": model,
                "prompt_config": {"prompt": prompt, "completion_tokens": COMPLETION_TOKENS},
                "hardware": _selection(request.hardware),
            }
            try:
                started = await self._context.hub.start_job(agent.id, "run_benchmark", {"plan": plan})
            except AgentError as error:
                errors.append(error)
            else:
                ids.append(started.job_id)
        if not ids:
            raise errors[0]
        return ids, [error.message for error in errors]

    async def listed(
        self, model: str | None, client_id: str | None, status: ObtStatus | None, limit: int
    ) -> list[ObtResult]:
        """Return benchmarks, the newest first."""
        agent_id = None if client_id is None else (await self._context.hub.find(client_id)).id
        which = JobFilter(agent_id=agent_id, kind="benchmark", model=model, limit=limit)
        views = [await self._view(job) for job in await self._context.storage.jobs(which)]
        return [view for view in views if status in (None, view.status)]

    async def one(self, benchmark_id: str) -> ObtResult:
        """Return one benchmark. Raise NotStored, AmbiguousJob."""
        return await self._view(await self._context.storage.job_by_id(benchmark_id))

    async def delete(self, benchmark_id: str) -> bool:
        """Forget one that has ended, and return True; cancel one that has not, and return False.

        Raises:
            NotStored: there is none of that id.
            AgentError: it could not be cancelled.
        """
        job = await self._context.storage.job_by_id(benchmark_id)
        # Forgotten while it runs, its result would come back as one that nobody asked for.
        if job.state not in ENDED_STATES:
            await self._context.hub.cancel_job(job.agent_id, job.job_id)
            return False
        await self._context.storage.delete_job(job.agent_id, job.job_id)
        return True

    async def _view(self, job: JobRecord) -> ObtResult:
        agents = (await self._context.hub.directory.current()).values()
        client_id = client_ids(agents, taken=self._clients).get(job.agent_id, job.agent_id)
        stored = None if job.sha256 is None else await self._result(job, job.sha256)
        if stored is None:
            return self._without_result(job, client_id)
        config = msgspec.structs.replace(stored.config, client_id=client_id)
        metrics = stored.metrics or (_ZERO_ROW,)
        return msgspec.structs.replace(
            stored,
            id=job.job_id,
            client_id=client_id,
            config=config,
            metrics=metrics,
            # Cancelled and interrupted ones have no word of their own there.
            status="completed" if stored.status == "completed" else "failed",
            error=stored.error if stored.status in ("completed", "failed") else f"It was {stored.status}.",
        )

    async def _result(self, job: JobRecord, sha256: str) -> ObtResult | None:
        """The stored result in OBT's form; None where it cannot be read."""
        if sha256 not in self._converted:
            text = await self._context.storage.result(job.agent_id, job.job_id)
            self._converted[sha256] = None if text is None else await asyncio.to_thread(_convert, text)
            while len(self._converted) > MAX_LISTED:
                self._converted.popitem(last=False)
        return self._converted[sha256]

    def _without_result(self, job: JobRecord, client_id: str) -> ObtResult:
        view = job_view(self._context.hub, job)
        ended = job.state in ENDED_STATES
        plan = _plan(job)
        return ObtResult(
            id=job.job_id,
            client_id=client_id,
            config=obt_config(plan, client_id),
            hardware_info=obt_hardware(None),
            metrics=(_ZERO_ROW,),
            start_time=datetime.fromtimestamp(job.created_at, UTC),
            end_time=datetime.fromtimestamp(job.finished_at or job.created_at, UTC) if ended else None,
            status="failed" if ended else "running",
            average_tokens_per_second=0.0,
            average_latency_ms=0.0,
            # The page shows this in place of figures, of which there are none.
            error=_why(job) if ended else _how_far(view.progress, view.state),
        )


class _PlannedJob(msgspec.Struct):
    """What is read of a job's parameters."""

    plan: Plan


def _plan(job: JobRecord) -> Plan:
    try:
        return msgspec.json.decode(job.params, type=_PlannedJob).plan
    # A job that this server did not start, or a later release's plan.
    except msgspec.MsgspecError:
        return Plan(model_name=job.model or "unknown")


def _convert(text: bytes) -> ObtResult | None:
    try:
        return to_obt(msgspec.json.decode(text, type=BenchmarkResult))
    except msgspec.MsgspecError:
        return None


def _selection(hardware: Mapping[str, Any]) -> dict[str, Any]:
    """The page's choice of GPU; what is no choice, such as null for "any", is left to the machine."""
    use_gpu, gpu_id = hardware.get("use_gpu", True), str(hardware.get("gpu_id"))
    selection: dict[str, Any] = {"use_gpu": use_gpu is not False}
    # A number in a form of the page is a text.
    if use_gpu is not False and gpu_id.isdecimal():
        selection["gpu_id"] = int(gpu_id)
    return selection


def _how_far(progress: JobProgress | None, state: str) -> str:
    if progress is None:
        return f"Not measured yet: {state}."
    if progress.waiting_for is not None:
        return f"Not measured yet: waits for {progress.waiting_for}."
    planned = progress.iterations_planned
    done = "" if progress.iteration is None else f" {progress.iteration} of {planned or 'some'}"
    return f"Not measured yet: {progress.phase}{done}."


def _why(job: JobRecord) -> str:
    if job.sha256 is not None:
        return "Its result is of a form that this server does not read."
    return job.error.message if job.error is not None else f"It has no result: {job.state}."
