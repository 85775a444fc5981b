"""What the processes of one installation tell and ask each other, as MessagePack."""

from __future__ import annotations

from typing import Final

import msgspec

from obt_agent.ollama.payloads import OllamaState, RunningModel
from obt_agent.protocol.admission import HeartbeatParams
from obt_agent.protocol.jobs import JobProgress, JobProgressParams
from obt_server.hub.presence import GpuTitle
from obt_server.replica_storage import LeaderLease

# -- presence: a live session in parts, so that what changes often is sent without what does not ----------


class HelloPart(msgspec.Struct, array_like=True, frozen=True):
    """What the agent said when it was admitted; ``at`` and ``connected_at`` are Unix seconds."""

    instance: str
    name: str
    version: str
    store_id: str
    capabilities: tuple[str, ...]
    own_labels: tuple[str, ...]
    at: float
    connected_at: float


class BeatPart(msgspec.Struct, array_like=True, frozen=True):
    """Its last heartbeat, and what it knows of Ollama since."""

    heartbeat: HeartbeatParams | None
    heartbeat_at: float | None
    ollama: OllamaState | None
    goodbye: str | None


class ModelsPart(msgspec.Struct, array_like=True, frozen=True):
    """Its models: digests by name."""

    models: dict[str, str] | None
    stale: bool
    running: tuple[RunningModel, ...]


class HardwarePart(msgspec.Struct, array_like=True, frozen=True):
    """Its hardware, as lists show it; the rest is in the database since ``inventory_at``."""

    gpus: tuple[GpuTitle, ...]
    inventory_at: float | None


class ProgressPart(msgspec.Struct, array_like=True, frozen=True):
    """How far its jobs are."""

    jobs: tuple[JobProgressParams, ...]


PART_TYPES: Final = (HelloPart, BeatPart, ModelsPart, HardwarePart, ProgressPart)
"""In the order in which an ``AgentUpdate`` has them."""
HELLO: Final = 0


class AgentUpdate(msgspec.Struct, array_like=True, frozen=True):
    """What changed of an agent's live session, or all of it.

    ``stamp`` grows with each update that a process makes. ``parts`` are encoded, by number of ``PART_TYPES``:
    who receives them decodes them when somebody looks. ``fetch``: they are too large for a message, and are
    to be asked for.
    """

    agent_id: str
    session: int
    stamp: int
    heard_ago_s: float
    parts: dict[int, bytes]
    fetch: bool = False


class PresenceNews(msgspec.Struct, array_like=True, frozen=True):
    """What a process says of its agents; each message has the next ``number``, so that a lost one shows.

    ``left`` are sessions that ended. ``asking``: everybody else is to say something at once. ``leaving``: the
    process stops, and has no agents any more.
    """

    replica: str
    number: int
    updates: list[AgentUpdate]
    left: list[tuple[str, int]]
    asking: bool = False
    leaving: bool = False


# -- events ------------------------------------------------------------------------------------------------


class JobMessage(msgspec.Struct, array_like=True, frozen=True, tag="job"):
    """A job moved on."""

    agent_id: str
    job_id: str
    state: str
    progress: JobProgress | None


class RolloutMessage(msgspec.Struct, array_like=True, frozen=True, tag="rollout"):
    """A rollout moved on."""

    rollout_id: str


class CampaignMessage(msgspec.Struct, array_like=True, frozen=True, tag="campaign"):
    """A campaign moved on."""

    campaign_id: str


class RegressionMessage(msgspec.Struct, array_like=True, frozen=True, tag="regression"):
    """A regression is new, another one, or gone."""

    regression_id: int
    view: bytes | None


class RecordMessage(msgspec.Struct, array_like=True, frozen=True, tag="record"):
    """An operator changed an agent's record."""

    agent_id: str


class EndMessage(msgspec.Struct, array_like=True, frozen=True, tag="end"):
    """An agent was deleted, or lost its credential: its session ends."""

    agent_id: str


EventMessage = JobMessage | RolloutMessage | CampaignMessage | RegressionMessage | RecordMessage | EndMessage


# -- what is asked of another process's agent ---------------------------------------------------------------


class CallText(msgspec.Struct, frozen=True, tag="call"):
    """A command with one answer; ``params`` is its JSON, ``lease`` the leader's that sends it."""

    method: str
    params: bytes
    timeout_s: float
    lease: LeaderLease | None = None


class OpenStream(msgspec.Struct, frozen=True, tag="stream"):
    """A streamed command."""

    method: str
    params: bytes


class WatchHardware(msgspec.Struct, frozen=True, tag="hardware"):
    """The machine's live samples."""

    interval_ms: int


class WatchBenchmark(msgspec.Struct, frozen=True, tag="benchmark"):
    """A benchmark's live samples from the first."""

    job_id: str


class StartJob(msgspec.Struct, frozen=True, tag="start"):
    """A job, whose id is in ``params``; ``lease`` is the leader's that starts it."""

    method: str
    params: bytes
    lease: LeaderLease | None = None


class CancelJob(msgspec.Struct, frozen=True, tag="cancel"):
    """The end of one."""

    job_id: str


class Rotate(msgspec.Struct, frozen=True, tag="rotate"):
    """The agent's next credential."""

    rotation_id: str
    reconnect: bool


class Probe(msgspec.Struct, frozen=True, tag="probe"):
    """Whether another process of the agent than ``instance`` is alive there."""

    instance: str


Asked = CallText | OpenStream | WatchHardware | WatchBenchmark | StartJob | CancelJob | Rotate | Probe


class ToAgent(msgspec.Struct, array_like=True, frozen=True):
    """What is asked, and of which session: a process that has not that one does nothing."""

    agent_id: str
    session: int
    asked: Asked


ALIVE: Final = b"alive"
"""The answer to ``Probe`` where one is."""
