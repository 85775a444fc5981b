"""A PostgreSQL of the tests: in a folder of its own, at a Unix socket, with no port unless asked for."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

import psutil
import psycopg

from tests.stopping import stop

VERSIONS: Final = Path("/usr/lib/postgresql")
USER: Final = "obt"
WITHIN_S: Final = 120


def say(figure: str) -> None:
    """Show what a test counted: pytest prints it with -rP, and of one that fails."""
    sys.stdout.write(f"{figure}\n")


def programs() -> Path:
    """Return the folder of the newest release's programs. Exits with a word where there is none."""
    found = sorted(VERSIONS.glob("*/bin/initdb"), key=lambda one: int(one.parts[-3]))
    if not found:
        sys.exit("PostgreSQL is not installed: scripts/ensure-postgresql says how; make test-cluster runs it")
    return found[-1].parent


class PostgreSQL:
    """One that runs from the beginning to the end of a ``with``.

    Args:
        before: the words before a command that bring it to another network.
        host: the address there on which it listens as well; empty for none.
    """

    def __init__(self, before: tuple[str, ...] = (), host: str = "") -> None:
        self._before = before
        self._host = host
        self._programs = programs()
        # the Unix socket's name has it too
        self.port = 5432
        # Short: the path of a Unix socket has 107 characters at most.
        self.folder = Path(tempfile.mkdtemp(prefix="obt-pg-"))
        # It does not run as root; Debian's package makes this user.
        self._as_user = (
            ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        )

    def __enter__(self) -> Self:
        if self._as_user:
            shutil.chown(self.folder, "postgres", "postgres")
        # Without waiting for disks: no test takes the power away.
        self._run(
            "initdb", "-D", str(self.folder / "data"), "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync"
        )
        if self._host:
            with (self.folder / "data" / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {self._host}/24 trust\n")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on()
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start, and wait until it answers."""
        settings = f"-c listen_addresses={self._host} -c unix_socket_directories={self.folder} -c fsync=off"
        settings += f" -c max_connections=200 -c port={self.port}"
        log = self.folder / "log"
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-l", str(log), "-w", "-o", settings, "start")

    def stop(self) -> None:
        """End it at once, as a crash does; what is not committed is lost."""
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", "immediate", "stop")

    def hang(self) -> None:
        """Have all its processes do nothing, connections open."""
        self._each(stop)

    def go_on(self) -> None:
        """End the hanging."""
        self._each(lambda pid: os.kill(pid, signal.SIGCONT))

    def address(self, name: str) -> str:
        """Return the address of a database."""
        return f"postgresql+psycopg://{USER}@/{name}?host={self.folder}"

    def remote_address(self, name: str) -> str:
        """Return the address of a database by the network."""
        return f"postgresql+psycopg://{USER}@{self._host}/{name}"

    def create(self, name: str) -> str:
        """Make a database whose texts are sorted by a language; return its address."""
        order = "LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C.UTF-8'"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0 {order}")
        return self.address(name)

    def execute(self, statement: str, name: str = "postgres") -> list[tuple[object, ...]]:
        """Execute a statement beside whoever uses it; return its rows."""
        with psycopg.connect(
            host=str(self.folder), port=self.port, user=USER, dbname=name, autocommit=True
        ) as connection:
            done = connection.execute(statement.encode())
            return done.fetchall() if done.description else []

    def _each(self, do: Callable[[int], None]) -> None:
        try:
            first = psutil.Process(int((self.folder / "data" / "postmaster.pid").read_text().split()[0]))
        except (FileNotFoundError, psutil.NoSuchProcess):
            return
        # The first one last at SIGCONT as well: it would start anew what it finds dead.
        for one in [first, *first.children(recursive=True)]:
            # A connection's process ends when its client has gone.
            with contextlib.suppress(ProcessLookupError):
                do(one.pid)

    def _run(self, program: str, *arguments: str) -> None:
        words = [*self._before, *self._as_user, str(self._programs / program), *arguments]
        # Into a file: a server that it starts would keep a pipe open.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(words, cwd="/", stdout=output, stderr=output, timeout=WITHIN_S, check=False)
            output.seek(0)
            assert done.returncode == 0, output.read().decode()
