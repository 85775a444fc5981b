"""Jobs on a store that fails: they are held or end with a typed error, and the agent goes on."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from obt_agent.errors import StorageFailed
from obt_agent.jobs.runner import JobOutcome
from obt_agent.jobs.store import JobStore
from obt_agent.jobs.store.database import JobDatabase
from tests.job_store import broken
from tests.job_store.doubles import ServerSession
from tests.jobs.doubles import Daemon, SteeredRunner, benchmark


class FailingDatabase(JobDatabase):
    """Meets an error of the disk in the methods that are named, until they are named no more."""

    failing: frozenset[str] = frozenset()
    met = 0

    def __getattribute__(self, name: str) -> Any:
        if name in type(self).failing:
            type(self).met += 1
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
            return lambda *args, **named: _fail(error)
        return super().__getattribute__(name)


def _fail(error: Exception) -> None:
    from obt_agent.jobs.store import sqlite_errors  # noqa: PLC0415 - beside what it is for

    with sqlite_errors.translated():
        raise error


@pytest.fixture(autouse=True)
def sound() -> None:
    FailingDatabase.failing = frozenset()
    FailingDatabase.met = 0


@contextlib.asynccontextmanager
async def failing(*methods: str) -> AsyncIterator[None]:
    """While the context lasts; it ends only after the failure was met."""
    FailingDatabase.failing = frozenset(methods)
    try:
        yield
    finally:
        FailingDatabase.failing = frozenset()


async def met(times: int = 1) -> None:
    async with asyncio.timeout(20):
        while FailingDatabase.met < times:  # noqa: ASYNC110 - counted in the store's thread
            await asyncio.sleep(0.001)


def daemon(folder: Path, runner: Any = None) -> Daemon:
    made = Daemon(folder, runner)
    made.outbox = JobStore(folder, database=FailingDatabase)
    return made


async def test_a_final_waits_for_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    async with daemon(tmp_path) as here:
        await here.jobs.start_benchmark(benchmark())
        run = await here.runner.run_number(1)
        async with failing("finish"):
            run.end()
            await met(4)
            assert await here.state("j") == "running"
            assert "disk I/O error" in str(here.jobs.store.problem)
        assert await here.until("j", "completed") == "completed"
        assert here.jobs.store.problem is None


async def test_a_queue_that_cannot_be_read_is_held_and_goes_on(tmp_path: Path) -> None:
    async with daemon(tmp_path) as first:
        await first.jobs.start_benchmark(benchmark())
        await first.runner.run_number(1)
    async with daemon(tmp_path) as here:
        async with failing("open_jobs", "get", "records"):
            await met(2)
        (await here.runner.run_number(1)).end()
        assert await here.until("j", "completed") == "completed"


async def test_a_job_whose_start_cannot_be_noted_ends_with_a_typed_error(tmp_path: Path) -> None:
    async with daemon(tmp_path) as here:
        async with failing("start"):
            await here.jobs.start_benchmark(benchmark())
            assert await here.until("j", "failed") == "failed"
        job = await here.outbox.get("j")
        assert job is not None
        assert job.error is not None
        assert job.error.data is not None
        assert (job.error.code, job.error.data.kind) == (-32015, "storage_failed")


async def test_a_start_that_cannot_be_stored_is_refused_and_its_repeat_runs(tmp_path: Path) -> None:
    async with daemon(tmp_path) as here:
        async with failing("accept"):
            with pytest.raises(StorageFailed, match="look at the disk"):
                await here.jobs.start_benchmark(benchmark())
        assert await here.outbox.get("j") is None
        await here.jobs.start_benchmark(benchmark())
        (await here.runner.run_number(1)).end()
        assert await here.until("j", "completed")


async def test_a_start_that_is_stored_runs_whatever_fails_after_it(tmp_path: Path) -> None:
    """Neither a count that cannot be made, nor a state that cannot be noted, may strand it in the store."""
    async with daemon(tmp_path) as here:
        async with failing("unsettled", "queue"):
            assert (await here.jobs.start_benchmark(benchmark())).state == "accepted"
            run = await here.runner.run_number(1)
        run.end()
        assert await here.until("j", "completed")


async def test_an_upload_goes_on_when_the_store_can_be_read_again(tmp_path: Path) -> None:
    async with daemon(tmp_path) as here:
        await here.jobs.start_benchmark(benchmark())
        (await here.runner.run_number(1)).end()
        await here.until("j", "completed")
        peer = ServerSession()
        async with failing("waiting", "expire"):
            serving = asyncio.create_task(here.jobs.report(peer, 1_000.0))
            await met(2)
        assert await here.jobs.uploader.drain(20)
        assert peer.finals == ["j"]
        peer.alive = False
        await serving


async def test_what_the_server_has_is_told_again_until_its_acknowledgement_is_stored(tmp_path: Path) -> None:
    async with daemon(tmp_path) as here:
        await here.jobs.start_benchmark(benchmark())
        (await here.runner.run_number(1)).end()
        await here.until("j", "completed")
        peer = ServerSession()
        async with failing("acknowledge", "failed_upload"):
            serving = asyncio.create_task(here.jobs.report(peer, 1_000.0))
            await met(3)
            assert here.jobs.store.counts.finished_unacknowledged == 1
        assert await here.jobs.uploader.drain(20)
        assert len(peer.finals) > 1
        assert list(peer.results) == ["j"]
        peer.alive = False
        await serving


async def test_a_result_that_decayed_in_the_store_is_not_sent_as_one(tmp_path: Path) -> None:
    async with daemon(tmp_path) as here:
        await here.jobs.start_benchmark(benchmark())
        (await here.runner.run_number(1)).end()
        await here.until("j", "completed")
        with contextlib.closing(sqlite3.connect(tmp_path / "jobs.sqlite")) as other:
            other.execute("UPDATE jobs SET result = x'7b7d'")
            other.commit()
        peer = ServerSession()
        serving = asyncio.create_task(here.jobs.report(peer, 1_000.0))
        async with asyncio.timeout(20):
            while not ((job := await here.outbox.get("j")) and job.attempts):
                await here.outbox.wait_changed(here.outbox.generation - 1)
        assert peer.calls == []
        peer.alive = False
        await serving


async def test_the_result_of_a_job_that_a_damaged_store_took_along_is_stored_all_the_same(
    tmp_path: Path,
) -> None:
    async with daemon(tmp_path) as here:
        await here.jobs.start_benchmark(benchmark())
        run = await here.runner.run_number(1)
        broken.connection(here.outbox).execute("DELETE FROM jobs")
        run.end()
        async with asyncio.timeout(20):
            while not here.jobs.store.counts.finished_unacknowledged:
                await here.outbox.wait_changed(here.outbox.generation)
        peer = ServerSession()
        serving = asyncio.create_task(here.jobs.report(peer, 1_000.0))
        assert await here.jobs.uploader.drain(20)
        assert list(peer.results) == ["j"]
        peer.alive = False
        await serving


class NoEnding(SteeredRunner):
    def ending(self, *args: Any) -> JobOutcome:
        if self.runs:
            raise ValueError("parameters that nobody can read")
        return super().ending(*args)


async def test_a_job_of_which_no_result_can_be_made_fails_and_the_next_one_runs(tmp_path: Path) -> None:
    runner = NoEnding()
    async with daemon(tmp_path, runner) as here:
        await here.jobs.start_benchmark(benchmark())
        with structlog.testing.capture_logs() as logs:
            (await runner.run_number(1)).end(ValueError("a fault"))
            assert await here.until("j", "failed") == "failed"
        assert "job.result_failed" in [entry["event"] for entry in logs]
        final = await here.outbox.result("j")
        assert final is not None
        assert msgspec.json.decode(final.text)["status"] == "failed"
        runner.runs.clear()
        await here.jobs.start_benchmark(benchmark("k"))
        (await runner.run_number(1)).end()
        assert await here.until("k", "completed")
