"""``obt-agent service``: the systemd service, installed, removed, or shown."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Iterable
from pathlib import Path

from obt_agent.argument_parser import JSON_OPTION, PlainArgumentParser, add_options
from obt_agent.cli import exit_codes, launch_agent
from obt_agent.cli.common import to_stderr
from obt_agent.cli.options import CONFIG_OPTIONS
from obt_agent.daemon.status_file import Status, status_line
from obt_agent.identity.provisioned import parse_token, read_token
from obt_agent.identity.secret import Secret
from obt_agent.service import files, install, paths, state, system, uninstall
from obt_agent.service.environment import Wheels
from obt_agent.service.install import InstallStep
from obt_agent.service.lock import hold_lock, interruptible
from obt_agent.service.paths import ServicePaths
from obt_agent.service.system import System
from obt_agent.system import owners
from obt_agent.text_output import print_json

_INSTALL = """\
Install the service, or bring it up to date: an environment of its own in /opt/obt-agent (a copy of what
runs now, or from wheels), user, folders, configuration, the hardened unit, enrolment, start. Give it again to
upgrade; the configuration and the state stay.
"""


def add_arguments(parser: PlainArgumentParser) -> None:
    """Add the command's arguments."""
    # Of install, which writes it into the configuration.
    leading = {**JSON_OPTION, "--ollama-url": CONFIG_OPTIONS["--ollama-url"]}
    metavar = "install|uninstall|status|unit"
    parts = parser.add_subparsers(dest="part", required=True, metavar=metavar, leading=leading)
    _install_options(parts.add_parser("install", help="install or upgrade it", description=_INSTALL))
    remove = parts.add_parser("uninstall", help="remove it, and everything that was made for it")
    remove.add_argument("--keep-state", action="store_true", help="leave identity, jobs, configuration, user")
    remove.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    status = parts.add_parser("status", help="its state in systemd, and the daemon's own line")
    add_options(status, JSON_OPTION)
    unit = parts.add_parser("unit", help="print the unit file")
    unit.add_argument("--user", action="store_true", help="the one for people without root")


def _install_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--server", metavar="URL", help="the OBT server, for a first installation")
    add("--ollama-url", metavar="URL", help="where Ollama answers, if not at its usual address")
    token = parser.add_mutually_exclusive_group()
    token.add_argument(
        "--token-file",
        metavar="FILE",
        help="the one-time join token (- reads standard input; without it, it is asked for at the terminal)",
    )
    token.add_argument(
        "--static-token-file",
        metavar="FILE",
        help="a token that the server knows already, instead of enrolling",
    )
    add("--enroll-again", action="store_true", help="use the token although there is a credential")
    add("--wheel", metavar="FILE", type=Path, help="install this wheel, not what runs now")
    add("--find-links", metavar="DIR", type=Path, help="take wheels from this folder, no network")
    add("--python", metavar="FILE", type=Path, help="the Python to run the service with")
    add("--no-start", action="store_true", help="install only")
    add("--wait", metavar="SECONDS", type=float, default=30.0, help="how long to wait for the server (30)")
    add("--dry-run", action="store_true", help="say what would be done, and do nothing")


def run(args: argparse.Namespace) -> int:
    """Run the part that was asked for."""
    if sys.platform == "darwin":
        return launch_agent.run(args, _token)
    return {"install": _install, "uninstall": _uninstall, "status": _status, "unit": _unit}[args.part](args)


def _install(args: argparse.Namespace) -> int:
    where, runner = paths.here(), system.System()
    # Before a token is read or asked for.
    install.check_machine(where, user=owners.user())
    if where.packaged and Path(sys.prefix) != where.prefix:
        to_stderr(f"A Debian package brought {where.program}, which stays as it is; apt upgrades it.")
    options = install.InstallOptions(
        server=args.server,
        ollama=args.ollama_url,
        token=lambda: _token(args.token_file),
        join=args.token_file is not None,
        static_token=_token(args.static_token_file) if args.static_token_file else None,
        python=args.python,
        wheels=Wheels(args.wheel, args.find_links) if args.wheel or args.find_links else None,
        start=not args.no_start,
        enroll_again=args.enroll_again,
        admitted_within_s=args.wait,
    )
    planned = install.plan(options, where, runner, user=owners.user())
    if options.join and planned.token is None:
        to_stderr(
            "This machine is enrolled already, so that the join token is not used; "
            "--enroll-again enrols it anew."
        )
    _do(planned.steps(), where, runner, dry_run=args.dry_run)
    if args.dry_run or not options.start or not options.admitted_within_s:
        return exit_codes.OK
    return _report_start(install.wait_admitted(where, runner, options.admitted_within_s))


def _report_start(status: Status | None) -> int:
    """How the start went, and what to do about what is not well."""
    if status is None:
        to_stderr("The service runs, and has written no status yet: journalctl -u obt-agent -f")
        return exit_codes.UNAVAILABLE
    to_stderr(status_line(status))
    if not status.ollama.reachable:
        to_stderr(
            "Ollama does not answer; the agent waits for it. Start it, or set ollama.url in agent.yaml."
        )
    if status.link.state != "admitted":
        to_stderr("The service runs and goes on trying. For the cause: sudo obt-agent check")
        return exit_codes.UNAVAILABLE
    return exit_codes.OK


def _token(named: str | None) -> Secret | None:
    if named == "-":
        return parse_token(sys.stdin.buffer.read(4096), "standard input")
    if named:
        return read_token(Path(named))
    if sys.stdin.isatty():
        typed = getpass.getpass("Join token (from the server's operator; it is not shown): ")
        return parse_token(typed.encode(), "what was typed")
    return None


def _uninstall(args: argparse.Namespace) -> int:
    where, runner = paths.here(), system.System()
    install.check_machine(where, user=owners.user())
    _do(uninstall.steps(where, runner, keep_state=args.keep_state), where, runner, dry_run=args.dry_run)
    return exit_codes.OK


def _do(steps: Iterable[InstallStep], where: ServicePaths, runner: System, *, dry_run: bool) -> None:
    if dry_run:
        for step in steps:
            to_stderr(f"would {step.description}")
        return
    with hold_lock(where) as lock, interruptible():
        # What is started holds the lock too: it may outlive this command.
        runner.inherited = (lock,)
        try:
            # Each step decides what it does when it comes: what the ones before it made is there then.
            for step in steps:
                to_stderr(f"- {step.description}")
                if note := step.run():
                    to_stderr(f"  {note}")
        except KeyboardInterrupt:
            to_stderr("Interrupted. Give the same command again: every step can be repeated.")
            raise


def _status(args: argparse.Namespace) -> int:
    service = state.read_state(paths.here(), system.System())
    if args.json:
        print_json(service)
        return exit_codes.OK if service.runs else exit_codes.FAILED
    if not service.installed:
        to_stderr(
            "The service is not installed: sudo obt-agent service install --server URL --token-file FILE"
        )
        return exit_codes.FAILED
    print(f"{service.active}, {'enabled' if service.enabled else 'not enabled'}, {service.restarts} restarts")
    print(f"unit    {service.unit_file}")
    if service.runs and service.status_text:
        print(f"status  {service.status_text}")
    if not service.runs:
        print(f"ended   {service.ending}")
        print("log     journalctl -u obt-agent")
    return exit_codes.OK if service.runs else exit_codes.FAILED


def _unit(args: argparse.Namespace) -> int:
    print(files.shipped(files.USER_UNIT_FILE) if args.user else files.unit_for(paths.here()), end="")
    return exit_codes.OK
