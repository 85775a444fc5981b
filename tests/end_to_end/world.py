"""A real server on a real socket, real agents as processes of their own, and a stand-in for Ollama."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from obt_server import app as application
from obt_server.app import Server
from obt_server.client import Client
from obt_server.serve import configure
from tests.ports import free_port
from tests.waiting import WITHIN_S, until


@dataclass
class AgentProcess:
    """One running ``obt-agent run``."""

    process: asyncio.subprocess.Process
    folder: Path
    config: Path

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    async def logged(self, text: str, *, times: int = 1) -> None:
        """Wait until the log holds a text."""
        await until(lambda: self.log.count(text) >= times, lambda: f"{text!r} is not in the log:\n{self.log}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        async with asyncio.timeout(WITHIN_S):
            return await self.process.wait()

    def change(self, **sections: Any) -> None:
        """Write the configuration anew, with sections replaced."""
        config = yaml.safe_load(self.config.read_text()) | sections
        self.config.write_text(yaml.safe_dump(config))


@dataclass
class World:
    """The server, its public API, and the agents of one test."""

    url: str
    server: Server
    client: Client
    folder: Path
    ollama_url: str
    agents: list[AgentProcess] = field(default_factory=list)
    wrapped: tuple[str, ...] = ()
    """A module, with its arguments, that runs the agent's; ``FOLDER`` in them is the agent's."""

    async def enrolled(self, folder_name: str, *, name: str, **sections: Any) -> AgentProcess:
        """Enrol as a user does, then start; not yet admitted."""
        folder = self.folder / folder_name
        folder.mkdir()
        config = {
            "server": {"url": self.url},
            "ollama": {"url": self.ollama_url, "poll_interval_s": 0.2},
            "agent": {"name": name, "state_dir": str(folder / "state")},
        } | sections
        path = folder / "agent.yaml"
        path.write_text(yaml.safe_dump(config))
        issued = await self.client.post("/join-tokens", {})
        enrol = await self.program(folder, "enroll", "--config", str(path), stdin=issued["secret"].encode())
        assert await enrol.ended() == 0, enrol.log
        return await self.start(folder)

    async def start(self, folder: Path) -> AgentProcess:
        agent = await self.program(
            folder, "run", "--config", str(folder / "agent.yaml"), "--log-format", "console"
        )
        self.agents.append(agent)
        return agent

    async def program(self, folder: Path, *arguments: str, stdin: bytes | None = None) -> AgentProcess:
        with (folder / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                *(part.replace("FOLDER", str(folder)) for part in self.wrapped),
                "obt_agent",
                *arguments,
                stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    name: value
                    for name, value in os.environ.items()
                    if not name.startswith(("OBT_", "OLLAMA"))
                },
            )
        if process.stdin is not None:
            process.stdin.write(stdin or b"")
            process.stdin.close()
        return AgentProcess(process, folder, folder / "agent.yaml")

    async def views(self) -> list[dict[str, Any]]:
        """Agents as the API shows them."""
        found: list[dict[str, Any]] = await self.client.get("/agents")
        return found

    async def online(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait until so many agents are online with their models known."""
        views: list[dict[str, Any]] = []

        async def there() -> bool:
            views[:] = [
                view for view in await self.views() if view["presence"] == "online" and view["model_count"]
            ]
            return len(views) == count

        await until(there, lambda: "\n".join(agent.log for agent in self.agents))
        return views


@contextlib.asynccontextmanager
async def world(folder: Path, ollama_url: str) -> AsyncIterator[World]:
    """Start the server; end everything."""
    parts = application.build(application.AppSettings(database=folder / "server.sqlite3"))
    await parts.operators.create_first("admin")
    token, _ = await parts.operators.new_token("admin", "tests", None)
    port = free_port()
    serving = configure(parts, host="127.0.0.1", port=port)
    task = asyncio.create_task(serving.serve_without_signals())
    try:
        await until(lambda: serving.started)
        async with Client(f"http://127.0.0.1:{port}", token) as client:
            made = World(f"http://127.0.0.1:{port}", parts, client, folder, ollama_url)
            try:
                yield made
            finally:
                await asyncio.gather(*(end_agent(agent) for agent in made.agents))
    finally:
        serving.should_exit = True
        await task
        parts.database.close()


async def end_agent(agent: AgentProcess) -> None:
    """Stop one in order, unless it has ended."""
    if agent.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            agent.signal(signal.SIGTERM)
        await agent.ended()


def listening_sockets(pid: int) -> list[str]:
    """Sockets of a process on which somebody could reach it: TCP that listens, UDP, Unix that accepts."""
    process = psutil.Process(pid)
    found = [
        f"{connection.type.name} {connection.laddr}"
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN or connection.type.name == "SOCK_DGRAM"
    ]
    inodes = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            inodes.add(str(path.readlink()).removeprefix("socket:[").removesuffix("]"))
    for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[6] in inodes and int(fields[3], 16) & 0x10000:
            found.append(f"unix {line}")
    return found
