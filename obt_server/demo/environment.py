"""Server and agent of the demonstration, put together through the ways that everybody uses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from obt_server import app as application
from obt_server.client import Client
from obt_server.demo.machines import machine
from obt_server.demo.ollama_target import OllamaTarget, ollama_target
from obt_server.demo.processes import ChildFailed
from obt_server.hub import HubSettings
from obt_server.serve import DrainingServer, configure

HOST: Final = "127.0.0.1"
OPERATOR: Final = "admin"
AGENT_NAME: Final = "demo"
# For the server to listen.
UP_WITHIN_S: Final = 30.0
# More often than usual: people watch these few machines.
HEARTBEAT_S: Final = 5.0


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
        config = {"server": {"url": url}, "ollama": {"url": target.url}, "agent": {"name": AGENT_NAME}}
        async with machine(folder, client, config) as agent_id:
            yield DemoEnvironment(url, password, client, agent_id, target)


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
    hub = HubSettings(version=application.version(), heartbeat_interval_s=HEARTBEAT_S)
    parts = application.build(application.AppSettings(database=folder / "server.sqlite3", hub=hub))
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
