"""Somebody at a terminal of a machine: types lines, reads what comes, presses Ctrl-C."""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import time
from types import TracebackType
from typing import Self

from tests.systemd.machine import LAB, Machine

_PROMPT = re.compile(r"\[(\d+)\]ready> $")
CTRL_C = "\x03"


class Terminal:
    """A login shell of a user, on a terminal: ``with Terminal(machine) as terminal``."""

    def __init__(self, machine: Machine, user: str = "root", *, lasts_s: float = 1200) -> None:
        self._text = ""
        self._read = 0
        """How much of the text was looked at already."""
        # TERM=dumb (run-in.sh): the shell paints nothing.
        command = f"exec script --quiet --flush --return --command 'su - {user}' /dev/null"
        self._program = subprocess.Popen(
            [LAB / "run-in.sh", "-i", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**machine.environ, "LAB_TIMEOUT": str(lasts_s)},
            bufsize=0,
        )

    def __enter__(self) -> Self:
        self.run("PS1='[$?]ready> '")
        # Not a width at which a long line would be broken.
        self.run("stty columns 1000")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._program.stdin
        assert self._program.stdout
        self._program.terminate()
        self._program.wait()
        self._program.stdin.close()
        self._program.stdout.close()

    def type(self, text: str) -> None:
        """Type, without a return."""
        self._read = len(self._text)
        assert self._program.stdin
        self._program.stdin.write(text.encode())

    def run(self, line: str, *, status: int = 0, within_s: float = 120) -> str:
        """Type a line and wait for the prompt; gives what was shown between, the line itself included."""
        self.type(f"{line}\n")
        return self.ends(status=status, within_s=within_s, what=line)

    def ends(self, *, status: int = 0, within_s: float = 120, what: str = "the command") -> str:
        """Wait for the prompt, after a command that ended with the status."""
        before = self._read
        found = self.expect(_PROMPT, within_s=within_s)
        shown = self._text[before : self._read]
        assert int(found[1]) == status, f"{what}: status {found[1]}\n{shown[-4000:]}"
        return shown

    def expect(self, pattern: str | re.Pattern[str], *, within_s: float = 120) -> re.Match[str]:
        """Wait until something is shown that was not looked at yet."""
        assert self._program.stdout
        deadline = time.monotonic() + within_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._program.stdout, selectors.EVENT_READ)
            while not (found := re.compile(pattern).search(self._text, self._read)):
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                data = os.read(self._program.stdout.fileno(), 65536) if ready else b""
                assert data, f"{'ended' if ready else 'waited in vain'}: {pattern}\n{self._text[-4000:]}"
                self._text += data.decode(errors="replace").replace("\r", "")
        self._read = found.end()
        return found
