"""An agent forgotten: first what it reported, a little at a time, then the agent itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.orm import Session

from obt_server.hub.storage import ENDED_STATES
from obt_server.store import agents
from obt_server.store.column_types import whole_sum
from obt_server.store.retention import BYTES_AT_ONCE, ROWS_AT_ONCE
from obt_server.store.tables import DigestRow, JobRow, PartRow, ResultRow
from obt_server.store.transactions import Statement, Transactions

_PAUSE_SHARE: Final = 1.0
"""Times as long as a batch took is waited after it, for others' writes. An operator waits for the end."""


async def remove(database: Transactions, agent_id: str) -> None:
    """Forget an agent with everything that it reported; raise NotStored, IdentityTaken.

    In one statement gigabytes of results would keep everybody else from writing, or take longer than the
    database lets one take. Where this fails on the way, the agent is still there, to be deleted again.
    """
    known = await database.read(agents.credentials_of, agent_id)
    for removal in (_jobs_with_results, _other_jobs, _parts):
        began = time.monotonic()
        while await database.run(removal, agent_id):
            await asyncio.sleep(_PAUSE_SHARE * (time.monotonic() - began))
            began = time.monotonic()
    # With it goes what came meanwhile, and what is small.
    await database.run(agents.remove, agent_id, known)


def _jobs_with_results(db: Session, agent_id: str) -> bool:
    """Remove some jobs with all that belongs to them; return whether there may be more."""
    size = whole_sum(func.length(ResultRow.text))
    query = select(ResultRow.job_id, size).where(ResultRow.agent_id == agent_id)
    found, more = _some(db, query.group_by(ResultRow.job_id).order_by(ResultRow.job_id))
    _remove_jobs(db, agent_id, [job_id for (job_id,) in found])
    return more


def _other_jobs(db: Session, agent_id: str) -> bool:
    """Remove some jobs that have ended without a result. Those that have not are few."""
    size = func.length(JobRow.params)
    query = select(JobRow.job_id, size).where(JobRow.agent_id == agent_id, JobRow.state.in_(ENDED_STATES))
    found, more = _some(db, query.order_by(JobRow.job_id))
    _remove_jobs(db, agent_id, [job_id for (job_id,) in found])
    return more


def _parts(db: Session, agent_id: str) -> bool:
    """Remove some pieces of results whose final has not come."""
    key = (PartRow.job_id, PartRow.offset)
    query = select(*key, func.length(PartRow.data)).where(PartRow.agent_id == agent_id)
    found, more = _some(db, query.order_by(*key))
    db.execute(delete(PartRow).where(PartRow.agent_id == agent_id, tuple_(*key).in_(found)))
    return more


def _some(db: Session, query: Statement) -> tuple[Sequence[tuple[Any, ...]], bool]:
    """Return the first keys of a query whose last column is a size, and whether it has more of them.

    So many that their sizes stay below the bound of one transaction, and at least one.
    """
    found: list[tuple[Any, ...]] = []
    size = 0
    for *key, length in db.execute(query.limit(ROWS_AT_ONCE + 1)).all():
        size += length or 0
        if found and (size > BYTES_AT_ONCE or len(found) == ROWS_AT_ONCE):
            return found, True
        found.append(tuple(key))
    return found, False


def _remove_jobs(db: Session, agent_id: str, job_ids: Sequence[str]) -> None:
    for table in (ResultRow, DigestRow, PartRow, JobRow):
        db.execute(delete(table).where(table.agent_id == agent_id, table.job_id.in_(job_ids)))
