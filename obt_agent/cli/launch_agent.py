"""What ``obt-agent service`` does on macOS: a launch agent of the user who gives the command."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from obt_agent.cli import exit_codes
from obt_agent.cli.common import to_stderr
from obt_agent.config.file import user_file
from obt_agent.config.load import load
from obt_agent.errors import ConfigError
from obt_agent.identity.credentials import STORED_FILE
from obt_agent.identity.secret import Secret
from obt_agent.service import launchd
from obt_agent.service.install import InstallStep
from obt_agent.service.launchd import LaunchAgent
from obt_agent.service.system import ServiceError, System
from obt_agent.system import owners
from obt_agent.text_output import print_json

# By attribute, the options that only an environment of the service's own has a use for.
_NOT_HERE: Final = {
    "wheel": "--wheel",
    "find_links": "--find-links",
    "python": "--python",
    "static_token_file": "--static-token-file",
    "ollama_url": "--ollama-url",
}


def run(
    args: argparse.Namespace,
    token: Callable[[str | None], Secret | None],
    agent: LaunchAgent | None = None,
    system: System | None = None,
) -> int:
    """Run the part that was asked for; ``token`` reads the join token from the file that it is given."""
    agent = agent or LaunchAgent(Path.home(), user_file(os.environ), owners.user())
    system = system or System()
    if args.part == "install":
        return _install(args, token, agent, system)
    if args.part == "uninstall":
        _do(launchd.uninstall_steps(agent, system), dry_run=args.dry_run)
        to_stderr(f"{agent.config} and the agent's state folder stay; they are yours to remove.")
    elif args.part == "status":
        state = launchd.read_state(agent, system)
        if args.json:
            print_json({"installed": state is not None, "state": state})
        else:
            print(state or "not installed: obt-agent service install --server URL --token-file FILE")
        return exit_codes.FAILED if state is None else exit_codes.OK
    else:
        print(agent.text(), end="")
    return exit_codes.OK


def _install(
    args: argparse.Namespace,
    token: Callable[[str | None], Secret | None],
    agent: LaunchAgent,
    system: System,
) -> int:
    unknown = [flag for name, flag in _NOT_HERE.items() if getattr(args, name)]
    if unknown:
        raise ServiceError(f"On macOS there is no {' and no '.join(unknown)}; write it into {agent.config}.")
    must_enrol = _must_enrol(args, agent)
    # It may be asked for at the terminal, so not in vain.
    given = token(args.token_file) if must_enrol else None
    if must_enrol and given is None:
        raise ConfigError("A join token is needed to enrol this machine: give it with --token-file FILE.")
    steps = launchd.install_steps(agent, system, server=args.server, token=given, start=not args.no_start)
    _do(steps, dry_run=args.dry_run)
    to_stderr(f"The log: {agent.log}. What is wrong, if anything: obt-agent check")
    return exit_codes.OK


def _must_enrol(args: argparse.Namespace, agent: LaunchAgent) -> bool:
    """Whether it takes a join token: not a second one, unless the owner says so."""
    # As the agent will read it; a wrong file is refused here, before anything is done.
    known = load(str(agent.config), may_be_missing=True).config
    if args.server is None and known.server.url is None:
        raise ConfigError(
            f"Which server? Give --server https://HOST, or write server.url into {agent.config}."
        )
    return args.enroll_again or not (Path(known.agent.state_dir) / STORED_FILE).exists()


def _do(steps: Iterable[InstallStep], *, dry_run: bool) -> None:
    # A step says what it does when it comes to it: what is refused was refused before the first.
    for step in steps:
        to_stderr(f"would {step.description}" if dry_run else f"- {step.description}")
        note = None if dry_run else step.run()
        if note:
            to_stderr(f"  {note}")
