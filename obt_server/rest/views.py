"""What the interface shows, made from what hub and storage know. Times are Unix seconds."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import msgspec

from obt_agent.benchmark.plan import Plan
from obt_agent.hardware.inventory import Inventory
from obt_agent.ollama.payloads import InstalledModel, OllamaState, RunningModel
from obt_agent.protocol.admission import JobCounts, LightSample, OutboxCounts
from obt_agent.protocol.errors import WireError
from obt_agent.protocol.jobs import JobKind, JobProgress
from obt_server.hub import Hub
from obt_server.hub.presence import GpuTitle
from obt_server.hub.storage import AgentRecord, JobRecord, StoredJobState
from obt_server.rest.struct_route import Shape
from obt_server.storage import ModelVersion

PlanFields = Annotated[msgspec.Raw, Shape(Plan, partial=True)]
"""A plan without its model; what is left out has the plan's default."""


class AgentView(msgspec.Struct, frozen=True, kw_only=True):
    """An agent. ``presence`` is ``online`` while it has a session that was heard within 18 s.

    What only a live session knows is null while the agent is offline. ``labels`` are those that operators
    gave it, ``own_labels`` those of its own configuration.
    """

    id: str
    name: str
    version: str
    presence: Literal["online", "offline"]
    enrolled_at: float
    last_seen: float | None
    labels: tuple[str, ...]
    own_labels: tuple[str, ...]
    connected_at: float | None
    heard_ago_s: float | None
    heartbeat_at: float | None
    session: int
    capabilities: tuple[str, ...]
    ollama: OllamaState | None
    loaded: tuple[str, ...]
    running: tuple[RunningModel, ...]
    jobs: JobCounts | None
    outbox: OutboxCounts | None
    streams: int | None
    hardware: LightSample | None
    gpus: tuple[GpuTitle, ...]
    model_count: int | None


def agent_view(hub: Hub, agent: AgentRecord) -> AgentView:
    """Return an agent as it is now."""
    presence = hub.presence(agent.id)
    beat = presence.heartbeat if presence is not None else None
    # What the live session heard is newer than what is stored, which moves once a minute.
    heard = hub.heard_ago_s(agent.id)
    return AgentView(
        id=agent.id,
        name=agent.name,
        version=agent.version,
        presence="offline" if presence is None else "online",
        enrolled_at=agent.enrolled_at,
        last_seen=agent.last_seen if heard is None else time.time() - heard,
        labels=agent.labels,
        own_labels=agent.own_labels,
        connected_at=presence.connected_at if presence is not None else None,
        heard_ago_s=heard,
        heartbeat_at=presence.heartbeat_at if presence is not None else None,
        session=agent.session,
        capabilities=agent.capabilities,
        ollama=presence.ollama if presence is not None else None,
        loaded=beat.loaded if beat is not None else (),
        running=presence.running if presence is not None else (),
        jobs=beat.jobs if beat is not None else None,
        outbox=beat.outbox if beat is not None else None,
        streams=beat.streams if beat is not None else None,
        hardware=beat.hardware if beat is not None else None,
        gpus=presence.gpus if presence is not None else (),
        model_count=len(presence.models) if presence is not None and presence.models is not None else None,
    )


class HardwareView(msgspec.Struct, frozen=True, kw_only=True):
    """An agent's inventory, as it sent it, and the light sample of its last heartbeat."""

    fingerprint: str | None = None
    updated_at: float | None = None
    inventory: Annotated[msgspec.Raw, Shape(Inventory | None)] = msgspec.Raw(b"null")
    sample: LightSample | None = None


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """A model on an agent; ``details`` as the agent listed it."""

    name: str
    digest: str
    current: bool
    first_seen: float
    last_seen: float
    details: Annotated[msgspec.Raw, Shape(InstalledModel)]


def model_view(version: ModelVersion) -> ModelView:
    """Return one version as the interface shows it."""
    return ModelView(
        name=version.name,
        digest=version.digest,
        current=version.current,
        first_seen=version.first_seen,
        last_seen=version.last_seen,
        details=msgspec.Raw(version.details),
    )


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job. ``result_available`` when its result is stored; the text is at ``.../result``.

    ``requested`` is false for a result that this server never asked for: it lost its database, or the agent
    made it up.
    """

    job_id: str
    agent_id: str
    kind: JobKind
    state: StoredJobState
    model: str | None
    model_digest: str | None
    params: Annotated[msgspec.Raw, Shape(dict[str, object])]
    created_at: float
    finished_at: float | None
    progress: JobProgress | None
    error: WireError | None
    bytes: int | None
    sha256: str | None
    result_available: bool
    requested: bool


def job_view(hub: Hub, job: JobRecord) -> JobView:
    """Return a job as it is now: progress comes from the live session."""
    presence = hub.presence(job.agent_id)
    # Only of a job without a result: a late notification must not bring a finished one back to life.
    live = presence.progress.get(job.job_id) if presence is not None and job.sha256 is None else None
    return JobView(
        job_id=job.job_id,
        agent_id=job.agent_id,
        kind=job.kind,
        state=live.state if live is not None else job.state,
        model=job.model,
        model_digest=job.model_digest,
        params=msgspec.Raw(job.params),
        created_at=job.created_at,
        finished_at=job.finished_at,
        progress=live.progress if live is not None else None,
        error=job.error,
        bytes=job.bytes,
        sha256=job.sha256,
        result_available=job.sha256 is not None,
        requested=job.requested,
    )
