"""Admission, life and end of a session: hello, alive, heartbeat, goodbye, drain, credentials."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from obt_agent.labels import Labels
from obt_agent.ollama.payloads import OllamaState
from obt_agent.protocol import limits
from obt_agent.protocol.server_key import Pins
from obt_agent.wire_types import Count, Int64


class Empty(msgspec.Struct, frozen=True):
    """No parameters, or a result that says only that it was done."""


class VersionRange(msgspec.Struct, frozen=True, kw_only=True):
    """Protocol versions that a side speaks, both ends included."""

    min: Int64
    max: Int64


class AgentIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Who dials.

    ``id`` is a UUIDv7 made once and kept; ``name`` is for people; ``instance`` is random per process;
    ``boot_id`` is the kernel's. ``labels`` are those of the machine's own configuration.
    """

    id: str
    name: str
    version: str
    instance: str
    boot_id: str | None = None
    labels: Labels = ()


class AgentLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent takes at most."""

    max_frame_bytes: Int64 = limits.MAX_FRAME_BYTES
    max_streams: Int64 = 16
    max_jobs: Int64 = 32


class JobCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs not finished, and finished ones whose result the server has not acknowledged."""

    open: Int64 = 0
    finished_unacknowledged: Int64 = 0


class OutboxCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What waits in the agent's store for this server."""

    entries: Int64 = 0
    bytes: Int64 = 0


class HelloParams(msgspec.Struct, frozen=True, kw_only=True):
    """``agent.hello``: the first frame of the agent, at most 32 KiB, within 10 s of the upgrade."""

    protocol: VersionRange
    agent: AgentIdentity
    store_id: str
    capabilities: tuple[str, ...]
    limits: AgentLimits = AgentLimits()
    jobs: JobCounts = JobCounts()
    outbox: OutboxCounts = OutboxCounts()


class ServerIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers."""

    name: str = ""
    version: str = ""


class ServerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the server takes at most; all optional."""

    max_frame_bytes: Int64 = limits.MAX_FRAME_BYTES
    max_in_flight: Int64 = limits.MAX_IN_FLIGHT


class HelloResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``agent.hello``: it admits the agent.

    ``session`` grows with every admission of the agent. ``time`` is Unix seconds by the server's clock.
    Without ``heartbeat_interval_s`` the agent's own setting holds (15 s unless its owner says otherwise).
    ``pins`` are the keys that the server's TLS shows now and will show next: an agent that pins keys has
    these from now on, and any other ignores them.
    """

    protocol: Int64
    session: Int64
    heartbeat_interval_s: Annotated[float, Meta(gt=0)] | None = None
    stream_credit_bytes: Count = limits.STREAM_CREDIT_BYTES
    link_credit_bytes: Count = limits.LINK_CREDIT_BYTES
    limits: ServerLimits = ServerLimits()
    server: ServerIdentity = ServerIdentity()
    time: float | None = None
    pins: Pins = ()


class GoodbyeParams(msgspec.Struct, frozen=True, kw_only=True):
    """``agent.goodbye``: the agent is about to close on purpose."""

    reason: Literal["shutdown", "restart", "reload", "error"]
    retry_after_s: float | None = None


class DrainParams(msgspec.Struct, frozen=True, kw_only=True):
    """``server.drain``: the server is about to close; dial again no earlier than this."""

    retry_after_s: Annotated[float, Meta(ge=0)] = 0.0


class RotateParams(msgspec.Struct, frozen=True, kw_only=True):
    """``credentials.rotate``: make a candidate credential and use it at the next dial."""

    rotation_id: Annotated[str, Meta(min_length=1, max_length=64)]


class RotateResult(msgspec.Struct, frozen=True, kw_only=True):
    """The candidate is stored (fsync done); ``sha256`` is its hash in hexadecimal."""

    rotation_id: str
    sha256: str


class LightGpu(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One GPU in the heartbeat."""

    id: str
    state: str
    utilization_ratio: float | None = None
    memory_used_bytes: Int64 | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None


class LightSample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The heartbeat's hardware sample: the few figures that a list of machines shows."""

    cpu_utilization_ratio: float | None = None
    cpu_temperature_celsius: float | None = None
    memory_used_bytes: Int64 | None = None
    memory_available_bytes: Int64 | None = None
    gpus: tuple[LightGpu, ...] = ()


class HeartbeatParams(msgspec.Struct, frozen=True, kw_only=True):
    """``heartbeat``: status every ``heartbeat_interval_s``. ``t_mono_us`` is the agent's monotonic clock.

    ``store_problem`` says, for a person, why the agent's store of jobs cannot be used now, or that it was
    found damaged and replaced.
    """

    ollama: OllamaState
    loaded: tuple[str, ...] = ()
    jobs: JobCounts = JobCounts()
    outbox: OutboxCounts = OutboxCounts()
    streams: Int64 = 0
    t_mono_us: Int64
    loop_lag_ms: float | None = None
    hardware: LightSample | None = None
    store_problem: str | None = None
