"""Child processes of the demonstration: each logs to a file, and none outlives it, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final

# Longer than the agent's own orderly shutdown.
END_WITHIN_S: Final = 25.0
# Ends the child with us where the kernel can do that.
_BOUND: Final = (sys.executable, "-m", "obt_server.demo.bound_child")
# Of the log in an error: a traceback fits.
SHOWN_LINES: Final = 15


class ChildFailed(Exception):
    """A child process ended, or did not come up; the message holds the last lines of its log."""


class Child:
    """One running process and its log."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    def failed(self, what: str) -> ChildFailed:
        """An error that shows the end of the log."""
        lines = self.log.read_text(errors="replace").splitlines()[-SHOWN_LINES:]
        return ChildFailed("\n  ".join([f"{self.name} {what}; the end of its log:", *lines]))

    def check(self) -> None:
        """Raise when the process is gone."""
        if self.process.returncode is not None:
            raise self.failed(f"ended with status {self.process.returncode}")

    async def end(self) -> None:
        """Send SIGTERM, and SIGKILL when the process does not end in time."""
        if self.process.returncode is not None:
            return
        # It may end between the check above and the signal.
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            async with asyncio.timeout(END_WITHIN_S):
                await self.process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


@contextlib.asynccontextmanager
async def running(
    name: str, command: Sequence[str], log: Path, environ: Mapping[str, str] | None = None
) -> AsyncIterator[Child]:
    """Run a program while the context lasts.

    ``environ`` is its whole environment, ours when omitted. It gets a process group of its own: a Ctrl-C at
    the terminal reaches us alone, and we end it in order. Where we are killed, it is too.
    """
    bound = [*_BOUND, str(os.getpid()), *command] if sys.platform == "linux" else command
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *bound,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environ,
            start_new_session=True,
        )
    child = Child(name, process, log)
    try:
        yield child
    finally:
        await child.end()
