"""Machines whose agents are doubles: they count what they are asked, and do it when a test says so."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from obt_agent.errors import AgentError, ModelNotFound
from obt_agent.ollama.payloads import InstalledModel, OllamaState
from obt_agent.protocol.commands import ListModelsResult
from obt_agent.protocol.envelope import Request
from obt_agent.protocol.errors import to_wire
from obt_agent.protocol.jobs import JobProgress, JobProgressParams, JobStarted, JobSummary
from obt_server.rollouts import RolloutSettings
from tests.server.agent_double import AgentDouble, Answer, Handler
from tests.server.conftest import Running
from tests.server.job_steps import finish, sync_jobs
from tests.waiting import until

QUICK = RolloutSettings(
    offline_grace_s=0.0, poll_s=0.5, start_again_s=1.0, busy_retry_s=(0.01, 0.1), converge_every_s=0.05
)
"""Short pauses, for what no event announces."""
MODEL = "tiny:latest"
DIGEST = "d" * 64
SIZE = 1_000


def model(name: str = MODEL, digest: str = DIGEST, size: int = SIZE) -> InstalledModel:
    return InstalledModel(name=name, digest=digest, size_bytes=size, quantization_level="Q4_K_M")


@dataclass
class Machine:
    """A machine: what it has, what it was asked, and how it answers. It outlives its links."""

    name: str
    credentials: tuple[str, str]
    models: dict[str, InstalledModel] = field(default_factory=dict)
    started: Counter[str] = field(default_factory=Counter)
    """How often each job was started for the first time here: once, whatever was sent."""
    jobs: dict[str, str] = field(default_factory=dict)
    """Jobs that it has, and the state of each."""
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    at_once: bool = True
    """Whether a pull that is started ends by itself."""
    refusal: AgentError | None = None
    """What the next commands that change a model are answered with."""
    failure: AgentError | None = None
    """What pulls end with."""
    free_bytes: int | None = None
    says_digest: bool = True
    """Whether the result of a pull says which version it brought, as newer agents' do."""
    allowed: tuple[str, ...] = ("list_models", "generate", "run_benchmark")
    """What its hello says; what it then does is another matter."""
    cancels: list[str] = field(default_factory=list)
    agent: AgentDouble | None = None
    revisions: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def id(self) -> str:
        return self.credentials[0]

    @property
    def link(self) -> AgentDouble:
        assert self.agent is not None
        return self.agent

    @contextlib.asynccontextmanager
    async def connected(self, server: Running, **identity: Any) -> AsyncIterator[Machine]:
        identity = {"capabilities": self.allowed} | identity
        async with server.agent(self.name, credentials=self.credentials, **identity) as agent:
            self.agent = agent
            agent.handlers |= self.handlers()
            await self.list_models()
            # As agents do after each admission.
            listed = [_summary(job, state) for job, state in self.jobs.items() if state != "acknowledged"]
            await sync_jobs(agent, *listed)
            yield self

    def handlers(self) -> dict[str, Handler]:
        """What answers each method."""
        return {
            "pull_model": self._start,
            "create_model": self._start,
            "copy_model": self._copy,
            "delete_model": self._delete,
            "load_model": self._load,
            "unload_model": self._load,
            "list_models": self._list,
            "cancel": self._cancel,
            "benchmark_status": self._status,
        }

    async def list_models(self) -> None:
        await self.link.sync_models(*self.models.values(), revision=next(self.revisions))

    async def _start(self, agent: AgentDouble, request: Request) -> Answer:
        params = msgspec.json.decode(request.params)
        self.asked.append((request.method, params))
        if self.refusal is not None:
            return self.refusal
        job_id = params["job_id"]
        if job_id not in self.jobs:
            self.started[job_id] += 1
            self.jobs[job_id] = "running"
            if self.at_once:
                work = asyncio.create_task(self.finish_pull(job_id, params["model"]), name="pull of a double")
                agent._tasks.add(work)  # noqa: SLF001 - ended with the double
        return JobStarted(job_id=job_id, state="running")

    async def finish_pull(self, job_id: str | None = None, name: str = MODEL, **more: Any) -> None:
        """The job ends as the machine's script says; the only open one when none is named."""
        if job_id is None:
            (job_id,) = (job for job, state in self.jobs.items() if state == "running")
        result: dict[str, Any] = {"completed_bytes": SIZE, "total_bytes": SIZE}
        if self.free_bytes is not None:
            result["free_bytes"] = self.free_bytes
        if self.says_digest:
            result["digest"] = DIGEST
        state, error = "completed", None
        if self.failure is not None:
            state, error, result = "failed", to_wire(self.failure), {}
        else:
            self.models[name] = model(name)
        self.jobs[job_id] = "finished"
        await finish(
            self.link, job_id, json.dumps(result), **({"kind": "pull", "state": state, "error": error} | more)
        )
        self.jobs[job_id] = "acknowledged"
        await self.list_models()

    async def say_progress(self, **progress: Any) -> None:
        """Of the only open job."""
        (job_id,) = (job for job, state in self.jobs.items() if state == "running")
        await self.link.notify(
            "job.progress",
            JobProgressParams(job_id=job_id, state="running", progress=JobProgress(**progress)),
        )

    async def _copy(self, _: AgentDouble, request: Request) -> Answer:
        params = self._note(request)
        if self.refusal is not None:
            return self.refusal
        self.models[params["destination"]] = msgspec.structs.replace(
            self.models[params["source"]], name=params["destination"]
        )
        return {"done": True}

    async def _delete(self, _: AgentDouble, request: Request) -> Answer:
        params = self._note(request)
        if self.refusal is not None:
            return self.refusal
        if self.models.pop(params["model"], None) is None:
            return ModelNotFound(f"model {params['model']!r} not found")
        return {"done": True, "freed_bytes": SIZE, "was_loaded": False}

    async def _load(self, _: AgentDouble, request: Request) -> Answer:
        params = self._note(request)
        loaded = request.method == "load_model"
        return self.refusal or {"model": params["model"], "loaded": loaded, "wall_ms": 1.0}

    async def _list(self, _: AgentDouble, __: Request) -> Answer:
        return ListModelsResult(
            models=tuple(self.models.values()), list_digest="x", ollama=OllamaState(reachable=True)
        )

    async def _cancel(self, agent: AgentDouble, request: Request) -> Answer:
        job_id = msgspec.json.decode(request.params).get("job_id")
        if job_id is None:
            agent.cancel_handler(msgspec.json.decode(request.params)["id"])
            return {"state": "cancelling"}
        self.cancels.append(job_id)
        if self.jobs.get(job_id) != "running":
            self.jobs.setdefault(job_id, "cancelled before its start")
            return {"state": "unknown"}
        self.jobs[job_id] = "acknowledged"
        work = asyncio.create_task(
            finish(agent, job_id, "{}", kind="pull", state="cancelled"), name="cancelled pull"
        )
        agent._tasks.add(work)  # type: ignore[arg-type]  # noqa: SLF001 - ended with the double
        return {"state": "cancelling"}

    async def _status(self, _: AgentDouble, request: Request) -> Answer:
        job_id = msgspec.json.decode(request.params)["job_id"]
        return {"job": msgspec.to_builtins(_summary(job_id, self.jobs.get(job_id, "running")))}

    def _note(self, request: Request) -> dict[str, Any]:
        params: dict[str, Any] = msgspec.json.decode(request.params)
        self.asked.append((request.method, params))
        return params


