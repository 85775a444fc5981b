"""Install the service, or bring it up to date: check everything, then take each step.

Every step can be repeated; configuration and state stay as they are.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from obt_agent.config.load import LoadedConfig, ProcessContext, load
from obt_agent.daemon.status_file import Status, read_status
from obt_agent.errors import AgentError, ConfigError
from obt_agent.identity.credentials import STORED_FILE
from obt_agent.identity.secret import Secret
from obt_agent.service import environment, files, interpreter
from obt_agent.service.environment import Wheels
from obt_agent.service.interpreter import Interpreter
from obt_agent.service.paths import UNIT, USER, ServicePaths
from obt_agent.service.system import NotRoot, ServiceError, System
from obt_agent.system.owners import group_number

_POLL_S: Final = 0.2


@dataclass(frozen=True, kw_only=True)
class InstallOptions:
    """The options of ``service install``.

    ``server`` and ``ollama`` are addresses for a first configuration. ``token`` gives the join token when it
    is needed (it may ask at the terminal), and ``join`` says that the owner named one; ``static_token`` is
    one that the server knows as it is.
    ``admitted_within_s`` bounds the wait for the server after the start; 0 does not wait.
    """

    server: str | None = None
    ollama: str | None = None
    token: Callable[[], Secret | None] = lambda: None
    join: bool = False
    static_token: Secret | None = None
    python: Path | None = None
    wheels: Wheels | None = None
    start: bool = True
    enroll_again: bool = False
    admitted_within_s: float = 30.0


@dataclass(frozen=True)
class InstallStep:
    """Something to do: what, in words, and how. ``run`` may give words of its own for what it did."""

    description: str
    run: Callable[[], str | None]


def check_machine(paths: ServicePaths, *, user: int) -> None:
    """Whether anything can be installed here at all.

    Raises:
        NotRoot: only root may.
        ServiceError: systemd does not run here.
    """
    if not paths.systemd_runs:
        raise ServiceError(
            "systemd does not run here (there is no /run/systemd/system), so there is nothing to install "
            "into. `obt-agent run` serves in the foreground, under whatever starts services here."
        )
    if user != 0:
        raise NotRoot(
            "Only root may install or remove the service: put sudo before the command "
            f"(sudo {_this_program()} service …). Without root: docs/how-to/service.md, the user unit."
        )


def _this_program() -> str:
    """The command with its path: sudo's PATH does not hold what pip and pipx put into a home."""
    return os.path.abspath(sys.argv[0]) if os.sep in sys.argv[0] else "obt-agent"  # noqa: PTH100 - links are kept


@dataclass
class PreviousInstall:
    """What was there before the first step, to go back to; None is not known yet, or was not there."""

    # Noted before the first step that stops the service.
    running: bool | None = None
    # The text of the unit, which an older version may need as it was.
    unit: str | None = None


