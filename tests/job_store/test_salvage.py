"""A damaged store: what is sound in it goes on, the rest is counted, and the saving itself loses nothing."""

import contextlib
import sqlite3
from pathlib import Path

import pytest
import structlog

from obt_agent.errors import StorageFailed, StorageFull
from obt_agent.jobs.store import JobStore, salvage
from obt_agent.jobs.store.database import JobDatabase
from obt_agent.jobs.store.rows import FinalText
from tests.job_store import broken
from tests.job_store.doubles import new_job


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite"


def test_what_can_be_read_of_a_damaged_store_goes_on_in_the_new_one(path: Path) -> None:
    store_id = broken.filled(path)
    broken.overwrite(path, broken.page_of(path, "done20"))
    before = path.read_bytes()
    with structlog.testing.capture_logs() as logs:
        db = JobDatabase(path)
    assert db.set_aside is not None
    assert db.set_aside.read_bytes() == before, "what is set aside stays as it was found"
    assert db.store_id != store_id, "the server is told that jobs may be lost"
    saved = {job.job_id for job in db.waiting()}
    assert 20 <= len(saved) < 30
    assert "done20" not in saved
    assert db.salvaged.unreadable > 0
    for job_id in saved:
        final = db.result(job_id)
        assert final is not None
        assert final.text == broken.text_of(job_id)
    (logged,) = [entry for entry in logs if entry["event"] == "store.damaged"]
    assert (logged["results_saved"], logged["unreadable"]) == (len(saved), db.salvaged.unreadable)
    db.close()
    again = JobDatabase(path)
    assert again.set_aside is None
    assert {job.job_id for job in again.waiting()} == saved
    again.close()


def test_open_jobs_and_tombstones_are_saved_with_their_records(path: Path) -> None:
    broken.filled(path)
    broken.overwrite(path, broken.page_of(path, "done20"))
    db = JobDatabase(path)
    assert [job.job_id for job in db.open_jobs()] == ["open0", "open1", "open2"]
    assert db.records("open1") == [b'{"record":%d}' % number for number in range(4)]
    job = db.get("open1")
    assert job is not None
    assert (job.starts, job.params) == (1, b'{"n":1}')
    tombstone = db.get("done0")
    assert tombstone is not None
    assert tombstone.acknowledged, "a late repeat of it must not run"
    db.close()


def test_damage_of_an_index_alone_costs_nothing(path: Path) -> None:
    broken.filled(path, finished=400, opened=0, acknowledged=0)
    with contextlib.closing(sqlite3.connect(path)) as plain, plain:
        sql = "SELECT rootpage FROM sqlite_master WHERE name = 'jobs_waiting'"
        page = plain.execute(sql).fetchone()[0] - 1
    plain.close()
    broken.overwrite(path, page)
    db = JobDatabase(path)
    assert db.set_aside is not None
    assert len(db.waiting()) == db.salvaged.results == 400
    assert db.salvaged.unreadable == 0
    db.close()


def test_a_result_that_is_no_longer_what_was_stored_is_not_saved_as_one(path: Path) -> None:
    broken.filled(path, finished=3, opened=0, acknowledged=0)
    with contextlib.closing(sqlite3.connect(path)) as plain, plain:
        stored = plain.execute("SELECT result FROM jobs WHERE job_id = 'done1'").fetchone()[0]
        changed = stored.replace(b'"pad":"0', b'"pad":"X')
        assert changed != stored
        plain.execute("UPDATE jobs SET result = ? WHERE job_id = 'done1'", (changed,))
        plain.execute("UPDATE jobs SET params = 'not JSON' WHERE job_id = 'done2'")
    plain.close()
    db = JobDatabase(path.with_name("fresh.sqlite"))
    assert salvage.salvage(path, db._db) == salvage.Salvaged(jobs=1, results=1, unreadable=2)  # noqa: SLF001 - where it goes
    assert [job.job_id for job in db.waiting()] == ["done0"]
    db.close()


