"""A NATS of the tests: in a folder of its own, at a port of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Final, Self

from obt_server.bus.nats import NatsBus, NatsSettings
from tests.ports import free_port
from tests.stopping import stop

WITHIN_S: Final = 60
_READY: Final = "Server is ready"


def program() -> str:
    """Return the path of nats-server. Exits with a word where there is none."""
    found = shutil.which("nats-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        sys.exit("nats-server is not installed: scripts/ensure-nats says how; make test-cluster runs it")
    return found


class NatsServer:
    """One that runs from the beginning to the end of a ``with``.

    Args:
        settings: lines of its configuration (accounts, TLS), beside address and port.
    """

    def __init__(self, settings: str = "") -> None:
        self._program = program()
        self.folder = Path(tempfile.mkdtemp(prefix="obt-nats-"))
        self.settings = settings
        self.port = free_port()
        # what it logged since its first start, for a test that fails
        self.log: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on()
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def address(self) -> str:
        """Where it is."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and wait until it answers."""
        file = self.folder / "nats.conf"
        file.write_text(f"listen: 127.0.0.1:{self.port}\n{self.settings}\n")
        words = [self._program, "-c", str(file)]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        ready = threading.Event()
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout, ready), daemon=True)
        self._reader.start()
        assert ready.wait(WITHIN_S), f"nats-server did not start: {self.log}"
        assert self._process.poll() is None, self.log

    def _read(self, output: IO[str], ready: threading.Event) -> None:
        for line in output:
            self.log.append(line)
            if _READY in line:
                ready.set()
        # Its end is an answer, too, and read from the log.
        ready.set()

    def stop(self) -> None:
        """Let it end in order: connections are closed."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.wait(WITHIN_S)
        if self._reader is not None:
            self._reader.join(WITHIN_S)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None

    def hang(self) -> None:
        """Have it do nothing, connections open."""
        if self._process is not None:
            stop(self._process.pid)

    def go_on(self) -> None:
        """End the hanging."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)


@contextlib.asynccontextmanager
async def connected(settings: NatsSettings) -> AsyncIterator[NatsBus]:
    """A bus on it."""
    bus = NatsBus(settings)
    await bus.start()
    try:
        yield bus
    finally:
        await bus.close()
