"""Pulls and creates: Ollama's streams of status lines, as jobs with progress in bytes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Final

import msgspec

from obt_agent.errors import AgentError, Cancelled
from obt_agent.jobs.runner import Cause, JobOutcome, LivePoint, OnProgress
from obt_agent.jobs.store import StoredJob
from obt_agent.ollama.client import OllamaClient
from obt_agent.policy import Policy
from obt_agent.protocol.commands import CreateModelParams, PullModelParams
from obt_agent.protocol.errors import WireError, to_wire
from obt_agent.protocol.jobs import JobKind, JobProgress, JobState

# Of a status line of Ollama's, which may hold a digest or a path.
PHASE_CHARS: Final = 100
# How long closing Ollama's connection may take when the agent stops.
HANG_UP_S: Final = 5.0
# Of one model: the largest have some hundred. Beyond it, progress leaves layers out.
MAX_LAYERS: Final = 10_000


class TransferResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Result of a pull or a create. ``completed_bytes`` are those of this run; times are seconds."""

    job_id: str
    kind: JobKind
    model: str
    state: JobState
    completed_bytes: int | None = None
    total_bytes: int | None = None
    duration_s: float | None = None
    error: WireError | None = None


# A line with another number is left out: sums of them could not be written, nor shares computed.
_Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class _TransferStatus(msgspec.Struct):
    """One line of Ollama's."""

    status: str = ""
    digest: str = ""
    total: _Bytes | None = None
    completed: _Bytes | None = None


_LINE: Final = msgspec.json.Decoder(_TransferStatus)


class TransferRunner:
    """Runs pulls and creates.

    Args:
        ollama: where to.
        policy: asked again when a job begins: it may have changed since the job was stored.
    """

    def __init__(self, ollama: OllamaClient, policy: Policy) -> None:
        self._ollama = ollama
        self._policy = policy

    def begin(self, job: StoredJob, _records: Sequence[bytes], on_progress: OnProgress, /) -> Transfer:
        """Prepare a run; an earlier one that broke off is simply begun again: Ollama keeps what it has."""
        if job.kind == "create":
            body = self._create_body(msgspec.json.decode(job.params, type=CreateModelParams))
            return Transfer(self._ollama, "/api/create", body, job, on_progress)
        params = msgspec.json.decode(job.params, type=PullModelParams)
        self._policy.check_command("pull_model")
        self._policy.check_source(params.model)
        body = msgspec.json.encode({"model": params.model, "stream": True})
        return Transfer(self._ollama, "/api/pull", body, job, on_progress)

    def _create_body(self, params: CreateModelParams) -> bytes:
        self._policy.check_command("create_model")
        self._policy.check_model(params.model)
        self._policy.check_model(params.from_)
        self._policy.check_template(params.template)
        options = self._policy.model_parameters(params.parameters)
        body = {
            "model": params.model,
            "from": params.from_,
            "system": params.system,
            "template": params.template,
            "parameters": None if options is None else msgspec.Raw(options),
            "quantize": params.quantize,
            "stream": True,
        }
        return msgspec.json.encode({name: value for name, value in body.items() if value is not None})

    def ending(
        self, job: StoredJob, _records: Sequence[bytes], state: JobState, error: AgentError | None, /
    ) -> JobOutcome:
        """An ending without a run."""
        return _ending(job, state, error)


class Transfer:
    """One run of a pull or a create."""

    def __init__(
        self, ollama: OllamaClient, path: str, body: bytes, job: StoredJob, on_progress: OnProgress
    ) -> None:
        self._ollama = ollama
        self._path = path
        self._body = body
        self._job = job
        self._on_progress = on_progress
        # By digest: bytes that are here, and bytes in all. Ollama reports one layer at a time.
        self._layers: dict[str, tuple[int, int]] = {}
        # Reads Ollama's stream; None before ``execute``.
        self._task: asyncio.Task[None] | None = None
        # Why it was stopped; the first cause stands.
        self._cause: Cause | None = None

    async def execute(self) -> JobOutcome:
        """Run to the end."""
        began = time.monotonic()
        name = f"{self._job.kind} of job {self._job.job_id}"
        self._task = asyncio.get_running_loop().create_task(self._transfer(), name=name)
        # It may have been stopped before it began.
        if self._cause is not None:
            self._task.cancel()
        try:
            await asyncio.wait([self._task])
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=HANG_UP_S)
            raise
        return self._ended(self._task, time.monotonic() - began)

    def stop(self, cause: Cause) -> None:
        """Close Ollama's connection: it stops the download, and keeps what it has."""
        self._cause = self._cause or cause
        if self._task is not None:
            self._task.cancel()

    async def live(self, _after: int | None, /) -> AsyncIterator[LivePoint]:
        """A transfer has no series."""
        # With a ``yield``, so that this is the asynchronous generator that callers expect.
        nothing: tuple[LivePoint, ...] = ()
        for point in nothing:
            yield point

    async def _transfer(self) -> None:
        async with self._ollama.stream(self._path, self._body) as answer:
            async for batch in answer.batches():
                for line in batch:
                    self._note(line.raw)

    def _note(self, line: bytes) -> None:
        try:
            status = _LINE.decode(line)
        # A field of another shape: progress is for people, and the final line decides.
        except msgspec.MsgspecError:
            return
        known = status.digest in self._layers or len(self._layers) < MAX_LAYERS
        if status.digest and status.total is not None and known:
            self._layers[status.digest] = (status.completed or 0, status.total)
        done, total = self._bytes()
        phase = status.status[:PHASE_CHARS]
        self._on_progress(JobProgress(phase=phase, completed_bytes=done, total_bytes=total))

    def _bytes(self) -> tuple[int | None, int | None]:
        if not self._layers:
            return None, None
        done, total = zip(*self._layers.values(), strict=True)
        return sum(done), sum(total)

    def _ended(self, task: asyncio.Task[None], duration_s: float) -> JobOutcome:
        done, total = self._bytes()
        if task.cancelled():
            state: JobState = self._cause or "interrupted"
            return _ending(self._job, state, _stopped(state), done, total, duration_s)
        error = task.exception()
        # The last progress that Ollama sends of a layer may be short of its end.
        if error is None:
            return _ending(self._job, "completed", None, total, total, duration_s)
        # Unforeseen: the worker logs it, and makes the ending.
        if not isinstance(error, AgentError):
            raise error
        return _ending(self._job, "failed", error, done, total, duration_s)


def _stopped(state: JobState) -> AgentError:
    return Cancelled("The job was cancelled." if state == "cancelled" else "The agent was stopped.")


def _ending(
    job: StoredJob,
    state: JobState,
    error: AgentError | None,
    done: int | None = None,
    total: int | None = None,
    duration_s: float | None = None,
) -> JobOutcome:
    result = TransferResult(
        job_id=job.job_id,
        kind=job.kind or "pull",
        model=job.model or "",
        state=state,
        completed_bytes=done,
        total_bytes=total,
        duration_s=duration_s,
        error=None if error is None else to_wire(error),
    )
    return JobOutcome(state=state, text=msgspec.json.encode(result), error=error)
