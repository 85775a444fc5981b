"""Jobs of agents: started under an id of ours, followed; results are committed before they are answered."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
import weakref
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog

from obt_agent.errors import (
    AgentError,
    DeadlineExceeded,
    InvalidParams,
    JobNotFound,
    LinkLost,
    StorageFailed,
)
from obt_agent.protocol import codec
from obt_agent.protocol.commands import BenchmarkStatusParams, BenchmarkStatusResult
from obt_agent.protocol.errors import to_wire
from obt_agent.protocol.jobs import (
    TERMINAL_STATES,
    JobFinishedParams,
    JobFinishedResult,
    JobKind,
    JobPartParams,
    JobPartResult,
    JobProgressParams,
    JobStarted,
    JobSummary,
)
from obt_agent.protocol.methods import COMMANDS
from obt_server.hub import results
from obt_server.hub.events import EventBus, JobChanged
from obt_server.hub.session import AgentSession
from obt_server.hub.settings import HubSettings
from obt_server.hub.storage import Fence, HubStorage, JobChange, JobRecord, JobResult, StoredJobState

log = structlog.get_logger(__name__)

KIND_OF_METHOD: dict[str, JobKind] = {method.name: method.job for method in COMMANDS if method.job}
METHOD_OF_KIND = {kind: method for method, kind in KIND_OF_METHOD.items()}


class _Started(msgspec.Struct):
    model: str | None = None
    plan: dict[str, object] | None = None

    @property
    def model_name(self) -> str | None:
        """The model that the parameters name."""
        planned = (self.plan or {}).get("model_name")
        return self.model or (planned if isinstance(planned, str) else None)


_JOB_ID: Final = re.compile(r"(?!(?:\.{1,2}|compare)$)[A-Za-z0-9._~:@+-]{1,128}")
"""What an id may be: each is reachable as a part of an address."""


def check_job_id(job_id: str, field: str) -> None:
    """Raise InvalidParams for an id that no address can name."""
    if _JOB_ID.fullmatch(job_id) is None:
        raise InvalidParams(
            f"{field}: 1 to 128 of A-Z, a-z, 0-9 and . _ ~ : @ + -, and no word of an address.", field=field
        )


def _current_state(session: AgentSession, job_id: str, answered: StoredJobState) -> StoredJobState:
    """The state of a job that an answer names, unless the job's progress has overtaken the answer.

    Progress is taken as it comes and an answer a moment later. Written over what progress said, its state
    would stay: progress in the same state is not stored again.
    """
    said = session.presence.progress.get(job_id)
    return answered if said is None else said.state


def new_job_id() -> str:
    """An id that no other job has."""
    return str(uuid.uuid4())


class JobTracker:
    """Starts, follows and finishes jobs.

    Args:
        storage: a change of a job is there before it is published.
        events: where every change is published.
        settings: the hub's numbers.
    """

    def __init__(self, storage: HubStorage, events: EventBus, settings: HubSettings) -> None:
        self._storage = storage
        self._events = events
        self._settings = settings
        # by agent and job; weak, so that a lock goes with the last who holds or awaits it
        self._finishing: weakref.WeakValueDictionary[tuple[str, str], asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )
        # by session and job: how many states of its progress are being stored; it is published after that
        self._storing: weakref.WeakKeyDictionary[AgentSession, Counter[str]] = weakref.WeakKeyDictionary()
        # unpacking and checking a result takes a processor for up to a second: one at a time, of all agents
        self._unpacking = asyncio.Semaphore(1)

    # -- starting -----------------------------------------------------------------------------------

    async def start(
        self, session: AgentSession, method: str, params: dict[str, object], fence: Fence | None = None
    ) -> JobStarted:
        """Start a job under the ``job_id`` in ``params``, which the caller made sure is new or a repeat.

        Stored as ``starting`` first: when the link is lost before the answer, it is started again with the
        same id at the next admission, until ``not_after``.

        Raises:
            AgentError: what the agent answered, and then the job is ``failed``; LinkLost when it did not.
        """
        # A start is repeated until it is answered, but nobody wants it long after. The caller's own wins.
        params = {"not_after": time.time() + self._settings.start_within_s, **params}
        body = msgspec.json.encode(params)
        model = msgspec.json.decode(body, type=_Started).model_name
        job = JobRecord(
            job_id=str(params["job_id"]),
            agent_id=session.agent_id,
            kind=KIND_OF_METHOD[method],
            state="starting",
            params=body,
            model=model,
            model_digest=session.presence.digest_of(model) if model else None,
            created_at=time.time(),
            started_session=session.presence.session,
        )
        # Before it is stored: afterwards a new job and a repeated start look the same.
        known = await self._storage.job(job.agent_id, job.job_id)
        await (fence or self._storage).create_job(job)
        return await self._send_start(session, job, repeat=known is not None and known.state != "starting")

    async def _send_start(self, session: AgentSession, job: JobRecord, *, repeat: bool = False) -> JobStarted:
        """``repeat``: a job of that id was started before, and goes on whatever the agent says to this."""
        try:
            answer = await session.calls.call(
                METHOD_OF_KIND[job.kind], msgspec.Raw(job.params), timeout_s=self._settings.call_timeout_s
            )
            started = codec.convert(answer, JobStarted, where="result")
        except AgentError as error:
            # Nobody knows whether the agent has it: it stays as it is, and the next admission settles that.
            unknown = isinstance(error, LinkLost | DeadlineExceeded) and error.retryable
            # The agent's own word that ``not_after`` has passed is a refusal: the same start stays too late.
            if not repeat and not unknown:
                change = JobChange(
                    state="failed", finished_at=time.time(), error=results.kept_error(to_wire(error))
                )
                await self._change(session.agent_id, job.job_id, change)
            raise
        state = _current_state(session, job.job_id, started.state)
        change = JobChange(state=state, started_session=session.presence.session)
        await self._change(session.agent_id, job.job_id, change)
        return started

    async def _change(self, agent_id: str, job_id: str, change: JobChange) -> None:
        await self._storage.change_job(agent_id, job_id, change)
        if change.state is not None:
            self._events.job_changed(JobChanged(agent_id, job_id, change.state))

    # -- following ----------------------------------------------------------------------------------

    def on_progress(self, session: AgentSession, params: msgspec.Raw) -> None:
        """``job.progress``: kept in memory and passed on; what must last comes with the final."""
        progress = codec.convert(params, JobProgressParams)
        check_job_id(progress.job_id, "params.job_id")
        known = session.presence.progress
        before = known.get(progress.job_id)
        # The one that came first goes: an agent that invents jobs must not fill memory.
        if before is None and len(known) >= self._settings.max_in_flight:
            known.pop(next(iter(known)))
        known[progress.job_id] = progress
        # A commit for each step of each job would keep the database's one writer busy.
        storing = self._storing.setdefault(session, Counter())
        if before is None or before.state != progress.state:
            storing[progress.job_id] += 1
            session.spawn(self._store_state(session, progress, storing), "store job's state")
        elif progress.job_id not in storing:
            self._publish_progress(session, progress)

    async def _store_state(
        self, session: AgentSession, progress: JobProgressParams, storing: Counter[str]
    ) -> None:
        """Store the state of a job's progress, then publish what its progress is by then."""
        job_id = progress.job_id
        try:
            await self._storage.change_job(session.agent_id, job_id, JobChange(state=progress.state))
        except StorageFailed as error:
            log.warning("job.state_not_stored", agent=session.agent_id, job=job_id, error=error.message)
        storing[job_id] -= 1
        if not storing[job_id]:
            del storing[job_id]
        latest = session.presence.progress.get(job_id)
        # Its end was published meanwhile, or is about to be.
        if latest is not None:
            self._publish_progress(session, latest)

    def _publish_progress(self, session: AgentSession, progress: JobProgressParams) -> None:
        self._events.job_changed(
            JobChanged(session.agent_id, progress.job_id, progress.state, progress.progress)
        )

    async def reconcile(self, session: AgentSession, listed: Sequence[JobSummary]) -> None:
        """Bring our jobs in line with ``jobs.sync``, which lists all that the agent still has."""
        known = {job.job_id: job for job in listed}
        for job in await self._storage.open_jobs(session.agent_id):
            summary = known.get(job.job_id)
            if summary is not None:
                await self._follow(session, job, summary)
            elif job.state == "starting":
                self._start_again(session, job)
            # A start of this very session may have crossed the list; one of an earlier session is asked for.
            elif job.started_session is None or job.started_session < session.presence.session:
                await self._query_later(session, job)

    async def _follow(self, session: AgentSession, job: JobRecord, summary: JobSummary) -> None:
        if summary.state in TERMINAL_STATES:
            return  # its final comes with job.finished, with the result
        state = _current_state(session, job.job_id, summary.state)
        if state != job.state:
            await self._change(session.agent_id, job.job_id, JobChange(state=state))

    def _start_again(self, session: AgentSession, job: JobRecord) -> None:
        """In a task of the session: this runs inside the answer to ``jobs.sync``."""
        if job.started_session == session.presence.session:
            return  # the start is on its way
        session.spawn(self._restart(session, job), "start job again")

    async def _restart(self, session: AgentSession, job: JobRecord) -> None:
        log.info("job.started_again", agent=session.agent_id, job=job.job_id)
        try:
            await self._send_start(session, job)
        except AgentError as error:
            log.warning("job.start_failed", agent=session.agent_id, job=job.job_id, error=error.message)

    async def _query_later(self, session: AgentSession, job: JobRecord) -> None:
        session.spawn(self._query_status(session, job), "query job")

    async def _query_status(self, session: AgentSession, job: JobRecord) -> None:
        params = BenchmarkStatusParams(job_id=job.job_id, include_result=False)
        try:
            answer = await session.calls.call(
                "benchmark_status", params, timeout_s=self._settings.call_timeout_s
            )
            summary = codec.convert(answer, BenchmarkStatusResult, where="result").job
        except JobNotFound:
            log.warning("job.lost", agent=session.agent_id, job=job.job_id)
            await self._change(session.agent_id, job.job_id, JobChange(state="lost", finished_at=time.time()))
            return
        except AgentError as error:
            log.warning("job.status_unknown", agent=session.agent_id, job=job.job_id, error=error.message)
            return
        await self._follow(session, job, summary)

    # -- finishing ----------------------------------------------------------------------------------

    async def on_part(self, session: AgentSession, params: msgspec.Raw) -> JobPartResult:
        """``job.part``: kept until the final."""
        part = codec.convert(params, JobPartParams)
        check_job_id(part.job_id, "params.job_id")
        async with self._lock(session.agent_id, part.job_id):
            next_offset = await self._storage.store_part(
                session.agent_id,
                part.job_id,
                part.offset,
                results.part_bytes(part),
                2 * self._settings.max_result_bytes,
            )
        return JobPartResult(job_id=part.job_id, next_offset=next_offset)

    async def on_finished(self, session: AgentSession, params: msgspec.Raw) -> JobFinishedResult:
        """``job.finished``: commit, then answer. A death between the two makes the agent repeat, no more."""
        final = codec.convert(params, JobFinishedParams)
        check_job_id(final.job_id, "params.job_id")
        async with self._lock(session.agent_id, final.job_id):
            return await self._finish(session, final)

    def _lock(self, agent_id: str, job_id: str) -> asyncio.Lock:
        """One at a time a job: two sessions of an agent may overlap for a moment."""
        return self._finishing.setdefault((agent_id, job_id), asyncio.Lock())

    async def _finish(self, session: AgentSession, final: JobFinishedParams) -> JobFinishedResult:
        parts = b"" if final.result is not None else await self._storage.parts(session.agent_id, final.job_id)
        async with self._unpacking:
            read = await asyncio.to_thread(results.read, final, parts, self._settings.max_result_bytes)
        if read is None:
            return await self._resend_or_repeat(session.agent_id, final)
        text, model, digest = read
        outcome = await self._storage.finish_job(
            JobResult(
                agent_id=session.agent_id,
                job_id=final.job_id,
                kind=final.kind,
                state=final.state,
                text=text,
                sha256=final.sha256,
                model=model,
                model_digest=digest,
                error=results.kept_error(final.error),
                at=time.time(),
            )
        )
        # After the commit: until then the progress is what is known of the job.
        session.presence.progress.pop(final.job_id, None)
        self._events.job_changed(JobChanged(session.agent_id, final.job_id, final.state))
        log.info("job.finished", agent=session.agent_id, job=final.job_id, state=final.state, outcome=outcome)
        return JobFinishedResult(job_id=final.job_id, sha256=final.sha256, conflict=outcome == "conflict")

    async def _resend_or_repeat(self, agent_id: str, final: JobFinishedParams) -> JobFinishedResult:
        """A result that is stored already needs no pieces; else ask for them from the start."""
        stored = await self._storage.job(agent_id, final.job_id)
        if stored is not None and stored.sha256 is not None:
            return JobFinishedResult(
                job_id=final.job_id, sha256=final.sha256, conflict=stored.sha256 != final.sha256
            )
        return JobFinishedResult(job_id=final.job_id, resend_from=0)
