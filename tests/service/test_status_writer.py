"""When the daemon writes its status: when it says something else, and now and then though it does not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from obt_agent.config.schema import Config, OllamaConfig, ServerConfig
from obt_agent.daemon import status_writer
from obt_agent.daemon.components import Components, build
from obt_agent.daemon.status_file import STATUS_FILE, Status
from obt_agent.daemon.status_writer import StatusWriter
from obt_agent.identity.secret import Secret
from obt_agent.identity.state_dir import StateDir
from obt_agent.jobs.store import NewJob
from obt_agent.link.connection import LinkStatus
from obt_agent.protocol.jobs import JobSummary
from obt_agent.sdnotify import Notifier
from tests.waiting import until


class CountingWriter(StatusWriter):
    """Counts its looks at the agent."""

    looks = 0

    def status(self, *args: Any) -> Status:
        self.looks += 1
        return super().status(*args)


CONFIG = Config(
    # Nothing dials either: the link and the catalogue do not run.
    server=ServerConfig(url="ws://127.0.0.1:9/x"),
    ollama=OllamaConfig(url="http://127.0.0.1:9"),
)


@asynccontextmanager
async def writing(folder: Path) -> AsyncIterator[tuple[CountingWriter, Components, Path]]:
    """A writer at work on an agent of which nothing else runs."""
    with StateDir.open(folder) as state:
        async with AsyncExitStack() as stack:
            components = await build(stack, CONFIG, state, Secret("s"), gpus=())
            writer = CountingWriter(components, CONFIG, state, Notifier({}))
            task = asyncio.create_task(writer.run())
            try:
                await until((state.path / STATUS_FILE).exists)
                yield writer, components, state.path / STATUS_FILE
            finally:
                task.cancel()
                await asyncio.wait([task])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_writer, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(status_writer, "AT_MOST_EVERY_S", 0.0)


async def test_a_status_that_says_nothing_new_is_left_as_it_stands(tmp_path: Path) -> None:
    async with writing(tmp_path / "state") as (writer, components, file):
        written, looks = file.stat().st_mtime_ns, writer.looks
        await until(lambda: writer.looks >= looks + 5)
        assert file.stat().st_mtime_ns == written
        components.link.status = LinkStatus("waiting", problem="nobody there")
        await until(lambda: b"nobody there" in file.read_bytes())


async def test_it_is_written_now_and_then_though_nothing_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_writer, "AT_LEAST_EVERY_S", 0.05)
    async with writing(tmp_path / "state") as (_, _, file):
        written = msgspec.json.decode(file.read_bytes(), type=Status).written_at
        await until(lambda: msgspec.json.decode(file.read_bytes(), type=Status).written_at > written)


async def test_jobs_are_asked_of_the_store_when_they_may_be_others(tmp_path: Path) -> None:
    async with writing(tmp_path / "state") as (writer, components, file):
        asked = 0
        unsettled = components.jobs.unsettled

        async def counting() -> tuple[JobSummary, ...]:
            nonlocal asked
            asked += 1
            return await unsettled()

        components.jobs.unsettled = counting  # type: ignore[method-assign]  # only to count
        looks = writer.looks
        await until(lambda: writer.looks >= looks + 5)
        assert asked == 0
        job = NewJob("j", "pull", "m", b"{}", fingerprint="f", not_after=None, reserve_bytes=1)
        await components.jobs.store.accept(job)
        await until(lambda: b'"j"' in file.read_bytes())
        assert asked