@dataclass(frozen=True)
class InstallPlan:
    """What will be done: every decision taken, nothing changed yet.

    A new version that does not start gives way to the one that ran before.
    """

    paths: ServicePaths
    options: InstallOptions
    system: System
    # For a new environment; None where the one that is there stays.
    python: Interpreter | None
    # To be written; None where the configuration stays as it is.
    config_text: str | None
    # The join token; None where the machine does not enrol.
    token: Secret | None
    # The one thing that changes while the steps are taken.
    before: PreviousInstall = field(default_factory=PreviousInstall)

    def steps(self) -> Iterator[InstallStep]:
        """The steps, in order."""
        if self.python:
            yield InstallStep(
                f"make {self.paths.prefix} with Python {self.python.full_version}", self._environment
            )
        if not self.paths.packaged:
            yield InstallStep(f"write {self.paths.unit}, user and folders", self._unit)
        if self.config_text is not None:
            yield InstallStep(f"write {self.paths.config}", self._config)
        if self.options.static_token:
            yield InstallStep(f"write the token to {self.paths.token}", self._static_token)
        if self.token:
            replaced = f", in place of {self.paths.token}" if self.paths.token.exists() else ""
            yield InstallStep(
                f"stop the service if it runs, and enrol this machine with the join token{replaced}",
                self._enroll,
            )
        if self.options.start:
            yield InstallStep("enable and start the service", self._start)

    def _environment(self) -> str | None:
        changed = True
        if self.python:
            self._note_whether_it_runs()
            changed = environment.make(self.paths.prefix, self.python, self.options.wheels, self.system)
            launcher = self.paths.launcher
            # A file of that name that is no link is somebody else's.
            if launcher.is_symlink() or not launcher.exists():
                files.remove(launcher)
                launcher.parent.mkdir(parents=True, exist_ok=True)
                launcher.symlink_to(self.paths.program)
            if not self.options.start:
                environment.discard_previous(self.paths.prefix)
        return None if changed else "what is there is the same, and stays"

    def _note_whether_it_runs(self) -> None:
        if self.before.running is None:
            self.before.running = self.system.properties("ActiveState").get("ActiveState") == "active"

    def _unit(self) -> None:
        paths = self.paths
        files.write(paths.sysusers, files.shipped(files.SYSUSERS_FILE))
        files.write(paths.tmpfiles, files.shipped(files.TMPFILES_FILE))
        self.system.run(["systemd-sysusers", str(paths.sysusers)])
        self.system.run(["systemd-tmpfiles", "--create", str(paths.tmpfiles)])
        self.before.unit = files.text_of(paths.unit)
        files.write(paths.unit, files.unit_for(paths))
        self.system.run(["systemctl", "daemon-reload"])

    def _config(self) -> None:
        files.write(self.paths.config, self.config_text or "", mode=0o640, group=group_number(USER))

    def _static_token(self) -> None:
        if self.options.static_token:
            files.write(self.paths.token, self.options.static_token.reveal() + "\n", mode=0o600)

    def _enroll(self) -> str | None:
        """As the service's own user: what a server answers is never read with root's rights."""
        if self.token is None:
            return None
        self._note_whether_it_runs()
        self.system.run(["systemctl", "stop", UNIT])
        paths = self.paths
        self.system.run(["install", "-d", "-m", "0700", "-o", USER, "-g", USER, str(paths.state)])
        command = [str(paths.program), "enroll", "--config", str(paths.config)]
        command += ["--state-dir", str(paths.state), "--token-file", "-"]
        # The token goes through standard input: arguments can be read by every user of the machine.
        done = self.system.call(command, text=self.token.reveal() + "\n", user=USER)
        if done.code != 0:
            if self.before.running:
                self.system.call(["systemctl", "start", UNIT])
            state = "the service runs as before" if self.before.running else "all else is installed"
            raise ServiceError(
                f"Enrolment failed, and {state}:\n{(done.err or done.out).strip()}\n"
                "Correct the cause, then give the same command again."
            )
        files.remove(paths.token)  # a token that lies there would win over the credential, as the newer one
        return done.out.strip().partition("\n")[0] or None

    def _start(self) -> str | None:
        self.system.run(["systemctl", "enable", "--quiet", UNIT])
        if self._runs_unchanged():
            return "it runs, and nothing has changed since its start: it is not restarted"
        # Else systemd would go on counting the failures of the version before.
        self.system.call(["systemctl", "reset-failed", UNIT])
        outcome = self.system.call(["systemctl", "restart", UNIT])
        if outcome.code != 0:
            log = self.system.journal(15).strip()
            again = self._go_back()
            raise ServiceError(
                f"The service does not start{', and the version before it runs again' if again else ''}. "
                f"Its log:\n{log}"
            )
        if self.python:
            environment.discard_previous(self.paths.prefix)
        return None

    def _runs_unchanged(self) -> bool:
        """Whether the service runs, and began after everything that it is made of was last changed."""
        if self.system.properties("ActiveState").get("ActiveState") != "active":
            return False
        try:
            status = read_status(self.paths.state).status
        except AgentError:
            return False
        paths = self.paths
        parts = (paths.prefix / environment.MARK, paths.unit, paths.config, paths.token)
        # By their times, not by what this command did: an earlier one may have started nothing (--no-start).
        changes = (
            path.stat().st_mtime for path in (*parts, *paths.overrides.glob("*.conf")) if path.exists()
        )
        return status is not None and all(at <= status.started_at for at in changes)

    def _go_back(self) -> bool:
        """Go back to the version that ran before, if there was one. Return whether it runs again."""
        if not (self.python and self.before.running and environment.restore(self.paths.prefix)):
            return False
        if self.before.unit is not None:
            files.write(self.paths.unit, self.before.unit)
            self.system.run(["systemctl", "daemon-reload"])
        self.system.call(["systemctl", "reset-failed", UNIT])
        return self.system.call(["systemctl", "restart", UNIT]).code == 0


