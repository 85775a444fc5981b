"""The whole agent on what macOS and Windows have: what ``lacking`` says it shows, and no more."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from obt_standin import StandIn
from tests.end_to_end.world import World, world
from tests.waiting import until

pytestmark = pytest.mark.slow

COMMANDS = ("import", "models", "bench", "enroll", "run", "check", "status")


@pytest.fixture
async def here(tmp_path: Path, standin: StandIn) -> AsyncIterator[World]:
    async with world(tmp_path, standin.url) as made:
        yield made


@pytest.mark.parametrize("system", ["darwin", "win32"])
async def test_every_module_imports_and_the_commands_work_without_what_that_system_lacks(
    system: str, here: World, tmp_path: Path
) -> None:
    folder = tmp_path / "child"
    folder.mkdir()
    token = (await here.client.post("/join-tokens", {}))["secret"]
    log = tmp_path / "log"
    with log.open("wb") as err:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.platforms.child", system, str(folder), here.url, here.ollama_url),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=err,
            env={
                name: value for name, value in os.environ.items() if not name.startswith(("OBT_", "OLLAMA"))
            },
        )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(token.encode() + b"\n")
    child.stdin.close()
    reading = asyncio.create_task(child.stdout.read())

    async def admitted() -> bool:
        views = await here.views()
        return child.returncode is not None or any(
            view["presence"] == "online" and view["model_count"] for view in views
        )

    try:
        await until(admitted, log.read_text, within_s=300)
    finally:
        if child.returncode is None:
            child.send_signal(signal.SIGTERM)
    output = (await reading).decode()
    await child.wait()
    steps = [json.loads(line) for line in output.splitlines()]
    for step in steps:
        print(f"{system:<8} {step['what']:<8} {'works' if step['ok'] else 'FAILS'}  {step['words']}")  # noqa: T201 - the list of what runs, for whoever looks at the run
    assert [step["what"] for step in steps if step["ok"]] == list(COMMANDS), f"{output}\n{log.read_text()}"