def _summary(job_id: str, state: str) -> JobSummary:
    known = {"running": "running", "finished": "completed"}
    return JobSummary(job_id=job_id, kind="pull", state=known.get(state, "completed"))  # type: ignore[arg-type]


async def machines(server: Running, count: int, **fields: Any) -> list[Machine]:
    """So many enrolled machines, none connected yet."""
    return [Machine(f"m{number}", await server.enrol(f"m{number}"), **fields) for number in range(count)]


@contextlib.asynccontextmanager
async def connected(server: Running, some: list[Machine]) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for machine in some:
            await stack.enter_async_context(machine.connected(server))
        yield


async def begin(server: Running, **fields: Any) -> dict[str, Any]:
    """A rollout on all machines, unless the fields say otherwise; as the API shows it."""
    body = {"action": "pull", "model": MODEL, "targets": {"all": True}} | fields
    answer = await server.http.post("/api/v1/rollouts", json=body)
    assert answer.status_code in (200, 201), answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def shown(server: Running, rollout_id: str) -> dict[str, Any]:
    answer = await server.http.get(f"/api/v1/rollouts/{rollout_id}")
    assert answer.status_code == 200, answer.text
    view: dict[str, Any] = answer.json()
    return view


async def until_shown(
    server: Running, rollout_id: str, ready: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Wait until the rollout is shown so; return it."""
    last: dict[str, Any] = {}

    async def there() -> bool:
        last.update(await shown(server, rollout_id))
        return ready(last)

    await until(there, lambda: json.dumps(last, indent=1))
    return last


async def until_over(server: Running, rollout_id: str) -> dict[str, Any]:
    return await until_shown(server, rollout_id, lambda view: view["state"] != "running")


def states(view: dict[str, Any]) -> dict[str, str]:
    """By machine's name."""
    return {target["agent_name"]: target["state"] for target in view["targets"]}


def only(view: dict[str, Any]) -> dict[str, Any]:
    (target,) = view["targets"]
    found: dict[str, Any] = target
    return found
