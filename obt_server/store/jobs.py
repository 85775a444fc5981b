"""Jobs, pieces of results, and results, as functions of an open session."""

from __future__ import annotations

import dataclasses
from typing import Final, Literal

import msgspec
from sqlalchemy import ColumnElement, delete, func, literal_column, select, tuple_, update
from sqlalchemy.orm import Session

from obt_agent.errors import TooLarge
from obt_agent.protocol.errors import WireError
from obt_server.hub.storage import ENDED_STATES, JobChange, JobRecord, JobResult
from obt_server.storage import AmbiguousJob, JobFilter, NotStored
from obt_server.store.column_types import whole_sum
from obt_server.store.database import from_row
from obt_server.store.paging import earlier
from obt_server.store.quota import ROW_BYTES, UNASKED_PARAMS, AgentQuota
from obt_server.store.results import remove_digest
from obt_server.store.tables import JobRow, PartRow, ResultRow

_AGENTS_NAMED: Final = 10
"""Agents that a message names: the list may be long."""


def record(row: JobRow) -> JobRecord:
    """A row as the rest of the server sees it."""
    error = None if row.error is None else msgspec.json.decode(row.error, type=WireError)
    # Parameters of a started job hold its id at least, so that these can be no job's.
    requested = row.params != UNASKED_PARAMS
    return from_row(
        JobRecord, row, error=error, requested=requested, progress=None
    )  # progress is the live session's


def create(db: Session, job: JobRecord) -> None:
    """See ``HubStorage.create_job``. A repeat of a stored id changes nothing."""
    # A start is repeated after a lost link, with the same id.
    if db.get(JobRow, (job.agent_id, job.job_id)) is not None:
        return
    fields = {
        field.name: getattr(job, field.name)
        for field in dataclasses.fields(JobRecord)
        if field.name not in ("progress", "error", "requested")
    }
    db.add(JobRow(**fields))


def get(db: Session, agent_id: str, job_id: str) -> JobRecord | None:
    """One job."""
    row = db.get(JobRow, (agent_id, job_id))
    return None if row is None else record(row)


def unfinished(db: Session, agent_id: str) -> list[JobRecord]:
    """See ``HubStorage.open_jobs``."""
    query = select(JobRow).where(JobRow.agent_id == agent_id, JobRow.state.not_in(ENDED_STATES))
    return [record(row) for row in db.scalars(query.order_by(JobRow.created_at))]


def apply_change(db: Session, agent_id: str, job_id: str, change: JobChange) -> None:
    """See ``HubStorage.change_job``."""
    row = db.get(JobRow, (agent_id, job_id))
    # Stored results are final: a notification that was on its way must not reopen the job.
    if row is None or row.sha256 is not None:
        return
    if change.state is not None:
        row.state = change.state
    if change.started_session is not None:
        row.started_session = change.started_session
    if change.finished_at is not None:
        row.finished_at = change.finished_at
    if change.error is not None:
        row.error = msgspec.json.encode(change.error)


def lose_all(db: Session, agent_id: str, at: float) -> None:
    """The agent's job store is another one: no result of what it had will come."""
    db.execute(
        update(JobRow)
        .where(JobRow.agent_id == agent_id, JobRow.state.not_in(ENDED_STATES))
        .values(state="lost", finished_at=at)
    )
    db.execute(delete(PartRow).where(PartRow.agent_id == agent_id))


def store_part(
    db: Session, agent_id: str, job_id: str, offset: int, data: bytes, limit: int, quota: AgentQuota
) -> int:
    """See ``HubStorage.store_part``."""
    mine = (PartRow.agent_id == agent_id, PartRow.job_id == job_id)
    if offset == 0:
        _check_quota(db, quota, agent_id, job_id, len(data))  # before megabytes are sent that are not taken
        db.execute(delete(PartRow).where(*mine))
    # pieces follow each other without a hole, so that the last one says how much is held
    last = select(PartRow.offset + PartRow.size).where(*mine).order_by(PartRow.offset.desc()).limit(1)
    held = db.scalar(last) or 0
    if offset != held:
        return held
    # by the length of the column, which stands before it: ``size`` stands behind the data, on its last page
    size = func.coalesce(whole_sum(func.length(PartRow.data) + ROW_BYTES), 0)
    everything = db.scalar(select(size).where(PartRow.agent_id == agent_id)) or 0
    if everything + len(data) > limit:
        raise TooLarge(f"The unfinished results of this agent would hold more than {limit} bytes.")
    if data:
        db.add(PartRow(agent_id=agent_id, job_id=job_id, offset=offset, data=data, size=len(data)))
    return offset + len(data)


def parts(db: Session, agent_id: str, job_id: str) -> bytes:
    """See ``HubStorage.parts``."""
    query = select(PartRow.data).where(PartRow.agent_id == agent_id, PartRow.job_id == job_id)
    return b"".join(db.scalars(query.order_by(PartRow.offset)))


def _check_quota(db: Session, quota: AgentQuota, agent_id: str, job_id: str, more: int) -> None:
    row = db.get(JobRow, (agent_id, job_id))
    if row is not None and row.sha256 is not None:
        return  # it is a repeat or a conflict, which adds nothing that is not counted elsewhere
    if row is None:
        quota.check_unasked(db, agent_id, more)
    quota.check_results(db, agent_id, more)