def test_records_after_the_first_that_is_missing_are_left(path: Path) -> None:
    broken.filled(path, finished=0, acknowledged=0)
    with contextlib.closing(sqlite3.connect(path)) as plain, plain:
        plain.execute("DELETE FROM records WHERE job_id = 'open0' AND n = 2")
        plain.execute("UPDATE records SET body = x'ff' WHERE job_id = 'open1' AND n = 1")
    plain.close()
    db = JobDatabase(path.with_name("fresh.sqlite"))
    salvage.salvage(path, db._db)  # noqa: SLF001 - where it goes
    assert db.records("open0") == [b'{"record":0}', b'{"record":1}']
    assert db.records("open1") == [b'{"record":0}']
    assert len(db.records("open2")) == 4
    db.close()


def test_saving_that_finds_no_room_leaves_the_damaged_store_for_the_next_start(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken.filled(path)
    broken.overwrite(path, broken.page_of(path, "done20"))
    before = path.read_bytes()

    def full(_damaged: Path, into: sqlite3.Connection) -> salvage.Salvaged:
        into.execute("PRAGMA max_page_count = 12")
        return real(_damaged, into)

    real = salvage.salvage
    with monkeypatch.context() as patch:
        patch.setattr(salvage, "salvage", full)
        with pytest.raises(StorageFull):
            JobDatabase(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    db = JobDatabase(path)
    assert db.salvaged.results >= 20
    db.close()


def test_a_failing_disk_does_not_fill_itself_with_damaged_stores(path: Path) -> None:
    broken.filled(path, finished=3, opened=0, acknowledged=0)
    for _ in range(salvage.KEPT + 2):
        broken.overwrite(path, 1)
        JobDatabase(path).close()
    assert len(salvage.set_aside_stores(path)) == salvage.KEPT


async def opened(path: Path) -> JobStore:
    outbox = JobStore(path.parent)
    await outbox.open()
    return outbox


async def test_damage_met_while_running_replaces_the_store_and_the_work_goes_on(path: Path) -> None:
    broken.filled(path)
    outbox = await opened(path)
    store_id = outbox.store_id
    broken.overwrite(path, broken.page_of(path, "done20"))
    broken.connection(outbox).execute("PRAGMA shrink_memory")  # what it remembers of the file
    assert await outbox.finish("open0", "completed", b'{"late":1}')
    while outbox.store_id == store_id:  # the damaged page is met by whatever reads it first
        await outbox.waiting()
    assert outbox.problem is not None
    assert "set aside as jobs.sqlite.damaged-" in outbox.problem
    waiting = {job.job_id for job in await outbox.waiting()}
    assert "open0" in waiting, "what was stored before the damage was met is saved"
    assert await outbox.accept(new_job("new", reserve=0)) is None
    assert await outbox.finish("open1", "completed", b"{}")
    await outbox.close()


async def test_a_store_that_cannot_be_opened_again_is_tried_at_each_call(path: Path) -> None:
    broken.filled(path, finished=3, opened=1, acknowledged=0)
    outbox = await opened(path)
    for page in range(1, 8):
        broken.overwrite(path, page)
    broken.connection(outbox).execute("PRAGMA shrink_memory")
    away = path.parent.rename(path.parent.with_name("away"))
    with pytest.raises(StorageFailed):
        await outbox.waiting()
    with pytest.raises(StorageFailed):
        await outbox.get("open0")
    assert outbox.problem is not None
    away.rename(path.parent)
    assert await outbox.accept(new_job("new", reserve=0)) is None
    await outbox.close()


async def test_the_problem_is_told_while_it_lasts(path: Path) -> None:
    outbox = await opened(path)
    await outbox.accept(new_job("j", reserve=0))
    broken.connection(outbox).execute("PRAGMA query_only = ON")
    with pytest.raises(StorageFailed):
        await outbox.finish("j", "completed", b"{}")
    assert await outbox.get("j") is not None
    assert "read-only" in str(outbox.problem)
    broken.connection(outbox).execute("PRAGMA query_only = OFF")
    assert await outbox.finish("j", "completed", b"{}")
    assert outbox.problem is None
    await outbox.close()


def test_a_final_knows_whether_it_is_whole() -> None:
    final = FinalText.of(b'"' + b"x" * 40_000 + b'"')
    assert final.whole
    for stored in (
        final.stored[:-9],
        b"\x1f\x8b" + b"\0" * 30,
        FinalText.of(b'"' + b"y" * 40_000 + b'"').stored,
    ):
        assert not FinalText(final.size, final.sha256, "gzip", stored).whole
