"""The server as a process of its own."""

import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

STARTED = re.compile(r"obt-server \S+ at (\S+)/")


@dataclass
class ServerProcess:
    """A running ``obt-server run``."""

    process: asyncio.subprocess.Process
    url: str
    output: str
    """What it printed until it listened."""
    later: list[str] = field(default_factory=list)
    """Lines that it printed afterwards."""

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    async def kill(self) -> None:
        self.process.kill()
        await self.ended()

    async def ended(self) -> int:
        async with asyncio.timeout(120):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def server_process(
    database: Path | str,
    *arguments: str,
    before: tuple[str, ...] = (),
    module: tuple[str, ...] = ("obt_server",),
) -> AsyncIterator[ServerProcess]:
    """Start one (by the command ``before``, as ``module``) and wait until it listens; stopped at the end."""
    process = await asyncio.create_subprocess_exec(
        *before,
        sys.executable,
        "-m",
        *module,
        "run",
        "--database",
        str(database),
        "--port",
        "0",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    output = ""
    drain: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(300):
            while not (found := STARTED.search(output)):
                line = await process.stdout.readline()
                assert line, output
                output += line.decode()
        server = ServerProcess(process, found.group(1), output)
        drain = asyncio.create_task(_keep(process.stdout, server.later), name="server's output")
        yield server
    finally:
        await stop(process)
        if drain is not None:
            await drain


async def _keep(output: asyncio.StreamReader, lines: list[str]) -> None:
    while line := await output.readline():
        lines.append(line.decode(errors="replace"))


async def stop(process: asyncio.subprocess.Process) -> None:
    """Ask it to stop in order; kill it when it does not."""
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(120):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
