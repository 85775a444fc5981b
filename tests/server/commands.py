"""Commands of ``obt-server`` as programs of their own, which ask a server of the tests."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any, NamedTuple

from tests.server.conftest import Running


class Ended(NamedTuple):
    """How a program ended."""

    status: int
    output: str
    errors: str


async def started(server: Running, *words: str, token: str | None = None) -> asyncio.subprocess.Process:
    """Start ``obt-server`` with these arguments; the token is in the environment, unless there is none."""
    bearer = server.http.headers["Authorization"].removeprefix("Bearer ")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OBT_")},
        "OBT_SERVER_URL": server.url,
        "OBT_SERVER_TOKEN": bearer if token is None else token,
    }
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "obt_server", *words),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process) -> Ended:
    """Wait for its end."""
    async with asyncio.timeout(120):
        output, errors = await process.communicate()
    return Ended(process.returncode or 0, output.decode(), errors.decode())


async def obt(server: Running, *words: str, token: str | None = None) -> Ended:
    """Run ``obt-server`` with these arguments to its end."""
    return await ended(await started(server, *words, token=token))


async def answer(server: Running, *words: str) -> Any:
    """What a command prints with ``--json``."""
    done = await obt(server, *words, "--json")
    assert done.status == 0, done
    return json.loads(done.output)
