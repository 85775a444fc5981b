"""Servers as processes in namespaces: killed, stopped, started again, their output kept."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

WITHIN_S: Final = 180.0
LOOK_S: Final = 0.05
STARTS, START_AGAIN_S = 20, 1.0


class Program:
    """One, which may be started many times.

    Args:
        words: its command, with the words that bring it to its namespace.
        log: where its output goes, of all its runs.
        answers: whether it can be used.
    """

    def __init__(self, words: Sequence[str], log: Path, answers: Callable[[], Awaitable[bool]]) -> None:
        self._words = words
        self._log = log
        self._answers = answers
        self._process: asyncio.subprocess.Process | None = None
        # while ``start`` runs, which starts one again that ends
        self._starting = False

    @staticmethod
    def python(module: str, *arguments: str) -> list[str]:
        """The words that run a module of this project."""
        return [sys.executable, "-m", module, *arguments]

    async def start(self) -> None:
        """Start it, and wait until it answers; one that ends meanwhile is started again, as systemd does."""
        # What the surroundings say of servers and agents is not meant for these.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("OBT_", "OLLAMA"))
        }
        self._starting = True
        try:
            for left in reversed(range(STARTS)):
                with self._log.open("ab") as log:
                    self._process = await asyncio.create_subprocess_exec(
                        *self._words,
                        stdin=asyncio.subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env=environment,
                    )
                try:
                    await self._until_it_answers(self._process)
                except AssertionError:
                    # The database may be away just now.
                    if self._process.returncode is None or not left:
                        raise
                    await asyncio.sleep(START_AGAIN_S)
                else:
                    return
        finally:
            self._starting = False

    async def until_it_answers(self) -> None:
        """Wait for that; one that is being started may end meanwhile.

        Raises:
            AssertionError: it ended, or did not answer in time.
        """
        await self._until_it_answers(None if self._starting else self._running)

    async def _until_it_answers(self, process: asyncio.subprocess.Process | None) -> None:
        try:
            async with asyncio.timeout(WITHIN_S):
                while not await self._answers():
                    assert process is None or process.returncode is None, self.tail()
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            raise AssertionError(f"{self._words} does not answer: {self.tail()}") from None

    @property
    def _running(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    def tail(self) -> str:
        """The end of what it said."""
        return self._log.read_text(errors="replace")[-3000:]

    async def kill(self) -> None:
        """SIGKILL."""
        self._running.kill()
        await self._running.wait()

    def pause(self) -> None:
        """SIGSTOP. Nothing, where it ended as it was being started."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT; see ``pause``."""
        self._signal(signal.SIGCONT)

    def _signal(self, one: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError) if self._starting else contextlib.nullcontext():
            self._running.send_signal(one)

    async def end(self) -> None:
        """SIGTERM, and SIGKILL where that does not help."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            async with asyncio.timeout(WITHIN_S / 4):
                await self._process.wait()
        except TimeoutError:
            await self.kill()


async def listens(host: str, port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        async with asyncio.timeout(1.0):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