def plan(options: InstallOptions, paths: ServicePaths, system: System, *, user: int) -> InstallPlan:
    """Decide everything that can be decided before anything is changed.

    Raises:
        ServiceError: it cannot be installed here, or something is missing; the message says what.
        ConfigError: the configuration, or an address that was given, is wrong.
    """
    check_machine(paths, user=user)
    # The token after the configuration: it may be asked for at the terminal, in vain if that is wrong.
    text = _config_text(options, paths)
    token = _needed_token(options) if _must_enrol(options, paths) else None
    return InstallPlan(paths, options, system, _python(options, paths), text, token)


def _python(options: InstallOptions, paths: ServicePaths) -> Interpreter | None:
    """The Python for a new environment; None where the program runs from its own already, or dpkg owns it."""
    if paths.packaged or (Path(sys.prefix) == paths.prefix and options.wheels is None):
        return None
    return interpreter.choose(options.python, same_as_ours=options.wheels is None)


def _must_enrol(options: InstallOptions, paths: ServicePaths) -> bool:
    """Whether it takes a join token: never twice, and not beside a static one, unless the owner says so."""
    if options.static_token:
        return False
    if options.enroll_again:
        return True
    if (paths.state / STORED_FILE).exists():
        return False
    return options.join or not paths.token.exists()


def _needed_token(options: InstallOptions) -> Secret:
    token = options.token()
    if token is None:
        raise ConfigError(
            "A join token is needed to enrol this machine. Make one on the server (obt-server tokens join, "
            "or its page), and give it with --token-file FILE, or with --token-file - on standard input."
        )
    return token


def _config_text(options: InstallOptions, paths: ServicePaths) -> str | None:
    """The text to write; None where the configuration that is there will do.

    Raises:
        ConfigError: it is wrong, or an address is.
        ServiceError: it names another server than the one that was asked for.
    """
    there = paths.config.exists()
    now = _load(paths, {}) if there else None
    known = now.config.server.url if now else None
    if options.server is None and known is None:
        raise ConfigError(
            f"Which server? Give --server https://HOST, or write server.url into {paths.config}."
        )
    if options.server is None:
        return None
    wanted = _requested(options, paths).config.server.url
    if known is None:
        text = paths.config.read_text(encoding="utf-8") if there else files.shipped(files.CONFIG_FILE)
        return files.with_server(text, options.server, options.ollama)
    if known != wanted:
        raise ServiceError(
            f"{paths.config} names another server ({known}), and is yours to change: edit server.url there, "
            "then give the same command with --enroll-again."
        )
    return None


def _load(paths: ServicePaths, flags: dict[str, tuple[str, str]]) -> LoadedConfig:
    """What the service would read: its file, and nothing of this shell's environment."""
    # The installer's own variables must not decide what the service will read.
    nobody = {"XDG_CONFIG_HOME": str(paths.root / "nonexistent")}
    around = ProcessContext(environ=nobody, working_dir=paths.root, terminal=False, user=0)
    path = str(paths.config) if paths.config.exists() else None
    return load(path, flags=flags, surroundings=around)


def _requested(options: InstallOptions, paths: ServicePaths) -> LoadedConfig:
    flags = {}
    if options.server is not None:
        flags["server.url"] = ("--server", options.server)
    if options.ollama is not None:
        flags["ollama.url"] = ("--ollama-url", options.ollama)
    return _load(paths, flags)


def wait_admitted(paths: ServicePaths, system: System, within_s: float) -> Status | None:
    """Wait until the running service is admitted; its status as it was last, or None if it wrote none.

    Raises:
        ServiceError: the service ended meanwhile; the message holds what it logged.
    """
    deadline = time.monotonic() + within_s
    status = None
    while time.monotonic() < deadline:
        status = read_status(paths.state).status
        if status and status.link.state == "admitted":
            return status
        # Only "failed" is final: "activating" is a restart, which may still lead to an admission.
        if system.properties("ActiveState").get("ActiveState") == "failed":
            raise ServiceError(f"The service ended. Its log:\n{system.journal(15).strip()}")
        time.sleep(_POLL_S)
    return status
