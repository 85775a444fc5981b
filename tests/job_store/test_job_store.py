"""The store's coroutines: acceptance, reservations, quota, a full disk, damage, waiting for changes."""

import asyncio
import contextlib
import errno
import os
import resource
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from obt_agent.config.schema import StorageConfig
from obt_agent.errors import JobConflict, StorageFailed, StorageFull
from obt_agent.jobs.store import JobStore
from obt_agent.jobs.store.database import JobDatabase
from obt_agent.jobs.store.reserved_space import ReservedFile
from obt_agent.jobs.store.rows import FinalText
from tests.job_store.doubles import new_job


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[JobStore]:
    box = JobStore(tmp_path)
    await box.open()
    yield box
    await box.close()


async def test_a_new_job_is_stored_before_it_is_answered(outbox: JobStore, tmp_path: Path) -> None:
    assert await outbox.accept(new_job()) is None
    another = JobDatabase(tmp_path / "jobs.sqlite")
    assert another.get("j") is not None
    another.close()
    assert outbox.counts.open == 1


async def test_the_files_are_the_agents_alone(outbox: JobStore, tmp_path: Path) -> None:
    await outbox.accept(new_job())
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name


async def test_a_repeat_gives_the_stored_state_and_other_parameters_conflict(outbox: JobStore) -> None:
    await outbox.accept(new_job())
    await outbox.start("j")
    again = await outbox.accept(new_job())
    assert again is not None
    assert again.state == "running"
    with pytest.raises(JobConflict):
        await outbox.accept(new_job(params=b'{"other":1}'))


async def test_a_repeat_of_an_acknowledged_job_gives_its_tombstone(outbox: JobStore) -> None:
    await outbox.accept(new_job())
    await outbox.finish("j", "completed", b"{}")
    assert await outbox.acknowledge("j", FinalText.of(b"{}").sha256, None)
    again = await outbox.accept(new_job())
    assert again is not None
    assert (again.state, again.acknowledged) == ("completed", True)
    assert outbox.counts.open == outbox.waiting_counts.entries == 0


async def test_a_job_cancelled_before_it_was_started_ends_so_with_a_final(outbox: JobStore) -> None:
    assert await outbox.cancel("j") is None
    assert await outbox.cancel("j") is None
    mark = await outbox.accept(new_job())
    assert mark is not None
    assert mark.kind is None
    job = await outbox.accept_cancelled(new_job(), b'{"status":"cancelled"}')
    assert job.state == "cancelled"
    again = await outbox.accept_cancelled(new_job(), b'{"status":"cancelled","later":true}')
    assert again == job
    final = await outbox.result("j")
    assert final is not None
    assert final.text == b'{"status":"cancelled"}'
    assert outbox.waiting_counts.entries == 1


async def test_cancel_gives_the_job_that_is_there(outbox: JobStore) -> None:
    await outbox.accept(new_job())
    job = await outbox.cancel("j")
    assert job is not None
    assert job.state == "accepted"


async def test_disk_for_the_result_is_held_until_the_job_ends(outbox: JobStore, tmp_path: Path) -> None:
    await outbox.accept(new_job("a", reserve=300_000))
    await outbox.accept(new_job("b", reserve=100_000))
    reserved = tmp_path / "jobs.reserve"
    assert reserved.stat().st_size == 400_000
    assert reserved.stat().st_blocks * 512 >= 400_000, "real blocks, no hole"
    await outbox.finish("a", "completed", b"{}")
    assert reserved.stat().st_size == 100_000
    await outbox.finish("b", "completed", b"{}")
    assert not reserved.exists()


async def test_reservations_are_there_again_after_a_restart(tmp_path: Path) -> None:
    first = JobStore(tmp_path)
    await first.open()
    await first.accept(new_job(reserve=50_000))
    await first.close()
    (tmp_path / "jobs.reserve").unlink()
    second = JobStore(tmp_path)
    await second.open()
    assert (tmp_path / "jobs.reserve").stat().st_size == 50_000
    assert second.store_id == first.store_id
    await second.close()


