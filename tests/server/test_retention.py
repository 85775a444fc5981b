"""What is old goes, what somebody chose to keep stays, and nobody waits for it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from obt_server.storage import Enrolment
from obt_server.store import Database, OperatorStore, SqlStorage, retention
from obt_server.store.retention import Retention, RetentionSettings
from obt_server.store.tables import (
    BaselineRow,
    CampaignCellRow,
    CampaignRow,
    DigestRow,
    JobRow,
    ResultRow,
    Table,
)
from tests.server.agent_double import uuid7
from tests.server.databases import address_in
from tests.server.enrolling import enrol
from tests.waiting import until

DAY = 86_400.0
NOW = 1_000 * DAY


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Database]:
    one = Database.open(address_in(tmp_path))
    yield one
    one.close()


async def agent_of(opened: Database) -> str:
    enrolment = Enrolment(agent_id=uuid7(), name="box", version="1", secret_sha256=uuid7())
    return (await enrol(SqlStorage(opened), enrolment, NOW)).id


def job(agent_id: str, job_id: str, days: float, **more: Any) -> dict[str, Any]:
    """A row of a benchmark with a result that ended so many days ago."""
    at = NOW - days * DAY
    values = {"kind": "benchmark", "state": "completed", "params": b"{}", "bytes": 9, "sha256": "s"}
    row = {"agent_id": agent_id, "job_id": job_id, "created_at": at, "finished_at": at, **values}
    return {**row, **more}


async def add(opened: Database, table: type[Table], *values: dict[str, Any]) -> None:
    def work(db: Session) -> None:
        db.execute(insert(table), list(values))

    await opened.run(work)


async def add_jobs(opened: Database, *jobs: dict[str, Any]) -> None:
    await add(opened, JobRow, *jobs)
    with_result = [one for one in jobs if one["sha256"] is not None]
    of = [{"agent_id": one["agent_id"], "job_id": one["job_id"], "sha256": "s"} for one in with_result]
    await add(opened, ResultRow, *({**one, "accepted": True, "stored_at": 1.0, "text": b"{}"} for one in of))
    await add(opened, DigestRow, *({**one, "digest": b"{}"} for one in of))


async def left(opened: Database) -> list[str]:
    def work(db: Session) -> list[str]:
        for table in (ResultRow, DigestRow):
            orphans = (
                select(func.count()).select_from(table).where(table.job_id.not_in(select(JobRow.job_id)))
            )
            assert db.scalar(orphans) == 0, "what belongs to a job goes with it"
        return list(db.scalars(select(JobRow.job_id).order_by(JobRow.job_id)))

    return await opened.read(work)


async def test_nothing_but_useless_tokens_goes_unless_somebody_says_so(opened: Database) -> None:
    agent_id = await agent_of(opened)
    await add_jobs(opened, job(agent_id, "ancient", 900))
    await Retention(opened, RetentionSettings()).once(NOW)
    assert await left(opened) == ["ancient"]


async def test_old_results_and_other_jobs_go_by_settings_of_their_own(opened: Database) -> None:
    agent_id = await agent_of(opened)
    no_result: dict[str, Any] = {"sha256": None, "bytes": None}
    await add_jobs(
        opened,
        job(agent_id, "new", 5),
        job(agent_id, "old", 50),
        job(agent_id, "old-failed", 50, state="failed", **no_result),
        job(agent_id, "old-pull", 50, kind="pull"),
        job(agent_id, "old-running", 50, state="running", finished_at=None, **no_result),
        job(agent_id, "long-run", 50, finished_at=NOW - DAY),
    )
    with capture_logs() as lines:
        results = Retention(opened, RetentionSettings(results_days=30))
        await results.once(NOW)
    assert await left(opened) == ["long-run", "new", "old-failed", "old-pull", "old-running"]
    assert results.removed["result"] == 1
    (line,) = (one for one in lines if one["event"] == "retention.removed")
    assert (line["kind"], line["count"], line["older_than_days"]) == ("result", 1, 30)
    await Retention(opened, RetentionSettings(jobs_days=30)).once(NOW)
    assert await left(opened) == ["long-run", "new", "old-running"]


async def test_pinned_baselines_and_what_a_running_campaign_reads_stay(opened: Database) -> None:
    agent_id = await agent_of(opened)
    await add_jobs(
        opened, *(job(agent_id, name, 50) for name in ("free", "pinned", "of-running", "of-ended"))
    )
    pin = {"agent_id": agent_id, "model": "m", "plan_hash": "h", "job_id": "pinned", "at": 1.0, "by": "ann"}
    await add(opened, BaselineRow, pin)
    for state in ("running", "completed"):
        campaign = {"id": state, "state": state, "judged": False, "created_at": 1.0, "content": b"{}"}
        await add(opened, CampaignRow, campaign)
        cell = {"campaign_id": state, "cell_id": "1", "position": 1, "agent_id": agent_id, "state": "done"}
        job_id = "of-running" if state == "running" else "of-ended"
        await add(opened, CampaignCellRow, {**cell, "job_id": job_id, "detail": b"{}"})
    await Retention(opened, RetentionSettings(results_days=30)).once(NOW)
    assert await left(opened) == ["of-running", "pinned"]


async def test_tokens_that_are_good_for_nothing_go_after_a_while(opened: Database) -> None:
    store, storage = OperatorStore(opened), SqlStorage(opened)
    await store.set_password("ann", "hash", 1.0)
    for name, days in (("for good", None), ("expired long ago", -100), ("expired now", -1), ("valid", 1)):
        expires_at = None if days is None else NOW + days * DAY
        await store.add_token(name, name=name, operator="ann", at=1.0, expires_at=expires_at)
    for note, days in (("long ago", -100), ("a while ago", -50), ("valid", 1)):
        await storage.create_join_token(
            note, note=note, agent_id=None, at=NOW - 200 * DAY, expires_at=NOW + days * DAY
        )
    revoked = await storage.create_join_token("r", note="r", agent_id=None, at=1.0, expires_at=NOW + DAY)
    await storage.revoke_join_token(revoked.id, NOW - 100 * DAY)
    found = Retention(opened, RetentionSettings())
    await found.once(NOW)
    assert [token.name for token in await store.tokens()] == ["for good", "expired now", "valid"]
    assert {token.note for token in await storage.join_tokens()} == {"a while ago", "valid"}
    assert (found.removed["api_token"], found.removed["join_token"]) == (1, 2)


async def test_much_goes_in_small_transactions_between_which_others_write(
    opened: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "ROWS_AT_ONCE", 10)
    monkeypatch.setattr(retention, "BYTES_AT_ONCE", 50)
    monkeypatch.setattr(retention, "MIN_PAUSE_S", 0.0)
    monkeypatch.setattr(retention, "PAUSE_SHARE", 0.0)
    agent_id = await agent_of(opened)
    await add_jobs(opened, *(job(agent_id, f"{n:03}", 50, bytes=9 if n < 12 else 60) for n in range(15)))
    sizes: list[int] = []
    real = retention._remove_jobs  # noqa: SLF001 - one batch

    def counted(db: Session, *arguments: Any) -> int:
        sizes.append(real(db, *arguments))
        return sizes[-1]

    monkeypatch.setattr(retention, "_remove_jobs", counted)
    await Retention(opened, RetentionSettings(results_days=30)).once(NOW)
    assert await left(opened) == []
    assert max(sizes) <= 6, "nine bytes each, fifty at once"
    assert sizes.count(1) >= 2, "a large one goes alone"
    assert sizes[-1] == 0


async def test_it_runs_from_the_start_of_the_server_and_goes_on_after_a_failure(
    opened: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "EVERY_S", 0.0)
    agent_id = await agent_of(opened)
    await add_jobs(opened, job(agent_id, "old", 50, created_at=time.time() - 50 * DAY))
    one = Retention(opened, RetentionSettings(results_days=30))
    real, tries = one.once, 0

    async def fails_first(now: float) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError("no space left on device")
        await real(now)

    monkeypatch.setattr(one, "once", fails_first)
    with capture_logs() as lines:
        running = asyncio.create_task(one.run())
        await until(lambda: one.removed["result"])
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    assert "retention.failed" in {line["event"] for line in lines}
