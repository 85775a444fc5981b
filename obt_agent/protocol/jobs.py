"""Jobs on the wire: states, progress, result pieces, the final and its acknowledgement."""

from __future__ import annotations

from typing import Annotated, Final, Literal, get_args

import msgspec
from msgspec import Meta

from obt_agent.protocol import limits
from obt_agent.protocol.errors import WireError
from obt_agent.wire_types import Count, Int64

TerminalState = Literal["completed", "failed", "cancelled", "interrupted"]
JobState = Literal["accepted", "queued", "running", TerminalState]
JobKind = Literal["benchmark", "pull", "create"]
TERMINAL_STATES: Final[frozenset[str]] = frozenset(get_args(TerminalState))

JobId = Annotated[str, Meta(min_length=1, max_length=limits.MAX_JOB_ID_CHARS)]


class JobProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a running job is. Benchmarks fill the measuring fields, pulls the bytes.

    ``phase`` is one of preflight, settling (until the machine is idle), cold_load, warmup, iteration,
    cooldown, waiting (for an Ollama that went away, for another process's benchmark, and as a transfer for
    any benchmark), reporting (benchmarks) or Ollama's status line (pulls); queued, with ``position``, while
    other jobs are before it or quiet hours last; and starting. ``waiting_for`` says in words for what a
    queued, settling or waiting job waits. ``iteration`` counts from 1;
    ``iterations_planned`` of a plan that goes on until an interval is narrow is an estimate, never under the
    iterations measured, and may change. ``remaining_s`` is an estimate, null while there is nothing to base
    it on.

    ``completed_bytes`` and ``total_bytes`` are sums over the layers that Ollama has named so far, and never
    fall while a transfer runs. ``bytes_per_second`` is what came within the last 15 s.
    """

    phase: str
    iteration: Int64 | None = None
    iterations_planned: Int64 | None = None
    cell: str | None = None
    tokens_per_second: float | None = None
    first_token_ms: float | None = None
    completed_bytes: Int64 | None = None
    total_bytes: Int64 | None = None
    bytes_per_second: float | None = None
    cpu_utilization_ratio: float | None = None
    gpu_utilization_ratio: float | None = None
    remaining_s: float | None = None
    position: Int64 | None = None
    waiting_for: str | None = None


class JobSummary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One job as ``jobs.sync`` and ``benchmark_status`` show it. Times are Unix seconds."""

    job_id: str
    kind: JobKind
    state: JobState
    model: str | None = None
    position: Int64 | None = None
    accepted_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    progress: JobProgress | None = None
    error: WireError | None = None
    bytes: Int64 | None = None
    sha256: str | None = None
    acknowledged: bool = False


class JobStarted(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ``run_benchmark``, ``pull_model``, ``create_model``: stored, and where it stands."""

    job_id: str
    state: JobState
    position: Int64 | None = None


class JobProgressParams(msgspec.Struct, frozen=True, kw_only=True):
    """``job.progress`` (notification, at most 2 a second a job, may be dropped)."""

    job_id: str
    state: JobState
    progress: JobProgress


class JobPartParams(msgspec.Struct, frozen=True, kw_only=True):
    """``job.part``: one piece of a result.

    With ``encoding`` ``identity`` ``data`` is text of the JSON and ``offset`` counts its UTF-8 bytes; with
    ``gzip`` ``data`` is base64 of a piece of the gzipped text and ``offset`` counts gzipped bytes.
    Offset 0 starts anew.
    """

    job_id: str
    offset: Count
    data: str
    encoding: Literal["identity", "gzip"] = "identity"


class JobPartResult(msgspec.Struct, frozen=True, kw_only=True):
    """The next offset that the server expects, also where the part came at another one and was not kept."""

    job_id: str
    next_offset: Int64


class JobFinishedParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``job.finished``: the final. ``bytes`` and ``sha256`` are those of the JSON text as stored.

    ``result`` is that text, as a JSON string, when it fits 24 KiB; else the parts came before. A string, so
    that a server in any language hashes exactly what was stored without keeping a value's raw bytes.
    """

    job_id: str
    kind: JobKind
    state: TerminalState
    bytes: Int64
    sha256: str
    encoding: Literal["identity", "gzip"] = "identity"
    result: str | None = None
    error: WireError | None = None


class JobFinishedResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The server's answer after its own commit.

    Acknowledged when ``sha256`` equals ours; ``resend_from`` asks for parts again from that offset;
    ``conflict`` says that another result was stored first (ours is set aside and counts as acknowledged).
    """

    job_id: str
    sha256: str | None = None
    resend_from: Int64 | None = None
    conflict: bool = False
