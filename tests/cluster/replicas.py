"""Three ``obt-server run`` on one PostgreSQL and one NATS, and scripted agents at them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx

from obt_server.auth.operators import Operators
from obt_server.store import Database, OperatorStore
from tests.server.agent_double import AgentDouble, dial
from tests.server.conftest import HASHED, NO_AUTHORITIES
from tests.server.enrolling import enrol_over_http
from tests.server.process import ServerProcess, server_process
from tests.stopping import stop
from tests.waiting import until


@dataclass
class ReplicaProcess:
    """One of them."""

    process: ServerProcess
    http: httpx.AsyncClient
    """Signed in with an API token."""

    @property
    def url(self) -> str:
        return self.process.url

    def stop(self) -> None:
        """Have it do nothing, its connections open."""
        stop(self.process.process.pid)

    def go_on(self) -> None:
        """End that."""
        with contextlib.suppress(ProcessLookupError):
            self.process.process.send_signal(signal.SIGCONT)

    async def enrol(self, name: str = "box") -> tuple[str, str]:
        """A new agent's id and secret."""
        return await enrol_over_http(self.http, name)

    @contextlib.asynccontextmanager
    async def agent(
        self, credentials: tuple[str, str] | None = None, **options: Any
    ) -> AsyncIterator[AgentDouble]:
        """An admitted agent."""
        agent_id, secret = credentials or await self.enrol()
        async with dial(self.url, secret, agent_id, **options) as double:
            await double.hello()
            yield double

    async def presence(self, agent_id: str) -> str:
        """What it shows of an agent: ``online`` or ``offline``."""
        shown = (await self.http.get(f"/api/v1/agents/{agent_id}")).json()
        return str(shown["presence"])

    async def shows(self, agent_id: str, presence: str) -> None:
        """Wait until it shows that."""

        async def shown() -> bool:
            return await self.presence(agent_id) == presence

        await until(shown)

    async def command(self, agent_id: str, method: str, **params: Any) -> httpx.Response:
        """Ask an agent for something."""
        return await self.http.post(f"/api/v1/agents/{agent_id}/commands/{method}", json=params)


@contextlib.asynccontextmanager
async def replica_process(database: str, *arguments: str) -> AsyncIterator[ReplicaProcess]:
    """Start one on a database that has an operator."""
    async with contextlib.AsyncExitStack() as stack:
        process = await stack.enter_async_context(server_process(database, *arguments))
        client = httpx.AsyncClient(
            base_url=process.url,
            headers={"Authorization": f"Bearer {await _token(database)}"},
            timeout=60,
            trust_env=False,
            verify=NO_AUTHORITIES,
        )
        replica = ReplicaProcess(process, await stack.enter_async_context(client))
        stack.callback(replica.go_on)
        yield replica


async def _token(database: str) -> str:
    with contextlib.closing(Database.open(database)) as opened:
        operators = Operators(OperatorStore(opened))
        await operators.store.set_password("admin", HASHED, 0.0)
        token, _ = await operators.new_token("admin", "tests", None)
        return token


@contextlib.asynccontextmanager
async def replica_processes(
    database: str, count: int, *arguments: str
) -> AsyncIterator[list[ReplicaProcess]]:
    """So many, that know of each other."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(replica_process(database, *arguments)) for _ in range(count)]
