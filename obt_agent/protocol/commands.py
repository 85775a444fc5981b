"""Parameters and results of the commands that a server sends.

Ollama's own requests keep Ollama's own field names and travel as they came: only ``model`` is read here, and
what the policy looks at is read by ``obt_agent.policy``. Their structs therefore hold the whole object.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from obt_agent.benchmark.plan import Plan
from obt_agent.hardware.inventory import Inventory
from obt_agent.hardware.legacy import LegacyHardwareInfo
from obt_agent.hardware.samples import Sample
from obt_agent.ollama.payloads import InstalledModel, OllamaState, RunningModel
from obt_agent.protocol.envelope import RequestId
from obt_agent.protocol.jobs import JobId, JobState, JobSummary
from obt_agent.protocol.server_key import Pins
from obt_agent.wire_types import Int64

NOTHING = msgspec.Raw(b"null")
"""JSON null, for JSON that may be left out: a field of type ``Raw | None`` would take nothing but null."""


def _nothing() -> msgspec.Raw:
    return NOTHING


ModelName = Annotated[str, Meta(min_length=1, max_length=512)]


class ListModelsParams(msgspec.Struct, frozen=True, kw_only=True):
    """``list_models``; ``refresh`` asks Ollama now; else the catalogue (up to 2 s old) answers."""

    refresh: bool = True


class ListModelsResult(msgspec.Struct, frozen=True, kw_only=True):
    """Installed models that the policy shows, and the digest of the list."""

    models: tuple[InstalledModel, ...]
    list_digest: str
    ollama: OllamaState


class ShowModelParams(msgspec.Struct, frozen=True, kw_only=True):
    """``show_model``: Ollama's metadata, paths of the host removed; ``verbose`` adds tokenizer tables."""

    model: ModelName
    verbose: bool = False


class RunningModelsResult(msgspec.Struct, frozen=True, kw_only=True):
    """``running_models``."""

    models: tuple[RunningModel, ...]


class HardwareParams(msgspec.Struct, frozen=True, kw_only=True):
    """``hardware``; ``legacy`` adds OBT's ``HardwareInfo``, derived."""

    legacy: bool = False


class HardwareResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Inventory, one fresh sample, and on request OBT's ``HardwareInfo``."""

    inventory: Inventory
    sample: Sample
    legacy: LegacyHardwareInfo | None = None


class HardwareWatchParams(msgspec.Struct, frozen=True, kw_only=True):
    """``hardware_watch``: a live series until cancelled; the interval is clamped to what the host allows."""

    # Of any size, as all that is too long is clamped; it is stored nowhere, nor passed on.
    interval_ms: Annotated[int, Meta(ge=1)] = 1000


class InferenceParams(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of ``generate``, ``chat`` and ``embed``; the rest goes to Ollama as it came."""

    model: ModelName


class LoadModelParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``load_model``. ``keep_alive`` is Ollama's (seconds or a duration like "10m")."""

    model: ModelName
    keep_alive: str | float | None = None
    options: msgspec.Raw = msgspec.field(default_factory=_nothing)


class UnloadModelParams(msgspec.Struct, frozen=True, kw_only=True):
    """``unload_model``."""

    model: ModelName


class LoadResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """State after a load or unload and the wall time that it took, in milliseconds."""

    model: str
    loaded: bool
    wall_ms: float
    running: tuple[RunningModel, ...] = ()


class RunBenchmarkParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``run_benchmark``: ``job_id`` is the idempotency key; ``not_after`` (Unix seconds) the latest start."""

    job_id: JobId
    plan: Plan
    not_after: float | None = None


class BenchmarkStatusParams(msgspec.Struct, frozen=True, kw_only=True):
    """``benchmark_status``; ``include_result`` adds whatever results exist so far."""

    job_id: JobId
    include_result: bool = True


class BenchmarkStatusResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The job, and the result so far (a ``BenchmarkResult``, of the agent's release)."""

    job: JobSummary
    # Of the agent's release: a server that is older or newer must not refuse the whole answer for it.
    result: Any = None


class BenchmarkMetricsParams(msgspec.Struct, frozen=True, kw_only=True):
    """``benchmark_metrics``: live series of a benchmark; ``after`` backfills from that sample number."""

    job_id: JobId
    after: Int64 | None = None


ModelDigest = Annotated[str, Meta(pattern=r"^(sha256:)?[0-9a-fA-F]{64}\Z")]


class PullModelParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``pull_model``, a job with progress in bytes.

    ``digest`` is the version that it is to give: a model that has it already is not fetched, and a pull that
    gives another one fails as ``digest_differs``.
    """

    job_id: JobId
    model: ModelName
    digest: ModelDigest | None = None
    not_after: float | None = None


class CreateModelParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``create_model``, a job; ``from`` names an installed model. Host files cannot be named."""

    job_id: JobId
    model: ModelName
    from_: Annotated[str, Meta(min_length=1)] = msgspec.field(name="from")
    system: str | None = None
    template: str | None = None
    parameters: msgspec.Raw = msgspec.field(default_factory=_nothing)
    quantize: str | None = None
    not_after: float | None = None


class CopyModelParams(msgspec.Struct, frozen=True, kw_only=True):
    """``copy_model``."""

    source: ModelName
    destination: ModelName


class DeleteModelParams(msgspec.Struct, frozen=True, kw_only=True):
    """``delete_model``."""

    model: ModelName


class DeleteResult(msgspec.Struct, frozen=True, kw_only=True):
    """``delete_model``.

    ``freed_bytes`` is the model's size when its weights are gone with it, and 0 when another model keeps
    them, so that shared weights count once, with the last model that has them; null when Ollama does not
    tell. A template, a licence or parameters (some KiB) go by the weights. ``free_bytes`` is what the disk of
    Ollama's models has free afterwards, null where that disk is not known.
    """

    done: bool = True
    was_loaded: bool = False
    digest: str | None = None
    freed_bytes: Int64 | None = None
    free_bytes: Int64 | None = None


class DoneResult(msgspec.Struct, frozen=True, kw_only=True):
    """It was done."""

    done: bool = True


class CancelParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``cancel``: exactly one of ``id`` (a request of this session) and ``job_id``."""

    id: RequestId | None = None
    job_id: JobId | None = None


class CancelResult(msgspec.Struct, frozen=True, kw_only=True):
    """``cancelling``, ``unknown``, ``answered`` (the request had its final) or the job's terminal state."""

    state: Literal["cancelling", "unknown", "answered"] | JobState


class LinkStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The link since the process started; ``connected_s`` of this session.

    ``pins``: the server must show one of these keys; empty where its certificate's authority decides.
    """

    session: Int64 | None = None
    connected_s: float = 0.0
    admissions: Int64 = 0
    dials: Int64 = 0
    bytes_sent: Int64 = 0
    bytes_received: Int64 = 0
    frames_sent: Int64 = 0
    frames_received: Int64 = 0
    last_disconnect: str | None = None
    loop_lag_ms_max: float = 0.0
    pins: Pins = ()


class ProcessUse(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's own cost: CPU seconds since start, resident bytes."""

    cpu_s: float
    rss_bytes: Int64
    threads: Int64


class AgentInfoResult(msgspec.Struct, frozen=True, kw_only=True):
    """``agent_info``: what this agent is, how it is set (redacted), what it allows, and what it costs."""

    version: str
    python: str
    uptime_s: float
    started_at: float
    agent_id: str
    name: str
    config: Any
    policy: Any
    link: LinkStatistics
    process: ProcessUse
