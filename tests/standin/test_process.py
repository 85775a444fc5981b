"""The stand-in as a process of its own, and its control over HTTP."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from obt_standin import StandIn
from obt_standin.script import Model, Script


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A process that listens, and its URL."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "obt_standin", *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(60):
            assert started.stdout is not None
            yield started, json.loads(await started.stdout.readline())["url"]
    finally:
        if started.returncode is None:
            started.send_signal(signal.SIGTERM)
            await started.wait()


async def get(url: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.json()


async def post(url: str, fields: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(url, data=json.dumps(fields)) as response:
        return response.status, json.loads((await response.read()).splitlines()[-1])


async def run(*arguments: str) -> tuple[int, str]:
    """The exit status and the words of a process that cannot run."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "obt_standin", *arguments, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        _, output = await started.communicate()
    assert started.returncode is not None
    return started.returncode, output.decode()


async def test_a_process_says_where_it_listens_does_as_scripted_and_ends_on_sigterm(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text('{"version": "1.2.3-standin", "tokens": 3, "models": [{"name": "m:1"}]}')
    async with process("--script", str(script)) as (started, url):
        assert await get(f"{url}/api/version") == {"version": "1.2.3-standin"}
        _, final = await post(f"{url}/api/generate", {"model": "m:1", "prompt": "Hi"})
        assert final["eval_count"] == 4
        status, changed = await post(f"{url}/_standin/script", {"tokens": 1, "models": [{"name": "n:1"}]})
        assert (status, changed["tokens"]) == (200, 1)
        assert [model["name"] for model in (await get(f"{url}/api/tags"))["models"]] == ["n:1"]
        log = await get(f"{url}/_standin/log")
        assert [entry["path"] for entry in log] == ["/api/version", "/api/generate", "/api/tags"]
        assert len(log[1]["writes"]) == 4
        started.send_signal(signal.SIGTERM)
        assert await started.wait() == 0


@pytest.mark.slow
async def test_a_script_with_an_unknown_or_wrong_field_is_refused_by_name(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    for text, word in (
        ('{"decode_tsp": 5}', "decode_tsp"),
        ('{"decode_tps": "x"}', "decode_tps"),
        ("{", "truncated"),
    ):
        script.write_text(text)
        status, output = await run("--script", str(script))
        assert status == 2
        assert word in output


async def test_a_port_that_is_taken_is_reported() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        status, output = await run("--port", str(taken.getsockname()[1]))
    assert status == 2
    assert "in use" in output


async def test_a_controlled_stand_in_refuses_nonsense_and_kills_runners() -> None:
    async with StandIn(control=True) as standin:
        status, error = await post(f"{standin.url}/_standin/script", {"tokens": "many"})
        assert status == 400
        assert "tokens" in error["error"]
        assert (await get(f"{standin.url}/_standin/script"))["tokens"] == 64
        await post(f"{standin.url}/api/generate", {"model": "standin-small", "prompt": "Hi"})
        assert await post(f"{standin.url}/_standin/kill-runner", {}) == (200, {})
        assert standin.runners.loaded()[0].killed.is_set()


async def test_without_control_its_paths_are_as_unknown_as_ollamas(standin: StandIn) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{standin.url}/_standin/log") as response:
        assert response.status == 404
        assert await response.text() == "404 page not found"


async def test_several_scripts_are_several_stand_ins_in_one_process(tmp_path: Path) -> None:
    arguments = []
    for name in ("one", "two"):
        script = tmp_path / f"{name}.json"
        script.write_text(json.dumps({"models": [{"name": f"{name}:1"}]}))
        arguments += ["--script", str(script)]
    async with process(*arguments) as (started, first):
        assert started.stdout is not None
        second = json.loads(await started.stdout.readline())["url"]
        for url, name in ((first, "one:1"), (second, "two:1")):
            assert [model["name"] for model in (await get(f"{url}/api/tags"))["models"]] == [name]
    status, said = await run("--port", "11999", *arguments)
    assert status == 2
    assert "a port of its own" in said


async def test_the_load_is_told_to_who_asks() -> None:
    model = Model(name="m:1", size=1 << 30, vram_ratio=1.0)
    async with StandIn(Script(models=[model], decode_tps=10, tokens=100), control=True) as standin:
        assert await get(f"{standin.url}/_standin/load") == {"generating": 0, "size_vram": 0}
        body = json.dumps({"model": "m:1", "prompt": "Hi"})
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{standin.url}/api/generate", data=body) as answer,
        ):
            await answer.content.readline()
            busy = await get(f"{standin.url}/_standin/load")
        await standin.wait_for(lambda one: one.open_streams == 0)
        idle = await get(f"{standin.url}/_standin/load")
    assert busy["generating"] == 1
    assert busy["size_vram"] > 1 << 30
    assert idle["generating"] == 0


async def test_with_a_spread_no_two_generations_are_equally_fast() -> None:
    script = Script(prefill_tps=10_000, spread=0.5, tokens=1, prompt_cache=False)
    async with StandIn(script) as standin:
        took = set()
        for _ in range(4):
            _, final = await post(
                f"{standin.url}/api/generate", {"model": "standin-small", "prompt": "a " * 60}
            )
            took.add(final["prompt_eval_duration"])
    assert len(took) == 4