async def test_a_job_over_the_quota_is_refused_and_the_key_is_named(tmp_path: Path) -> None:
    box = JobStore(tmp_path, StorageConfig(quota_bytes=1 << 20))
    await box.open()
    await box.accept(new_job("a", reserve=900_000))
    with pytest.raises(StorageFull) as refused:
        await box.accept(new_job("b", reserve=900_000))
    assert refused.value.detail["policy_key"] == "storage.quota_bytes"
    assert await box.get("b") is None
    assert (tmp_path / "jobs.reserve").stat().st_size == 900_000
    await box.finish("a", "completed", b"{}")
    assert await box.accept(new_job("b", reserve=900_000)) is None
    await box.close()


async def test_results_that_nobody_acknowledges_fill_the_quota_and_stay(tmp_path: Path) -> None:
    box = JobStore(tmp_path, StorageConfig(quota_bytes=1 << 20))
    await box.open()
    stored = 0
    with contextlib.suppress(StorageFull):
        for number in range(100):
            await box.accept(new_job(f"j{number}", reserve=60_000))
            await box.finish(f"j{number}", "completed", os.urandom(30_000).hex().encode())
            stored += 1
    assert 10 < stored < 100
    assert box.waiting_counts.entries == stored
    assert (tmp_path / "jobs.sqlite").stat().st_size < 1 << 20
    await box.close()


async def test_a_disk_without_room_refuses_the_job_and_keeps_what_was_held(
    outbox: JobStore, tmp_path: Path
) -> None:
    await outbox.accept(new_job("a", reserve=10_000))
    room = os.statvfs(tmp_path)
    box = JobStore(tmp_path, StorageConfig(quota_bytes=1 << 62))
    await box.open()
    with pytest.raises(StorageFull, match="no room"):
        await box.accept(new_job("b", reserve=room.f_bavail * room.f_frsize * 4))
    assert (tmp_path / "jobs.reserve").stat().st_size == 10_000
    assert await box.get("b") is None
    await box.close()


class FullDatabase(JobDatabase):
    """Finds the disk full as often as told."""

    full = 0

    def _maybe_full(self) -> None:
        if self.full:
            self.full -= 1
            raise StorageFull("database or disk is full")

    def finish(self, *args: Any, **named: Any) -> bool:
        self._maybe_full()
        return super().finish(*args, **named)

    def add_record(self, *args: Any, **named: Any) -> None:
        self._maybe_full()
        super().add_record(*args, **named)

    def accept(self, *args: Any, **named: Any) -> None:
        self._maybe_full()
        super().accept(*args, **named)


async def test_the_reservation_is_given_up_for_records_and_finals_when_the_disk_fills(tmp_path: Path) -> None:
    made: list[FullDatabase] = []

    def make(path: Path) -> FullDatabase:
        made.append(FullDatabase(path))
        return made[0]

    box = JobStore(tmp_path, database=make)
    await box.open()
    await box.accept(new_job("a", reserve=100_000))
    await box.accept(new_job("b", reserve=100_000))
    made[0].full = 1
    await box.add_record("a", b"measured")
    assert await box.records("a") == [b"measured"]
    assert (tmp_path / "jobs.reserve").stat().st_size == 100_000
    made[0].full = 1
    assert await box.finish("a", "completed", b"{}")
    assert not (tmp_path / "jobs.reserve").exists()
    made[0].full = 2
    with pytest.raises(StorageFull):
        await box.finish("b", "completed", b"{}")
    assert await box.finish("b", "completed", b"{}")
    made[0].full = 1
    with pytest.raises(StorageFull):
        await box.accept(new_job("c", reserve=100_000))
    assert not (tmp_path / "jobs.reserve").exists()
    await box.close()


