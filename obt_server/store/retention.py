"""What is removed when it is old: results, other jobs, tokens that are good for nothing any more."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy import ColumnElement, delete, exists, func, or_, select
from sqlalchemy.orm import Session

from obt_server.hub.storage import ENDED_STATES
from obt_server.replica_storage import LeaseLost
from obt_server.store import jobs
from obt_server.store.operator_tables import ApiTokenRow
from obt_server.store.tables import (
    BaselineRow,
    CampaignCellRow,
    CampaignRow,
    JobRow,
    JoinTokenRow,
)
from obt_server.store.transactions import Transactions

log = structlog.get_logger(__name__)

EVERY_S: Final = 3600.0
ROWS_AT_ONCE: Final = 100
BYTES_AT_ONCE: Final = 8 << 20
"""Of results in one transaction, unless one alone has more: SQLite visits each of their pages."""
PAUSE_SHARE: Final = 3.0
"""Times as long as a batch took is waited after it: the writer is others' for most of the time."""
MIN_PAUSE_S: Final = 0.05
_DAY_S: Final = 86_400.0


@dataclass(frozen=True)
class RetentionSettings:
    """Days after which something is removed; None keeps it for good.

    Args:
        results_days: benchmarks with their results, after their end.
        jobs_days: all other jobs (pulls, creations, what failed or was cancelled), after their end.
        tokens_days: join tokens after their use, end or revocation, and API tokens after their end.
    """

    results_days: float | None = None
    jobs_days: float | None = None
    tokens_days: float | None = 90.0


class Retention:
    """Removes what is old, a little at a time.

    Args:
        database: where.
        settings: what is old.
    """

    def __init__(self, database: Transactions, settings: RetentionSettings) -> None:
        self._database = database
        self._settings = settings
        # by kind, since the process began
        self.removed: Counter[str] = Counter({"result": 0, "job": 0, "join_token": 0, "api_token": 0})

    async def run(self, database: Transactions | None = None) -> None:
        """Remove what is old, at once and every hour, until cancelled.

        Args:
            database: what it is removed through, where that is not always the same.
        """
        remove = self.once if database is None else functools.partial(self.once, database=database)
        while True:
            try:
                await remove(time.time())
            except LeaseLost:
                return  # whoever leads now removes it
            # A full disk for an hour must not end it for good.
            except Exception:
                log.exception("retention.failed")
            await asyncio.sleep(EVERY_S)

    async def once(self, now: float, database: Transactions | None = None) -> None:
        """Remove everything that is old at that time. Raises LeaseLost where the database is fenced."""
        settings = self._settings
        kinds: tuple[tuple[str, float | None, _Removal], ...] = (
            ("result", settings.results_days, _results),
            ("job", settings.jobs_days, _jobs),
            ("join_token", settings.tokens_days, _join_tokens),
            ("api_token", settings.tokens_days, _api_tokens),
        )
        for kind, days, removal in kinds:
            if days is None:
                continue
            count = await self._remove_all(kind, removal, now - days * _DAY_S, database or self._database)
            if count:
                log.info("retention.removed", kind=kind, count=count, older_than_days=days)

    async def _remove_all(self, kind: str, removal: _Removal, before: float, database: Transactions) -> int:
        total = 0
        while True:
            began = time.monotonic()
            count = await database.run(removal, before)
            total += count
            self.removed[kind] += count
            if not count:
                return total
            # Between two batches whoever else waits for the writer has it.
            await asyncio.sleep(max(MIN_PAUSE_S, PAUSE_SHARE * (time.monotonic() - began)))


_Removal = Callable[[Session, float], int]


def _results(db: Session, before: float) -> int:
    """Remove some benchmarks whose result is stored."""
    return _remove_jobs(db, before, JobRow.kind == "benchmark", JobRow.sha256.is_not(None))


def _jobs(db: Session, before: float) -> int:
    """Remove some of all other jobs that have ended."""
    return _remove_jobs(db, before, or_(JobRow.kind != "benchmark", JobRow.sha256.is_(None)))


def _remove_jobs(db: Session, before: float, *which: ColumnElement[bool]) -> int:
    """Remove ended jobs of before that time, the oldest first; return how many, 0 when none is left."""
    # What others are compared with stays, however old: a pinned baseline was chosen to be kept.
    pinned = exists().where(BaselineRow.agent_id == JobRow.agent_id, BaselineRow.job_id == JobRow.job_id)
    # A campaign that runs reads the results of its cells when it ends.
    running = (
        exists()
        .where(CampaignCellRow.agent_id == JobRow.agent_id, CampaignCellRow.job_id == JobRow.job_id)
        .where(CampaignCellRow.campaign_id == CampaignRow.id, CampaignRow.state == "running")
    )
    query = (
        select(JobRow.agent_id, JobRow.job_id, JobRow.bytes)
        # The time of the end is in no index; a job ends after it was made, so that this leaves out the rest.
        .where(JobRow.created_at < before, func.coalesce(JobRow.finished_at, JobRow.created_at) < before)
        .where(JobRow.state.in_(ENDED_STATES), *which, ~pinned, ~running)
        .order_by(JobRow.created_at)
        .limit(ROWS_AT_ONCE)
    )
    count = size = 0
    for agent_id, job_id, length in db.execute(query).all():
        size += length or 0
        if count and size > BYTES_AT_ONCE:
            break
        jobs.remove(db, agent_id, job_id)
        count += 1
    return count


def _join_tokens(db: Session, before: float) -> int:
    """Remove some join tokens that are good for nothing. Unknown from then on, they are refused as before."""
    over = func.coalesce(JoinTokenRow.used_at, JoinTokenRow.revoked_at, JoinTokenRow.expires_at) < before
    return _remove_ids(db, JoinTokenRow, over)


def _api_tokens(db: Session, before: float) -> int:
    """Remove some API tokens that have expired."""
    return _remove_ids(db, ApiTokenRow, ApiTokenRow.expires_at < before)


def _remove_ids(db: Session, table: type[JoinTokenRow | ApiTokenRow], over: ColumnElement[bool]) -> int:
    found = list(db.scalars(select(table.id).where(over).limit(ROWS_AT_ONCE)))
    if found:
        db.execute(delete(table).where(table.id.in_(found)))
    return len(found)