def finish(db: Session, result: JobResult, quota: AgentQuota) -> Literal["stored", "repeated", "conflict"]:
    """See ``HubStorage.finish_job``."""
    key = (result.agent_id, result.job_id)
    _check_quota(db, quota, *key, len(result.text))
    # Looked at after the bounds: an agent over its quota writes nothing at all.
    row = db.get(JobRow, key)
    if row is None:
        row = _unasked(result)
        db.add(row)
        db.flush()
    # In the transaction of the final: before it the pieces are all that there is, and after it they are
    # nothing.
    db.execute(delete(PartRow).where(PartRow.agent_id == key[0], PartRow.job_id == key[1]))
    if row.sha256 is not None:
        # The first answer was lost, and the agent sends again.
        if row.sha256 == result.sha256:
            return "repeated"
        if quota.keeps_conflict(db, *key, len(result.text)):
            _keep_text(db, result, accepted=False)
        return "conflict"
    row.state, row.finished_at = result.state, result.at
    # From here on the job has a result: these two columns say so everywhere.
    row.bytes, row.sha256 = len(result.text), result.sha256
    row.model, row.model_digest = result.model or row.model, result.model_digest or row.model_digest
    row.error = None if result.error is None else msgspec.json.encode(result.error)
    _keep_text(db, result, accepted=True)
    return "stored"


def _unasked(result: JobResult) -> JobRow:
    """A job that this storage does not know: started before it was made anew. Its result is worth keeping."""
    return JobRow(
        agent_id=result.agent_id,
        job_id=result.job_id,
        kind=result.kind,
        state=result.state,
        params=UNASKED_PARAMS,
        created_at=result.at,
    )


def _keep_text(db: Session, result: JobResult, *, accepted: bool) -> None:
    # A conflict may be sent again as often as its agent likes: each text is kept once.
    query = select(ResultRow.id).where(
        ResultRow.agent_id == result.agent_id,
        ResultRow.job_id == result.job_id,
        ResultRow.sha256 == result.sha256,
    )
    if db.scalar(query) is None:
        db.add(
            ResultRow(
                agent_id=result.agent_id,
                job_id=result.job_id,
                sha256=result.sha256,
                accepted=accepted,
                stored_at=result.at,
                text=result.text,
            )
        )


def find(db: Session, which: JobFilter) -> list[JobRecord]:
    """See ``ServerStorage.jobs``."""
    order = JobRow.created_at.desc(), JobRow.job_id, JobRow.agent_id
    query = select(JobRow).order_by(*order).limit(which.limit)
    for column, value in (
        (JobRow.agent_id, which.agent_id),
        (JobRow.kind, which.kind),
        (JobRow.model, which.model),
        (JobRow.state, which.state),
    ):
        if value is not None:
            query = query.where(column == value)
    if which.before is not None:
        query = query.where(earlier(JobRow.created_at, which.before, _beyond(which)))
    if which.requested is not None:
        started = JobRow.params != UNASKED_PARAMS
        query = query.where(started if which.requested else ~started)
    if which.with_result:
        query = query.where(JobRow.sha256.is_not(None))
    return [record(row) for row in db.scalars(query)]


def _beyond(which: JobFilter) -> ColumnElement[bool] | None:
    if which.before_id is None or which.before_agent is None:
        return None if which.before_id is None else JobRow.job_id > which.before_id
    return tuple_(JobRow.job_id, JobRow.agent_id) > (which.before_id, which.before_agent)


PING: Final = select(JobRow.job_id).limit(literal_column("1"))
"""Something to read: a database that cannot be used raises."""


def counts(db: Session) -> list[tuple[str, str, int]]:
    """Return how many jobs of each kind are in each state."""
    query = select(JobRow.kind, JobRow.state, func.count()).group_by(JobRow.kind, JobRow.state)
    return [(kind, state, count) for kind, state, count in db.execute(query)]


def by_id(db: Session, job_id: str, agent_id: str | None = None) -> JobRecord:
    """See ``ServerStorage.job_by_id``."""
    query = select(JobRow).where(JobRow.job_id == job_id).order_by(JobRow.created_at)
    if agent_id is not None:
        query = query.where(JobRow.agent_id == agent_id)
    found = [record(row) for row in db.scalars(query)]
    # A final under somebody else's job id is marked as not requested, and never stands in for the real one.
    candidates = [job for job in found if job.requested] or found
    if not candidates:
        raise NotStored(f"There is no job {job_id[:128]!r}.")
    if len(candidates) > 1:
        agents = ", ".join(job.agent_id for job in candidates[:_AGENTS_NAMED])
        raise AmbiguousJob(
            f"{len(candidates)} agents have a job {job_id[:128]!r}: name one with agent=, of {agents}."
        )
    return candidates[0]


def result_text(db: Session, agent_id: str, job_id: str) -> bytes | None:
    """See ``ServerStorage.result``."""
    return db.scalar(
        select(ResultRow.text).where(
            ResultRow.agent_id == agent_id, ResultRow.job_id == job_id, ResultRow.accepted
        )
    )


def remove(db: Session, agent_id: str, job_id: str) -> None:
    """See ``ServerStorage.delete_job``."""
    row = db.get(JobRow, (agent_id, job_id))
    if row is None:
        raise NotStored(f"There is no job {job_id[:128]!r}.")
    # Results and their pieces hang on the agent and not on the job: nothing else deletes them, texts that
    # were set aside included.
    for table in (ResultRow, PartRow):
        db.execute(delete(table).where(table.agent_id == agent_id, table.job_id == job_id))
    remove_digest(db, agent_id, job_id)
    db.delete(row)
