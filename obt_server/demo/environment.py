"""Server and agent of the demonstration, put together through the ways that everybody uses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from obt_server import app as application
from obt_server.demo.client import Client
from obt_server.demo.ollama_target import OllamaTarget, ollama_target
from obt_server.demo.processes import ChildFailed, running
from obt_server.serve import DrainingServer, configure

HOST: Final = "127.0.0.1"
OPERATOR: Final = "admin"
AGENT_NAME: Final = "demo"
# For the server to listen, and for the enrolment to end.
UP_WITHIN_S: Final = 30.0


@dataclass(frozen=True)
class DemoEnvironment:
    """Everything stands: the page's ``url``, the operator's ``password``, a client, and the agent's id."""

    url: str
    password: str
    client: Client
    agent_id: str
    target: OllamaTarget


@contextlib.asynccontextmanager
async def demo_environment(folder: Path, port: int) -> AsyncIterator[DemoEnvironment]:
    """Start everything, wait until the agent is admitted, and end it in reverse order.

    Raises:
        ChildFailed: a part did not come up.
    """
    async with (
        ollama_target(folder) as target,
        _server(folder, port) as (url, password, token),
        Client(url, token) as client,
    ):
        # Client before agent, so that on leaving the agent ends while its server can still answer.
        config = _configure(folder, url, target)
        await _enrol(folder, config, client)
        command = [sys.executable, "-m", "obt_agent", "run", "--config", str(config)]
        async with running("The agent", command, folder / "agent.log", _environ()) as child:
            while not (ready := await _admitted(client)):
                # An agent that ended will not be admitted: better its log than a wait without end.
                child.check()
                await asyncio.sleep(0.05)
            yield DemoEnvironment(url, password, client, ready, target)


def free_port(wanted: int) -> int:
    """The wanted port, or any when it is taken."""
    with socket.socket() as probe:
        # Connections of a demonstration that just ended linger, and do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            # Taken or not is known by binding alone.
            probe.bind((HOST, wanted))
        except OSError:
            probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def _server(folder: Path, port: int) -> AsyncIterator[tuple[str, str, str]]:
    """The reference application in this process: its URL, the first password, an API token."""
    parts = application.build(application.AppSettings(database=folder / "server.sqlite3"))
    try:
        password = await parts.operators.create_first(OPERATOR)
        token, _ = await parts.operators.new_token(OPERATOR, "demonstration", None)
        server = configure(parts, host=HOST, port=port)
        serving = asyncio.create_task(server.serve_without_signals(), name="demo-server")
        try:
            await _until_started(server, serving)
            yield f"http://{HOST}:{port}", password or "", token
        finally:
            # Awaited, so that the database closes after the last request that uses it.
            server.should_exit = True
            await serving
    finally:
        parts.database.close()


async def _until_started(server: DrainingServer, serving: asyncio.Task[None]) -> None:
    async with asyncio.timeout(UP_WITHIN_S):
        while not server.started:
            if serving.done():
                raise ChildFailed("The server did not start; is its port taken?")
            await asyncio.sleep(0.02)


async def _enrol(folder: Path, config: Path, client: Client) -> None:
    """As a new user does it: a join token from the server, ``obt-agent enroll`` on the machine."""
    issued = await client.post("/join-tokens", {"note": "demonstration"})
    token_file = folder / "join-token"
    # Made before it is filled, so that the secret is never readable by others.
    token_file.touch(mode=0o600)
    token_file.write_text(issued["secret"])
    command = [sys.executable, "-m", "obt_agent", "enroll", "--config", str(config)]
    command += ["--token-file", str(token_file)]
    async with running("Enrolment", command, folder / "enroll.log", _environ()) as child:
        async with asyncio.timeout(UP_WITHIN_S):
            status = await child.process.wait()
        if status != 0:
            raise child.failed(f"ended with status {status}")
    token_file.unlink()


def _configure(folder: Path, url: str, target: OllamaTarget) -> Path:
    path = folder / "agent.yaml"
    config = {
        "server": {"url": url},
        "ollama": {"url": target.url},
        "agent": {"name": AGENT_NAME, "state_dir": str(folder / "state")},
    }
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def _environ() -> dict[str, str]:
    """Ours, without what would override the demonstration's own configuration."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("OBT_") and name not in _OVERRIDES
    }


_OVERRIDES: Final = frozenset({"OLLAMA_URL", "CLIENT_ID", "HEARTBEAT_INTERVAL"})


async def _admitted(client: Client) -> str | None:
    for agent in await client.get("/agents"):
        # Its models have come too: the steps that follow need them.
        if agent["presence"] == "online" and agent["ollama"] and agent["model_count"] is not None:
            return str(agent["id"])
    return None
