"""Digests of results, as functions of an open session."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sqlalchemy import case, delete, func, select
from sqlalchemy.orm import Session

from obt_server.storage import StoredBenchmark
from obt_server.store.column_types import whole_sum
from obt_server.store.quota import UNASKED_PARAMS
from obt_server.store.tables import DigestRow, JobRow


def stored_benchmarks(db: Session) -> list[StoredBenchmark]:
    """See ``ServerStorage.stored_benchmarks``. Columns, not rows: thousands are read for one list."""
    names = [field.name for field in dataclasses.fields(StoredBenchmark) if field.name != "requested"]
    requested = (JobRow.params != UNASKED_PARAMS).label("requested")
    query = select(*(getattr(JobRow, name) for name in names), requested).where(
        JobRow.kind == "benchmark", JobRow.sha256.is_not(None)
    )
    # The id decides between those of one moment, so that a page of results follows the one before.
    rows = db.execute(query.order_by(JobRow.created_at.desc(), JobRow.job_id))
    return [StoredBenchmark(**row) for row in rows.mappings()]


def benchmarks_mark(db: Session) -> str:
    """See ``ServerStorage.benchmarks_mark``. One pass inside the engine; the rows take many times that."""
    requested = case((JobRow.params != UNASKED_PARAMS, 1), else_=0)
    # A stored result never changes: one that comes, goes or is asked for later changes one of these.
    figures = (
        func.count(),
        func.max(JobRow.created_at),
        func.max(JobRow.finished_at),
        whole_sum(JobRow.bytes),
        whole_sum(requested),
    )
    query = select(*figures).where(JobRow.kind == "benchmark", JobRow.sha256.is_not(None))
    return repr(tuple(db.execute(query).one()))


def digests(db: Session) -> list[tuple[str, str, str, bytes]]:
    """See ``ServerStorage.digests``."""
    query = select(DigestRow.agent_id, DigestRow.job_id, DigestRow.sha256, DigestRow.digest)
    return [(agent_id, job_id, sha256, digest) for agent_id, job_id, sha256, digest in db.execute(query)]


def keep_digests(db: Session, made: Sequence[tuple[str, str, str, bytes]]) -> None:
    """See ``ServerStorage.keep_digests``. A job that was deleted meanwhile gets none."""
    for agent_id, job_id, sha256, digest in made:
        # Computed outside any transaction, so that the job may have gone since.
        if db.get(JobRow, (agent_id, job_id)) is not None:
            db.merge(DigestRow(agent_id=agent_id, job_id=job_id, sha256=sha256, digest=digest))


def remove_digest(db: Session, agent_id: str, job_id: str) -> None:
    """Forget the digest of a job that is deleted."""
    db.execute(delete(DigestRow).where(DigestRow.agent_id == agent_id, DigestRow.job_id == job_id))