async def test_a_reservation_that_cannot_be_made_again_is_said(tmp_path: Path) -> None:
    first = JobStore(tmp_path)
    await first.open()
    await first.accept(new_job(reserve=5000))
    await first.close()
    (tmp_path / "jobs.reserve").unlink()
    with structlog.testing.capture_logs() as logs:
        second = JobStore(tmp_path)
        second._reserved = _NoRoom(tmp_path / "x")  # noqa: SLF001 - stands for a disk that filled meanwhile
        await second.open()
    assert "store.reservation_failed" in [entry["event"] for entry in logs]
    assert second.counts.open == 1
    await second.close()


class _NoRoom(ReservedFile):
    def resize(self, size: int) -> None:
        raise StorageFull("no room")


async def test_a_damaged_store_is_said_and_has_a_new_id(tmp_path: Path) -> None:
    (tmp_path / "jobs.sqlite").write_bytes(b"no database" * 1000)
    with structlog.testing.capture_logs() as logs:
        box = JobStore(tmp_path)
        await box.open()
    (logged,) = [entry for entry in logs if entry["event"] == "store.damaged"]
    assert logged["log_level"] == "error"
    assert logged["set_aside"].startswith("jobs.sqlite.damaged-")
    assert box.store_id
    await box.close()


async def test_old_results_are_named_once_a_day_and_kept(tmp_path: Path) -> None:
    clock = Clock()
    box = JobStore(tmp_path, StorageConfig(max_age_days=1), clock=clock)
    await box.open()
    await box.accept(new_job())
    await box.finish("j", "completed", b"{}")
    clock.now += 3 * 86_400
    with structlog.testing.capture_logs() as logs:
        await box.expire(clock.now)
        await box.expire(clock.now)
    assert [entry["event"] for entry in logs] == ["store.old_results"]
    assert box.waiting_counts.entries == 1
    await box.close()


async def test_expired_tombstones_are_counted_in_the_log(tmp_path: Path) -> None:
    clock = Clock()
    outbox = JobStore(tmp_path, clock=clock)
    await outbox.open()
    await outbox.accept(new_job())
    await outbox.finish("j", "completed", b"{}")
    await outbox.acknowledge("j", FinalText.of(b"{}").sha256, 0.0)
    await outbox.expire(1.0)
    clock.now += 91 * 86_400.0
    with structlog.testing.capture_logs() as logs:
        await outbox.expire(91 * 86_400.0)
    assert {"event": "store.expired", "tombstones": 1, "log_level": "info"} in logs
    assert await outbox.get("j") is None
    await outbox.close()


async def test_every_change_wakes_who_waits_for_it(outbox: JobStore) -> None:
    before = outbox.generation
    waiting = asyncio.create_task(outbox.wait_changed(before))
    await asyncio.sleep(0)
    await outbox.accept(new_job())
    assert await waiting > before


async def test_a_call_that_nobody_waits_for_is_still_made(outbox: JobStore) -> None:
    task = asyncio.create_task(outbox.accept(new_job()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await outbox.get("j") is not None


async def test_a_store_that_was_never_opened_closes(tmp_path: Path) -> None:
    await JobStore(tmp_path).close()


def test_a_reserved_that_the_disk_refuses_holds_what_it_held(tmp_path: Path) -> None:
    reserved = ReservedFile(tmp_path / "reserved")
    reserved.resize(10_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(StorageFull, match="no room"):
            reserved.resize(100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert reserved.size == 10_000


def test_a_reserved_on_a_broken_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(os, "posix_fallocate", broken)
    with pytest.raises(StorageFailed, match="broken"):
        ReservedFile(tmp_path / "reserved").resize(10)


async def test_a_store_that_hangs_does_not_hold_the_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obt_agent.jobs.store.job_store.CLOSE_WITHIN_S", 0.01)
    box = JobStore(tmp_path)
    await box.open()
    release = threading.Event()
    hung = asyncio.create_task(box._thread.call(release.wait))  # noqa: SLF001 - stands for a disk that hangs
    await asyncio.sleep(0)
    with structlog.testing.capture_logs() as logs:
        await box.close()
    assert [entry["event"] for entry in logs] == ["store.close_timed_out"]
    release.set()
    await hung
