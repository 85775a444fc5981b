"""Programs that a scenario measures: started, watched from outside, ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import yaml

from obt_standin import Script

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
ENDS_WITHIN_S = 30.0
LISTENS_WITHIN_S = 600.0
LEFT_OUT = ("OBT_", "OLLAMA", "PYTHONDONTWRITEBYTECODE")
"""Beginnings of the variables that programs do not get. Installed programs are compiled, and so are these."""
NO_UVLOOP = (
    "import sys; sys.modules['uvloop'] = None; from obt_agent.cli import main; sys.exit(main(sys.argv[1:]))"
)
"""Runs the agent as if uvloop were not installed."""


@dataclass(frozen=True)
class Program:
    """One running process."""

    process: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def cpu_s(self) -> float:
        """User and system CPU seconds so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def rss_bytes(self) -> int:
        """Resident bytes now."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE_BYTES


@contextlib.asynccontextmanager
async def running(
    command: Sequence[str], *, quiet: bool = True, code: Path | None = None, log: Path | None = None
) -> AsyncIterator[Program]:
    """Run a program while the context lasts; its standard output is a pipe unless ``quiet``.

    ``code``: the checkout whose packages it imports; that of this file where none is named. ``log``: where
    its errors go; else they are shown.
    """
    out = asyncio.subprocess.DEVNULL if quiet else asyncio.subprocess.PIPE
    environ = {name: value for name, value in os.environ.items() if not name.startswith(LEFT_OUT)}
    if code is not None:
        environ["PYTHONPATH"] = str(code)
    with contextlib.nullcontext() if log is None else log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=errors, env=environ, cwd=code
        )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(ENDS_WITHIN_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


def end_on_sigterm() -> None:
    """Have SIGTERM end what runs as Ctrl-C does: programs that were started are ended, too."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


async def listening(port: int) -> None:
    """Wait until a server listens there."""
    async with asyncio.timeout(LISTENS_WITHIN_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return


@contextlib.asynccontextmanager
async def standin(folder: Path, **script: object) -> AsyncIterator[str]:
    """The stand-in for Ollama as a process of its own; gives its URL."""
    path = folder / "script.json"
    path.write_text(json.dumps(script))
    command = [sys.executable, "-m", "obt_standin", "--port", "0", "--script", str(path)]
    async with running(command, quiet=False) as program:
        assert program.process.stdout is not None
        yield json.loads(await program.process.stdout.readline())["url"]


@contextlib.asynccontextmanager
async def agent(
    folder: Path,
    *,
    server: str,
    ollama: str,
    uvloop: bool = True,
    code: Path | None = None,
    prelude: str = "",
) -> AsyncIterator[Program]:
    """The agent (of the checkout ``code``) as a process of its own, with everything switched on.

    ``prelude``: Python that runs before it, where it runs without uvloop.
    """
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text("a-token-for-the-benchmark-alone")
    config = folder / "agent.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "server": {"url": server, "token_file": str(token)},
                "ollama": {"url": ollama},
                "agent": {"name": "bench", "state_dir": str(folder / "state")},
                "policy": {
                    "max_tokens": 10_000_000,
                    "options": {"num_predict": 10_000_000},
                    "max_streams": 64,
                    "rate_limit": None,
                },
                "log": {"level": "error"},
            }
        )
    )
    start = [sys.executable, *(("-m", "obt_agent") if uvloop else ("-c", prelude + NO_UVLOOP))]
    async with running([*start, "run", "--config", str(config)], code=code) as program:
        yield program


@contextlib.contextmanager
def standin_process(script: Script) -> Iterator[str]:
    """A stand-in for Ollama in a process of its own; gives its address."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "script.json"
        place.write_bytes(msgspec.json.encode(script))
        command = [sys.executable, "-m", "obt_standin", "--script", str(place)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                yield json.loads(process.stdout.readline())["url"]
            finally:
                process.terminate()
