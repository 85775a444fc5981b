"""What open pages hear of rollouts."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.rollouts.machines import QUICK, SIZE, begin, connected, machines, until_over
from tests.server.conftest import Running, running
from tests.waiting import until


@contextlib.asynccontextmanager
async def listening(server: Running) -> AsyncIterator[asyncio.Queue[tuple[str, dict[str, Any]]]]:
    """Events of ``/events`` as they come."""
    heard: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()

    async def read() -> None:
        async with server.http.stream("GET", "/api/v1/events") as answer:
            name = ""
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    heard.put_nowait((name, json.loads(line.removeprefix("data: "))))

    task = asyncio.create_task(read(), name="reader of news")
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until_heard(
    heard: asyncio.Queue[tuple[str, dict[str, Any]]], name: str, **fields: Any
) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while True:
            event, data = await heard.get()
            if event == name and all(data.get(key) == value for key, value in fields.items()):
                return data


async def test_a_page_hears_of_a_rollout_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    async with running(tmp_path, rollouts=QUICK) as server:
        some = await machines(server, 2, at_once=False)
        async with connected(server, some), listening(server) as heard:
            await until_heard(heard, "current")
            rollout = await begin(server, parallelism=1)
            first = await until_heard(heard, "rollout", id=rollout["id"])
            assert first["state"] == "running"
            assert "create" not in first
            async with asyncio.timeout(30):
                while not some[0].jobs:
                    await until_heard(heard, "rollout", id=rollout["id"])
            await some[0].say_progress(phase="pulling", completed_bytes=10, total_bytes=SIZE)
            moved = await until_heard(heard, "rollout", completed_bytes=10)
            assert [target["agent_name"] for target in moved["targets"]] == ["m0"]
            await some[0].finish_pull()
            async with asyncio.timeout(30):
                while not some[1].jobs:
                    await until_heard(heard, "rollout", id=rollout["id"])
            await some[1].finish_pull()
            over = await until_heard(heard, "rollout", state="done")
            assert over["counts"]["done"] == 2

            async def forgotten() -> bool:
                answer = await server.http.delete(f"/api/v1/rollouts/{rollout['id']}")
                return answer.status_code == 204

            await until(forgotten)
            assert await until_heard(heard, "rollout_gone") == {"id": rollout["id"]}


async def test_a_page_that_comes_later_begins_with_what_runs(tmp_path: Path) -> None:
    async with running(tmp_path, rollouts=QUICK) as server:
        some = await machines(server, 1, at_once=False)
        async with connected(server, some):
            rollout = await begin(server)
            async with listening(server) as heard:
                found = await until_heard(heard, "rollout", id=rollout["id"])
                await until_heard(heard, "current")
            assert (found["state"], found["targets"]) == ("running", [])
            await until(lambda: some[0].jobs)
            await some[0].finish_pull()
            await until_over(server, rollout["id"])
