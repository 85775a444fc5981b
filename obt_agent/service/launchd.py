"""The agent as a launch agent of macOS: launchd starts it for one user, when that user signs in.

Not verified on a Mac: the file's keys are those of launchd.plist(5), the commands those of launchctl(1), and
the tests hold both to recorded files. It runs as the user who installs it, as Ollama's own application does,
and needs no root.
"""

from __future__ import annotations

import plistlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from obt_agent.config.edit import set_keys
from obt_agent.identity.secret import Secret
from obt_agent.service import files
from obt_agent.service.install import InstallStep
from obt_agent.service.system import ServiceError, System
from obt_agent.system import owners
from obt_agent.system.places import launch_agents

LABEL: Final = "obt-agent"
# Seconds: from one start to the next, and from SIGTERM to SIGKILL (the agent's own shutdown takes up to 20).
_BETWEEN_STARTS: Final = 30
_END_WITHIN: Final = 30
_NOBODY_ELSE: Final = 0o077
_STATE: Final = re.compile(r"^\tstate = (.+)$", re.MULTILINE)
_LAST_EXIT: Final = re.compile(r"^\tlast exit code = (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class LaunchAgent:
    """One user's launch agent. ``config`` is the file that the agent reads."""

    home: Path
    config: Path
    user: int

    @property
    def file(self) -> Path:
        """What launchd reads."""
        return launch_agents(self.home) / f"{LABEL}.plist"

    @property
    def log(self) -> Path:
        """Where the agent's log goes."""
        return self.home / "Library" / "Logs" / f"{LABEL}.log"

    @property
    def domain(self) -> str:
        """The user's services, as launchctl names them."""
        return f"gui/{self.user}"

    def text(self) -> str:
        """Return the file's text."""
        keys = {
            "Label": LABEL,
            "ProgramArguments": [*program(), "run", "--config", str(self.config)],
            "RunAtLoad": True,
            # An orderly end (launchctl bootout) is not undone.
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": _BETWEEN_STARTS,
            "ExitTimeOut": _END_WITHIN,
            # Decimal in the file, as the format has no octal numbers.
            "Umask": _NOBODY_ELSE,
            "StandardErrorPath": str(self.log),
        }
        return plistlib.dumps(keys, sort_keys=False).decode()


def program() -> list[str]:
    """Return the command of this very installation. ``-I``: nothing of the caller's folder is imported."""
    return [sys.executable, "-I", "-m", "obt_agent"]


def install_steps(
    agent: LaunchAgent, system: System, *, server: str | None, token: Secret | None, start: bool
) -> Iterator[InstallStep]:
    """Return what to do, in order; each step can be repeated.

    Raises:
        ServiceError: root asks for it, for whom launchd would start nothing.
    """
    if agent.user == owners.ROOT:
        raise ServiceError(
            "A launch agent belongs to a user: give the command without sudo, as the user who runs Ollama."
        )
    return _install_steps(agent, system, server, token, start=start)


def _install_steps(
    agent: LaunchAgent, system: System, server: str | None, token: Secret | None, *, start: bool
) -> Iterator[InstallStep]:
    if server is not None:
        yield InstallStep(
            f"write server.url into {agent.config}", lambda: set_keys(agent.config, {"server.url": server})
        )
    if token is not None:
        yield InstallStep("enrol this machine with the join token", lambda: _enrol(agent, system, token))
    yield InstallStep(f"write {agent.file}", lambda: _write(agent))
    if start:
        yield InstallStep("start the agent, now and at each sign-in", lambda: _start(agent, system))


def uninstall_steps(agent: LaunchAgent, system: System) -> Iterator[InstallStep]:
    """Return what to do; configuration and state stay, for they are the user's own files."""
    yield InstallStep("stop the agent", lambda: _stop(agent, system))
    yield InstallStep(f"remove {agent.file}", lambda: _remove(agent.file))


def read_state(agent: LaunchAgent, system: System) -> str | None:
    """Return how the agent is, in words; None where it is not installed."""
    shown = system.call(["launchctl", "print", f"{agent.domain}/{LABEL}"])
    if shown.code != 0:
        return None if not agent.file.exists() else "not loaded"
    state, last = _STATE.search(shown.out), _LAST_EXIT.search(shown.out)
    words = state[1] if state else "unknown"
    return f"{words}, last exit status {last[1]}" if last else words


def _enrol(agent: LaunchAgent, system: System, token: Secret) -> str | None:
    # The running agent holds the state folder's lock.
    _stop(agent, system)
    # The token goes through standard input: arguments can be read by every user of the machine.
    command = [*program(), "enroll", "--config", str(agent.config), "--token-file", "-"]
    done = system.call(command, text=token.reveal() + "\n")
    if done.code != 0:
        raise ServiceError(
            f"Enrolment failed:\n{(done.err or done.out).strip()}\n"
            "Correct the cause, then give the same command again."
        )
    return done.out.strip().partition("\n")[0] or None


def _write(agent: LaunchAgent) -> None:
    files.write(agent.file, agent.text())


def _start(agent: LaunchAgent, system: System) -> None:
    # A file that launchd has loaded is not read again.
    _stop(agent, system)
    system.run(["launchctl", "bootstrap", agent.domain, str(agent.file)])


def _stop(agent: LaunchAgent, system: System) -> None:
    # It fails where nothing is loaded, which is as it should be.
    system.call(["launchctl", "bootout", f"{agent.domain}/{LABEL}"])


def _remove(path: Path) -> None:
    files.remove(path)
