"""SIGKILL at every commit of a job's life: the next process goes on, and the server has exactly one final."""

import asyncio
import signal
import sys
from pathlib import Path

import msgspec
import pytest

from obt_agent.jobs.store.database import JobDatabase
from tests.jobs import one_process

COMMITS = 10
"""Store id, tombstones expired, accepted, queued, running, three records, final, acknowledged."""


async def life(folder: Path, crash_at: int) -> int | None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.jobs.one_process",
        str(folder),
        str(crash_at),
        stdout=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(90):
        return await process.wait()


def finals(folder: Path) -> list[tuple[str, str]]:
    lines = (folder / one_process.LOG).read_text().splitlines()
    return [msgspec.json.decode(line, type=tuple[str, str]) for line in lines]


@pytest.mark.parametrize("crash_at", range(1, COMMITS + 1))
async def test_killed_before_any_commit_the_job_still_ends_in_one_final(
    tmp_path: Path, crash_at: int
) -> None:
    assert await life(tmp_path, crash_at) == -signal.SIGKILL, f"commit {crash_at} never came"
    await one_process.live(tmp_path)
    ((job_id, text),) = finals(tmp_path)
    assert job_id == "j"
    assert msgspec.json.decode(text)["records"] == ["0", "1", "2"], "nothing measured is lost or doubled"
    db = JobDatabase(tmp_path / "jobs.sqlite")
    assert db.unsettled() == []
    db.close()


async def test_a_life_that_dies_again_and_again_comes_to_its_one_final(tmp_path: Path) -> None:
    deaths = 0
    for crash_at in (3, 2, 3, 2, 2):
        deaths += await life(tmp_path, crash_at) == -signal.SIGKILL
    assert deaths >= 4
    await one_process.live(tmp_path)
    assert len(finals(tmp_path)) == 1
