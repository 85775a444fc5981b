"""One server process or several, with what they need beside them."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from benchmarks import processes
from benchmarks.fleet import server_command
from benchmarks.processes import Program
from tests.cluster.nats import NatsServer
from tests.cluster.postgresql import PostgreSQL
from tests.ports import free_port


@dataclass(frozen=True)
class Setup:
    """What is compared."""

    name: str
    processes: int
    apart: bool
    """Whether the database and the bus are programs of their own."""


SETUPS: Final = (
    Setup("one, SQLite", 1, apart=False),
    Setup("one, PostgreSQL and NATS", 1, apart=True),
    Setup("three, PostgreSQL and NATS", 3, apart=True),
)


@dataclass(frozen=True)
class Place:
    """Where a setup is stored, and how its processes reach each other."""

    folder: Path
    database: Path | str
    options: tuple[str, ...]
    postgres: PostgreSQL | None = None
    nats: NatsServer | None = None
    monitor: int = 0
    """Port at which NATS says what it carried."""

    def carried(self) -> tuple[int, int]:
        """Return the messages that came to NATS so far, and the bytes that it passed on."""
        if self.nats is None:
            return 0, 0
        with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor}/varz", timeout=10) as answer:
            figures = json.load(answer)
        return figures["in_msgs"], figures["out_bytes"]

    def commits(self) -> int:
        """Transactions so far that the database committed."""
        if self.postgres is None:
            return 0
        asked = "SELECT sum(xact_commit)::bigint FROM pg_stat_database WHERE datname = 'bench'"
        return int(str(self.postgres.execute(asked)[0][0]))

    def cpu_s(self) -> float:
        """CPU seconds so far of the database and the bus, of what runs now."""
        found = []
        if self.postgres is not None:
            pid = int((self.postgres.folder / "data" / "postmaster.pid").read_text().split()[0])
            first = psutil.Process(pid)
            found += [first, *first.children(recursive=True)]
        if self.nats is not None:
            found.append(psutil.Process(self.nats.pid))
        return sum(sum(one.cpu_times()[:2]) for one in found)


@contextlib.contextmanager
def place_of(setup: Setup, folder: Path) -> Iterator[Place]:
    """The programs beside the server's processes."""
    if not setup.apart:
        yield Place(folder, folder / "server.sqlite3", ())
        return
    monitor = free_port()
    with PostgreSQL() as postgres, NatsServer(f"http: 127.0.0.1:{monitor}") as nats:
        yield Place(folder, postgres.create("bench"), ("--bus", nats.address), postgres, nats, monitor)


@contextlib.asynccontextmanager
async def serving(
    setup: Setup, place: Place, ports: Sequence[int], *more: str
) -> AsyncIterator[list[Program]]:
    """The server's processes, which begin together."""
    async with AsyncExitStack() as stack:
        used = ports[: setup.processes]
        commands = [server_command(place.database, port, *place.options, *more) for port in used]
        log = place.folder / "servers.log"
        programs = [
            await stack.enter_async_context(processes.running(command, log=log)) for command in commands
        ]
        for port in used:
            await processes.listening(port)
        yield programs
