"""A server on a real socket, signed in to, and agents enrolled at it."""

import asyncio
import base64
import contextlib
import hashlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from obt_server import app as application
from obt_server.bus import Bus
from obt_server.campaigns import CampaignSettings
from obt_server.cli import main
from obt_server.gateway import GatewaySettings
from obt_server.hub import HubSettings
from obt_server.rollouts import RolloutSettings
from obt_server.serve import DrainingServer, configure
from obt_server.store import AgentQuota
from tests.server.agent_double import AgentDouble, dial
from tests.server.buses import new_bus
from tests.server.databases import address_in, is_new
from tests.server.enrolling import enrol_over_http

Command = Callable[..., tuple[int, str, str]]

PASSWORD = "a password of the tests"
NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""The servers here speak plain HTTP, and reading the system's authorities takes 40 ms a client."""
SALT = b"salt"
DIGEST = hashlib.scrypt(PASSWORD.encode(), salt=SALT, n=16, r=8, p=1, dklen=32)
HASHED = f"scrypt$16$8$1${base64.b64encode(SALT).decode()}${base64.b64encode(DIGEST).decode()}"
"""What is stored names its own cost: this one takes microseconds to check, not 0.1 s."""


@dataclass
class Running:
    """A server that listens."""

    url: str
    parts: application.Server
    uvicorn: DrainingServer
    task: asyncio.Task[None]
    http: httpx.AsyncClient
    """Signed in with an API token."""

    async def enrol(self, name: str = "box") -> tuple[str, str]:
        """A new agent's id and secret."""
        return await enrol_over_http(self.http, name)

    @contextlib.asynccontextmanager
    async def agent(self, name: str = "box", **options: Any) -> AsyncIterator[AgentDouble]:
        """An admitted agent."""
        agent_id, secret = options.pop("credentials", None) or await self.enrol(name)
        async with dial(self.url, secret, agent_id, name=name, **options) as double:
            await double.hello()
            yield double


Start = Callable[..., Any]


@contextlib.asynccontextmanager
async def running(  # noqa: PLR0913 - each part of the settings that tests set
    folder: Path,
    *,
    quota: AgentQuota | None = None,
    recheck_s: float = 5.0,
    port: int = 0,
    root_path: str = "",
    rollouts: RolloutSettings | None = None,
    gateway: GatewaySettings | None = None,
    campaigns: CampaignSettings | None = None,
    join_pins: tuple[str, ...] = (),
    notice_s: float = 0.0,
    bus: Bus | None = None,
    database: str | None = None,
    **hub: Any,
) -> AsyncIterator[Running]:
    """A server with its database in that folder; one that is there already is gone on with."""
    fresh = database is not None or is_new(folder)
    parts = application.build(
        application.AppSettings(
            database=database or address_in(folder),
            hub=HubSettings(version="test", **hub),
            quota=quota or AgentQuota(),
            recheck_s=recheck_s,
            root_path=root_path,
            rollouts=rollouts or RolloutSettings(),
            gateway=gateway,
            campaigns=campaigns or CampaignSettings(),
            join_pins=join_pins,
            bus=bus or new_bus(),
        )
    )
    if fresh:
        await parts.operators.store.set_password("admin", HASHED, 0.0)
    token, _ = await parts.operators.new_token("admin", "tests", None)
    server = configure(parts, host="127.0.0.1", port=port, notice_s=notice_s)
    task = asyncio.create_task(server.serve(), name="server under test")
    async with asyncio.timeout(20):
        await server.listening.wait()
    url = f"http://127.0.0.1:{server.port}"
    headers = {"Authorization": f"Bearer {token}"}
    try:
        async with httpx.AsyncClient(
            base_url=url, headers=headers, timeout=20, trust_env=False, verify=NO_AUTHORITIES
        ) as client:
            yield Running(url, parts, server, task, client)
    finally:
        server.should_exit = True
        async with asyncio.timeout(20):
            await task
        parts.database.close()


def refused_on(server: Running, key: Hashable = "127.0.0.1") -> None:
    """Count ten more refused credentials or join tokens of a key.

    The first delay is a second, which a busy machine may take for one try; then it is a quarter of an hour.
    """
    for _ in range(10):
        server.parts.context.joins.failed(key, time.monotonic())


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as one:
        yield one


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command on the test's database; gives status, output and errors."""

    def call(*arguments: str) -> tuple[int, str, str]:
        status = main([*arguments, "--database", str(tmp_path / "obt.sqlite3")])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return call
