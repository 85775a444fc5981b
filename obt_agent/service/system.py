"""The system's own commands: with fixed arguments, bounded in time, their errors passed on."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from obt_agent.errors import AgentError, NotPermitted
from obt_agent.service.paths import UNIT

# Long enough for `systemctl restart`: the old process ends, the new one is ready.
TIMEOUT_S: Final = 120.0


class ServiceError(AgentError):
    """Installing, removing or reading the service failed; the message says what to do."""

    kind = "service"


class NotRoot(NotPermitted):
    """Only root may do that."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


class System:
    """Runs commands. A test puts a folder of its own first in PATH, or another object in this one's place."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        # Descriptors that the commands keep open: with the lock's, one that outlives a killed parent still
        # holds it.
        self.inherited: tuple[int, ...] = ()

    def call(self, command: Sequence[str], *, text: str | None = None, user: str | None = None) -> Outcome:
        """Run a command to its end.

        Args:
            command: program and arguments; no secret is ever among them.
            text: what it reads from standard input, else nothing.
            user: run as this user with that user's groups and nothing of our environment but PATH.

        Raises:
            ServiceError: there is no such program, it cannot be run, or it took longer than ``timeout_s``.
        """
        # What a server answers is read by such a command: it gets nothing of root's environment.
        environ = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        try:
            done = subprocess.run(  # noqa: S603 - words of ours, never through a shell
                list(command),
                input=text,
                stdin=subprocess.DEVNULL if text is None else None,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self._timeout_s,
                check=False,
                env=environ if user else None,
                # Another user may not be allowed to enter the folder in which this command was given.
                cwd="/",
                user=user,
                group=user,
                extra_groups=[] if user else None,
                pass_fds=self.inherited,
            )
        except FileNotFoundError as error:
            raise ServiceError(
                f"There is no {command[0]} here; install the package that brings it."
            ) from error
        except OSError as error:
            raise ServiceError(f"{command[0]} cannot be run: {error.strerror}.") from error
        except subprocess.TimeoutExpired as error:
            raise ServiceError(
                f"{' '.join(command)} did not end within {self._timeout_s:.0f} s; see journalctl -u {UNIT}."
            ) from error
        return Outcome(done.returncode, done.stdout, done.stderr)

    def run(self, command: Sequence[str]) -> str:
        """Run a command that has to succeed; gives its output.

        Raises:
            ServiceError: it failed; the message holds its output.
        """
        outcome = self.call(command)
        if outcome.code != 0:
            # The end of it: that is where the error stands.
            output = (outcome.err or outcome.out).strip()[-2000:]
            raise ServiceError(f"{' '.join(command)} failed with status {outcome.code}:\n{output}")
        return outcome.out

    def properties(self, *names: str) -> dict[str, str]:
        """Properties of the unit, as ``systemctl show`` gives them."""
        output = self.run(["systemctl", "show", UNIT, "--property", ",".join(names)])
        return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)

    def journal(self, lines: int) -> str:
        """The last lines that the service logged; empty where the journal gives none."""
        command = ["journalctl", "--unit", UNIT, "--lines", str(lines), "--no-pager", "--output", "short-iso"]
        return self.call(command).out
