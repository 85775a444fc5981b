"""What the interface shows, and how it is made from what hub and storage know. Times are Unix seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import msgspec

from obt_server.hub import AgentHub
from obt_server.hub.presence import Presence
from obt_server.hub.storage import AgentRecord, JobRecord
from obt_server.storage import ModelVersion

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class AgentView:
    """An agent. ``presence`` is ``online`` while it has a session that was heard within 18 s."""

    id: str
    name: str
    version: str
    presence: str
    enrolled_at: float
    last_seen: float | None
    connected_at: float | None
    heard_ago_s: float | None
    heartbeat_at: float | None
    session: int
    capabilities: tuple[str, ...]
    ollama: Json | None
    loaded: tuple[str, ...]
    running: list[Json]
    jobs: Json | None
    outbox: Json | None
    streams: int | None
    hardware: Json | None
    model_count: int | None


def agent_view(hub: AgentHub, agent: AgentRecord) -> AgentView:
    """An agent as it is now."""
    presence = hub.presence(agent.id)
    beat = presence.heartbeat if presence is not None else None
    heard = hub.heard_ago_s(agent.id)
    return AgentView(
        id=agent.id,
        name=agent.name,
        version=agent.version,
        presence="offline" if presence is None else "online",
        enrolled_at=agent.enrolled_at,
        last_seen=time.time() - heard if presence is not None and heard is not None else agent.last_seen,
        connected_at=presence.connected_at if presence is not None else None,
        heard_ago_s=heard if presence is not None else None,
        heartbeat_at=presence.heartbeat_at if presence is not None else None,
        session=agent.session,
        capabilities=agent.capabilities,
        ollama=_plain(presence.ollama) if presence is not None else None,
        loaded=beat.loaded if beat is not None else (),
        running=[plain(model) for model in presence.running] if presence is not None else [],
        jobs=_plain(beat.jobs) if beat is not None else None,
        outbox=_plain(beat.outbox) if beat is not None else None,
        streams=beat.streams if beat is not None else None,
        hardware=_plain(beat.hardware) if beat is not None else None,
        model_count=_model_count(presence),
    )


def _model_count(presence: Presence | None) -> int | None:
    if presence is None or presence.models is None:
        return None
    return len(presence.models)


def plain(value: msgspec.Struct) -> Json:
    """A struct as a JSON object."""
    result: Json = msgspec.to_builtins(value)
    return result


def _plain(value: msgspec.Struct | None) -> Json | None:
    return None if value is None else plain(value)


@dataclass(frozen=True, kw_only=True)
class ModelView:
    """A model on an agent; ``details`` as the agent listed it."""

    name: str
    digest: str
    current: bool
    first_seen: float
    last_seen: float
    details: Json


def model_view(version: ModelVersion) -> ModelView:
    """One version as the interface shows it."""
    return ModelView(
        name=version.name,
        digest=version.digest,
        current=version.current,
        first_seen=version.first_seen,
        last_seen=version.last_seen,
        details=msgspec.json.decode(version.details),
    )


@dataclass(frozen=True, kw_only=True)
class JobView:
    """A job. ``result_available`` when its result is stored; the text is at ``.../result``."""

    job_id: str
    agent_id: str
    kind: str
    state: str
    model: str | None
    model_digest: str | None
    params: Json
    created_at: float
    finished_at: float | None
    progress: Json | None
    error: Json | None
    bytes: int | None
    sha256: str | None
    result_available: bool


def job_view(hub: AgentHub, job: JobRecord) -> JobView:
    """A job as it is now: progress comes from the live session."""
    presence = hub.presence(job.agent_id)
    live = presence.progress.get(job.job_id) if presence is not None and job.sha256 is None else None
    return JobView(
        job_id=job.job_id,
        agent_id=job.agent_id,
        kind=job.kind,
        state=live.state if live is not None else job.state,
        model=job.model,
        model_digest=job.model_digest,
        params=msgspec.json.decode(job.params),
        created_at=job.created_at,
        finished_at=job.finished_at,
        progress=plain(live.progress) if live is not None else None,
        error=_plain(job.error),
        bytes=job.bytes,
        sha256=job.sha256,
        result_available=job.sha256 is not None,
    )
