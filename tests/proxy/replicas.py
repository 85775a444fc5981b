"""Several servers on one PostgreSQL, as processes that are told to stop, killed, and started again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from obt_server.auth import secrets
from obt_server.auth.operators import Operators
from obt_server.storage import Enrolment
from obt_server.store import Database, OperatorStore, SqlStorage
from tests.ports import free_port
from tests.proxy.programs import NAME
from tests.server.agent_double import uuid7
from tests.server.conftest import HASHED
from tests.server.enrolling import enrol
from tests.waiting import until

WITHIN_S = 120.0
"""For a server to start or to end, on a machine that may be busy."""
FOR_EVER_S = 600.0
"""A notice that only a second signal ends."""


@dataclass
class Replica:
    """One of the servers, at a port of its own."""

    port: int
    arguments: tuple[str, ...]
    log: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, notice_s: float = FOR_EVER_S) -> None:
        """Start it; ``ready`` says when it serves."""
        environment = {**os.environ, "OBT_SERVER_LISTEN_DRAIN_NOTICE_S": str(notice_s)}
        words = [sys.executable, "-m", "obt_server", "run", "--port", str(self.port), *self.arguments]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(words, stdout=output, stderr=output, env=environment)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def readiness(self) -> int | None:
        """The status of ``/readyz``; None while nobody answers."""
        async with httpx.AsyncClient(base_url=self.url, timeout=30, trust_env=False) as client:
            with contextlib.suppress(httpx.TransportError):
                return (await client.get("/readyz")).status_code
        return None

    async def ready(self) -> None:
        """Wait until it serves."""

        async def serves() -> bool:
            assert self.running, self.log.read_text()[-4000:]
            return await self.readiness() == httpx.codes.OK

        await until(serves, within_s=WITHIN_S)

    async def ended(self) -> int:
        """Wait until it has ended; gives its exit status."""
        assert self._process is not None
        process = self._process
        await until(lambda: process.poll() is not None, within_s=WITHIN_S)
        return process.returncode

    async def restart(self, notice_s: float = FOR_EVER_S) -> None:
        """As ``systemctl restart`` does, and wait until it serves."""
        self.signal(signal.SIGTERM)
        assert await self.ended() == 0, self.log.read_text()[-4000:]
        self.start(notice_s)
        await self.ready()

    def end(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(WITHIN_S)

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The entries of one kind in its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        return [entry for entry in entries if entry.get("event") == event]

    def changed(self) -> int:
        """How many changes it was asked for: of all lines of the log, these alone are never left out."""
        return len(self.logged("audit.command"))


@dataclass
class Replicas:
    """All of them, with an operator's token for each of their routes."""

    database: str
    token: str
    all: list[Replica]

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(one.port for one in self.all)

    @classmethod
    async def make(cls, folder: Path, database: str, *arguments: str, count: int = 3) -> Replicas:
        """Prepare them; none runs yet."""
        with contextlib.closing(Database.open(database)) as opened:
            store = OperatorStore(opened)
            await store.set_password("admin", HASHED, 0.0)
            token, _ = await Operators(store).new_token("admin", "tests", None)
        own = ("--database", database, "--behind-proxy", "--allowed-host", NAME)
        log = ("--log-format", "json")
        made = [
            Replica(free_port(), (*own, *log, *arguments), folder / f"replica-{number}.log")
            for number in range(1, count + 1)
        ]
        return cls(database, token, made)

    async def start(self) -> None:
        """Start those that do not run, and wait until all serve."""
        for one in self.all:
            if not one.running:
                one.start()
        for one in self.all:
            await one.ready()

    def end(self) -> None:
        """End all at once."""
        for one in self.all:
            one.end()

    async def new_agents(self, count: int) -> list[tuple[str, str]]:
        """Enrol agents; their ids and secrets."""
        made = [(uuid7(), secrets.new_secret("test")) for _ in range(count)]
        with contextlib.closing(Database.open(self.database)) as opened:
            for number, (agent_id, secret) in enumerate(made):
                await enrol(
                    SqlStorage(opened),
                    Enrolment(
                        agent_id=agent_id,
                        name=f"box-{number}-{agent_id[-6:]}",
                        version="1",
                        secret_sha256=secrets.sha256(secret),
                    ),
                    1.0,
                )
        return made

    async def connections(self, kind: str) -> list[int]:
        """How many connections of a kind each has."""
        return [await self._connections(one, kind) for one in self.all]

    async def _connections(self, one: Replica, kind: str) -> int:
        headers = {"Authorization": f"Bearer {self.token}"}
        async with httpx.AsyncClient(
            base_url=one.url, headers=headers, timeout=30, trust_env=False
        ) as client:
            text = (await client.get("/metrics")).text
        found = re.search(rf'^obt_connections\{{kind="{kind}"\}} (\S+)$', text, flags=re.MULTILINE)
        return int(float(found[1])) if found else 0


@contextlib.contextmanager
def ended(replicas: Replicas) -> Iterator[Replicas]:
    """The replicas, ended afterwards."""
    try:
        yield replicas
    finally:
        replicas.end()
