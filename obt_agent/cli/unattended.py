"""``run --join-token-file``: for where whatever ends is started again, as in a container.

The agent enrols with the token in the file when it has no credential, or when the server revoked the one that
it has. What a person has to put right is said, waited for and looked at again: status 78 ends a service for
good, and makes a restart policy start it over and over.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import time
from pathlib import Path

import structlog

from obt_agent import daemon
from obt_agent.backoff import Backoff
from obt_agent.cli import exit_codes
from obt_agent.cli.common import load_config, read_config
from obt_agent.cli.enroll import enroll_here
from obt_agent.config.load import LoadedConfig
from obt_agent.daemon.waiting_file import told_in_file
from obt_agent.errors import AdmissionRefused, ConfigError
from obt_agent.identity.credentials import Credentials
from obt_agent.identity.provisioned import read_token, token_file
from obt_agent.identity.state_dir import StateDir
from obt_agent.log_setup.setup import LogPipeline, LogSettings, configure
from obt_agent.service.lock import interruptible, take_interrupts

log = structlog.get_logger(__name__)

_UNAUTHORIZED = 401


class UnattendedRun:
    """Runs the daemon until a signal ends it, or something that a new start may well change.

    Args:
        args: the command line, with ``join_token_file``.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._token_file = Path(args.join_token_file)
        # Hashes of join tokens that were used or refused: the server would take a second try for a guess.
        self._spent: set[str] = set()
        # The server takes the stored credential no more.
        self._enrol_anew = False
        # Kept while its settings stay: it knows which lines it has written already.
        self._log: tuple[LogSettings, LogPipeline] | None = None
        # Holds the file that says why it waits, until the daemon runs.
        self._told = contextlib.ExitStack()

    def run(self) -> int:
        """Serve; return the exit status.

        Raises:
            AgentError: it ended for a reason that no person has to put right, such as a full disk.
        """
        delays = Backoff(clock=time.monotonic, random=random.random)
        try:
            # As the first process of a container, this one hears a signal only where it says so.
            with interruptible():
                while True:
                    try:
                        loaded = self._ready()
                        self._told.close()
                        # Waits grow from one failure to the next, and shrink with the time that it ran.
                        delays.admitted()
                        return daemon.run(loaded)
                    except (ConfigError, AdmissionRefused) as error:
                        # The daemon's loop set them back to the system's own handling when it closed.
                        take_interrupts()
                        if exit_codes.of(error) == exit_codes.TEMPORARY:
                            raise
                        delays.ended()
                        self._enrol_anew |= isinstance(error.__cause__, AdmissionRefused)
                        seconds = delays.delay()
                        self._wait(error.message, seconds)
        except KeyboardInterrupt:
            return exit_codes.OK
        finally:
            self._told.close()
            if self._log is not None:
                self._log[1].close()

    def _wait(self, reason: str, seconds: float) -> None:
        self._told.close()
        # What it waits for may be a configuration that names its folder.
        with contextlib.suppress(ConfigError):
            folder = read_config(self._args).config.agent.state_dir
            self._told.enter_context(told_in_file(Path(folder), reason, seconds))
        log.warning("run.waiting", reason=reason, again_in_s=round(seconds, 1))
        time.sleep(seconds)

    def _ready(self) -> LoadedConfig:
        """Return the configuration, once there is a credential to try."""
        loaded = self._load()
        self._join_if_needed(loaded)
        return loaded

    def _load(self) -> LoadedConfig:
        if self._log is None:
            self._log_by(LogSettings())
        loaded = load_config(self._args, need_server=True, log=False)
        wanted = loaded.config.log
        self._log_by(LogSettings(level=wanted.level, format=wanted.format, prompts=wanted.prompts))
        return loaded

    def _log_by(self, settings: LogSettings) -> None:
        if self._log is None or self._log[0] != settings:
            self._log = (settings, configure(settings))

    def _join_if_needed(self, loaded: LoadedConfig) -> None:
        with StateDir.open(Path(loaded.config.agent.state_dir)) as state:
            given = token_file(loaded.config.server.token_file, os.environ)
            credentials = Credentials(state.folder, read_token(given) if given else None)
            known = credentials.for_next_dial() is not None
        if known and not self._enrol_anew:
            return
        token = read_token(self._token_file)
        if token.sha256() in self._spent:
            raise ConfigError(
                f"The join token in {self._token_file} was used, or the server refused it: put a new one "
                "there."
            )
        try:
            asyncio.run(enroll_here(loaded, token))
        except AdmissionRefused as error:
            if error.detail.get("http_status") == _UNAUTHORIZED:
                self._spent.add(token.sha256())
            raise
        self._spent.add(token.sha256())
        self._enrol_anew = False
