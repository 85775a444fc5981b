"""One run of a pull or a create: Ollama's stream of status lines, with progress in bytes.

A transfer gives way to a benchmark: its connection closes when one begins, Ollama keeps what it has, and the
transfer goes on from there when the benchmark has ended. It survives an Ollama that restarts in the same way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from obt_agent.errors import AgentError, Cancelled, DigestDiffers, OllamaUnavailable, StorageLow
from obt_agent.hardware.inventory import StorageInfo
from obt_agent.jobs.generation_gate import GenerationGate
from obt_agent.jobs.runner import Cause, JobOutcome, LivePoint, OnProgress
from obt_agent.jobs.store import StoredJob
from obt_agent.jobs.transfer_progress import TransferProgress, TransferStatus
from obt_agent.jobs.transfer_result import ending
from obt_agent.ollama.client import OllamaClient
from obt_agent.ollama.names import same_model
from obt_agent.ollama.transfer_failures import may_come_back, of_transfer
from obt_agent.protocol.jobs import JobProgress, JobState

log = structlog.get_logger(__name__)

# Of a status line of Ollama's, which may hold a digest or a path.
PHASE_CHARS: Final = 100
# How long closing Ollama's connection may take when the agent stops.
HANG_UP_S: Final = 5.0
_WAITING_FOR_CHARS: Final = 200
# Of a download, until the disk on which it lies shows; other programs write less in that time. Of these bytes
# the disk must have lost most: file systems compress, and free space lags.
ENOUGH_BYTES: Final = 64 << 20
_MOST: Final = 0.8
_LINE: Final = msgspec.json.Decoder(TransferStatus)


@dataclass(frozen=True)
class TransferTimings:
    """Intervals and deadlines of transfers, in seconds."""

    # Between two looks at an Ollama that went away, and how long it may be away.
    poll_s: float = 2.0
    return_s: float = 600.0
    # Between two looks for a benchmark of another process, and at the free space.
    look_s: float = 5.0
    space_s: float = 15.0


# How often Ollama may go away without one byte in between.
MAX_RETURNS: Final = 10


async def _unknown() -> None:
    """A disk of which nothing is known."""
    return


@dataclass(frozen=True)
class TransferConditions:
    """What a transfer gives way to: benchmarks of this agent and of other processes, and the models' disk.

    ``other_benchmark`` says in words which other process measures this Ollama; None when none does.
    """

    gate: GenerationGate
    other_benchmark: Callable[[], str | None] = lambda: None
    model_store: Callable[[], Awaitable[StorageInfo | None]] = _unknown
    timings: TransferTimings = TransferTimings()


class Transfer:
    """One run of a pull or a create."""

    def __init__(
        self,
        ollama: OllamaClient,
        path: str,
        body: bytes,
        job: StoredJob,
        on_progress: OnProgress,
        conditions: TransferConditions,
        *,
        wanted: str | None = None,
    ) -> None:
        self._ollama = ollama
        self._path = path
        self._body = body
        self._job = job
        self._on_progress = on_progress
        self._conditions = conditions
        # The digest that a pull is to give, without its prefix; None when any will do.
        self._wanted = wanted
        self._progress = TransferProgress()
        # Runs the transfer with its pauses; None before ``execute``.
        self._task: asyncio.Task[None] | None = None
        # Reads Ollama's stream; another one after each pause, None before the first.
        self._reading: asyncio.Task[None] | None = None
        # Whether Ollama has said anything: from then on it is waited for when it goes away.
        self._begun = job.starts > 0
        # Whether Ollama downloads now, and stops when its client goes. It stops neither making layers nor
        # checking what it has downloaded, and would skip that check when it is asked again.
        self._stops_with_us = job.kind != "create"
        # How often Ollama went away since the last byte came.
        self._returns = 0
        # When the free space was last looked at; whether a layer is new since then.
        self._space_at = float("-inf")
        self._new_layer = False
        # Free bytes of a disk whose place is a guess, and bytes that had come, at the first look.
        self._guess: tuple[int, int] | None = None
        # The name's digest before the transfer, once Ollama was asked, and afterwards.
        self._asked_before = False
        self._digest_before: str | None = None
        self._digest: str | None = None
        self._free_bytes: int | None = None
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
        """Connect until Ollama says that it is done, with a wait for each benchmark and each restart."""
        while True:
            await self._wait_for_turn()
            try:
                done = await self._connected()
            except AgentError as raised:
                error = self._with_figures(of_transfer(raised))
                if not (self._begun and may_come_back(error)):
                    raise error from (None if error is raised else raised)
                await self._wait_for_ollama(error)
            else:
                if done:
                    return await self._finish()

    async def _wait_for_turn(self) -> None:
        """Wait until no benchmark runs, of this agent or of another process."""
        while True:
            if (job_id := self._conditions.gate.holds_transfers) is not None:
                self._waiting(f"benchmark {job_id}")
                await self._conditions.gate.transfers_may_run()
            elif (who := self._other_benchmark()) is not None:
                self._waiting(f"a benchmark by {who}")
                await asyncio.sleep(self._conditions.timings.look_s)
            else:
                return

    def _other_benchmark(self) -> str | None:
        return self._conditions.other_benchmark() if self._conditions.gate.pauses_transfers else None

    async def _connected(self) -> bool:
        """Read Ollama's stream once; return whether it came to its end, and was not paused."""
        if await self._is_here():
            return True
        # One may have begun while Ollama was asked; from here to the gate nothing else runs.
        if self._conditions.gate.holds_transfers is not None:
            return False
        self._progress.connected()
        self._reading = asyncio.create_task(self._read(), name=f"ollama {self._path} {self._job.job_id}")
        try:
            with self._conditions.gate.transfer(f"{self._job.kind}_model", self._pause):
                while not self._reading.done():
                    await asyncio.wait([self._reading], timeout=self._conditions.timings.look_s)
                    if not self._reading.done() and self._other_benchmark() is not None:
                        self._pause()
        finally:
            # Also when this is cancelled: the connection must not outlive the job.
            self._reading.cancel()
            await asyncio.wait([self._reading], timeout=HANG_UP_S)
        if self._reading.cancelled():
            log.info("transfer.paused", job_id=self._job.job_id)
            return False
        self._reading.result()
        return True

    def _pause(self) -> bool:
        """Close the connection for a benchmark; return whether that stops Ollama."""
        if self._stops_with_us and self._reading is not None:
            self._reading.cancel()
        return self._stops_with_us

    async def _is_here(self) -> bool:
        """Note the digest that the name has before; return whether that is the one that is wanted."""
        if not self._asked_before:
            try:
                self._digest_before = await self._listed_digest()
            except OllamaUnavailable:
                raise
            except AgentError:
                # A list that cannot be read is no reason not to pull, unless the version matters.
                if self._wanted is not None:
                    raise
            self._asked_before = True
        return self._wanted is not None and bare_digest(self._digest_before) == self._wanted

    async def _listed_digest(self) -> str | None:
        models = (await self._ollama.installed()).models
        name = self._job.model or ""
        return next((model.digest for model in models if same_model(model.name, name)), None)

    async def _read(self) -> None:
        async with self._ollama.stream(self._path, self._body) as answer:
            async for batch in answer.batches():
                self._begun = True
                for line in batch:
                    self._note(line.raw)
                await self._check_space()

    def _note(self, line: bytes) -> None:
        try:
            status = _LINE.decode(line)
        # A field of another shape: progress is for people, and the final line decides.
        except msgspec.MsgspecError:
            return
        now = time.monotonic()
        self._stops_with_us = status.status.startswith("pulling")
        self._new_layer |= self._progress.note(status, now)
        if self._progress.moved:
            self._returns = 0
        self._report(
            status.status,
            bytes_per_second=self._progress.rate(now),
            remaining_s=self._progress.remaining_s(now),
        )

    def _waiting(self, what: str) -> None:
        self._report("waiting", waiting_for=what[:_WAITING_FOR_CHARS])

    def _report(self, phase: str, **more: float | str | None) -> None:
        progress = JobProgress(
            phase=phase[:PHASE_CHARS],
            completed_bytes=self._progress.completed_bytes,
            total_bytes=self._progress.total_bytes,
        )
        self._on_progress(msgspec.structs.replace(progress, **more))

    async def _check_space(self) -> None:
        """Stop a download that the disk has no room for, as soon as that can be known.

        Raises:
            StorageLow: what is still to come does not fit.
        """
        now = time.monotonic()
        if not self._new_layer and now - self._space_at < self._conditions.timings.space_s:
            return
        self._new_layer, self._space_at = False, now
        store = await self._look_at_disk()
        if store is None or store.free_bytes is None:
            return
        if self._is_known(store, store.free_bytes) and self._progress.missing_bytes > store.free_bytes:
            raise StorageLow("The model does not fit the disk that holds Ollama's models.")

    async def _look_at_disk(self) -> StorageInfo | None:
        try:
            store = await self._conditions.model_store()
        except AgentError:
            # A network file system that hangs: its space is not known, and the transfer may go on.
            store = None
        self._free_bytes = None if store is None else store.free_bytes
        return store

    def _is_known(self, store: StorageInfo, free: int) -> bool:
        """Whether the models surely lie on this disk.

        A guess at the place must refuse nothing: OLLAMA_MODELS may point to another disk. It counts once the
        disk was seen to fill as the bytes came.
        """
        if store.found_by == "setting":
            return True
        moved = self._progress.moved
        if self._guess is None or moved < self._guess[1]:
            self._guess = (free, moved)
        before, moved_before = self._guess
        came = moved - moved_before
        return came >= ENOUGH_BYTES and before - free >= came * _MOST

    def _with_figures(self, error: AgentError) -> AgentError:
        """Say how much is still to come, and how much is free."""
        if not isinstance(error, StorageLow):
            return error
        needed, free = self._progress.missing_bytes, self._free_bytes
        known = "" if free is None else f" {needed} bytes are still to come, and {free} are free."
        message = f"{error.message}{known} Delete models that nobody needs, then start it again."
        explained = StorageLow(message, needed_bytes=needed, free_bytes=free)
        explained.detail |= error.detail
        return explained

    async def _wait_for_ollama(self, cause: AgentError) -> None:
        """Wait until Ollama answers again.

        Raises:
            AgentError: ``cause``; it did not come back in time, or goes away again and again.
        """
        self._returns += 1
        log.warning("transfer.ollama_went_away", job_id=self._job.job_id, reason=cause.message)
        if self._returns > MAX_RETURNS:
            raise cause
        deadline = time.monotonic() + self._conditions.timings.return_s
        while True:
            self._waiting("Ollama, which went away")
            await asyncio.sleep(self._conditions.timings.poll_s)
            try:
                await self._ollama.version()
            except AgentError as error:
                if not error.retryable or time.monotonic() >= deadline:
                    raise cause from error
            else:
                return

    async def _finish(self) -> None:
        """Look at what Ollama has now.

        Raises:
            DigestDiffers: it is another version than was asked for.
        """
        try:
            self._digest = await self._listed_digest()
        except AgentError:
            # The transfer is done; only where a version was asked for does it matter which one came.
            if self._wanted is not None:
                raise
        await self._look_at_disk()
        if self._wanted is not None and bare_digest(self._digest) != self._wanted:
            raise DigestDiffers(
                f"The registry has another version of {self._job.model} by now: {self._digest}. "
                "It is installed; ask for that one, or for none in particular.",
                wanted=self._wanted,
                digest=self._digest,
            )

    def _ended(self, task: asyncio.Task[None], duration_s: float) -> JobOutcome:
        done, total = self._progress.completed_bytes, self._progress.total_bytes
        seen: dict[str, float | str | None] = {
            "duration_s": duration_s,
            "digest_before": self._digest_before,
            "digest": self._digest,
            "free_bytes": self._free_bytes,
        }
        if task.cancelled():
            state: JobState = self._cause or "interrupted"
            return ending(self._job, state, _stopped(state), completed_bytes=done, total_bytes=total, **seen)
        error = task.exception()
        # The last progress that Ollama sends of a layer may be short of its end.
        if error is None:
            whole = self._progress.whole_bytes
            return ending(self._job, "completed", None, completed_bytes=whole, total_bytes=whole, **seen)
        # Unforeseen: the worker logs it, and makes the ending.
        if not isinstance(error, AgentError):
            raise error
        return ending(self._job, "failed", error, completed_bytes=done, total_bytes=total, **seen)


def bare_digest(digest: str | None) -> str | None:
    """A digest without its prefix, in lower case, as Ollama lists it."""
    return None if digest is None else digest.lower().removeprefix("sha256:")


def _stopped(state: JobState) -> AgentError:
    return Cancelled("The job was cancelled." if state == "cancelled" else "The agent was stopped.")
