"""``obt-agent diag``: pack a bundle for a bug report.

Without secrets, prompts, answers and serial numbers; hosts, people and addresses have stand-ins. Models keep
their names.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from obt_agent.cli import exit_codes, version
from obt_agent.cli.common import as_json, load_config, to_stderr
from obt_agent.cli.options import add_config_options
from obt_agent.config.load import LoadedConfig
from obt_agent.config.problems import WrongConfig
from obt_agent.daemon.status_file import read_status
from obt_agent.doctor import bundle, configuration
from obt_agent.doctor.findings import CheckReport
from obt_agent.doctor.run_checks import run_all
from obt_agent.errors import AgentError
from obt_agent.hardware.service import HardwareService
from obt_agent.identity.provisioned import read_token, token_file_seen
from obt_agent.log_setup.setup import LogSettings, configure
from obt_agent.service.system import ServiceError, System
from obt_agent.version import full_version

# Registries that everybody knows; any other one names its owner.
_PUBLIC: Final = frozenset({"registry.ollama.ai", "ollama.com", "hf.co", "huggingface.co"})
_JOURNAL_LINES: Final = 500
# A journal on a slow disk takes its time; a command that hangs must not keep the bundle.
_WITHIN_S: Final = 30.0
# Files of the bundle that are what a command prints.
_SYSTEM: Final[Mapping[str, tuple[str, ...]]] = {
    "journal.txt": (
        *("journalctl", "--unit", "obt-agent", "--lines", str(_JOURNAL_LINES)),
        *("--no-pager", "--no-hostname", "-o", "short-iso"),
    ),
    "unit.txt": ("systemctl", "cat", "obt-agent.service"),
    "service.txt": ("systemctl", "show", "obt-agent.service"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--output", metavar="FILE", type=Path, help="else obt-agent-diag-DATE.tar.gz, here")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Collect, mask, pack. A configuration that is wrong is part of what is packed."""
    path = args.output or Path(f"obt-agent-diag-{time.strftime('%Y%m%dT%H%M%S')}.tar.gz")
    try:
        loaded = load_config(args)
        texts, secrets, names = collect(loaded), _secrets(loaded), _machine() | _configured(loaded)
    except WrongConfig as error:
        to_stderr(f"{error.message}\nIt goes into the bundle with the rest.")
        texts, secrets, names = {"check.json": _problems(error), **_about_the_system()}, [], _machine()
    try:
        bundle.write(path, texts, secrets, names)
    except OSError as error:
        to_stderr(f"{path} cannot be written: {error.strerror or error}. Name another with --output.")
        return exit_codes.FAILED
    print(path)
    to_stderr(f"{', '.join(texts)} are in it. Look through it before you hand it on: tar -xzf {path}")
    return exit_codes.OK


def _problems(error: WrongConfig) -> str:
    report = CheckReport(version=full_version(), findings=tuple(configuration.from_problems(error)))
    return as_json(report)


def _machine() -> dict[str, str]:
    """Names of this machine and of who sits at it, and what stands in the bundle for them."""
    # With its domain and without: logs hold either.
    host = socket.gethostname()
    people = {os.environ.get(name, "") for name in ("USER", "LOGNAME", "SUDO_USER")}
    return {host: "<host>", host.partition(".")[0]: "<host>"} | dict.fromkeys(people, "<user>")


def _configured(loaded: LoadedConfig) -> dict[str, str]:
    """Hosts and names in the configuration."""
    config = loaded.config
    urls = {"<server>": config.server.url, "<proxy>": config.server.proxy, "<ollama-host>": config.ollama.url}
    hosts = {host: stand_in for stand_in, url in urls.items() if (host := urlsplit(url or "").hostname)}
    registries = dict.fromkeys(set(config.policy.registries) - _PUBLIC, "<registry>")
    return {config.agent.name: "<agent>"} | registries | hosts


def collect(loaded: LoadedConfig) -> dict[str, str]:
    """Name and text of each file of the bundle, not masked yet."""
    configure(LogSettings(level="error", format="console"))
    report = asyncio.run(run_all(loaded, os.environ))
    return {
        "check.json": as_json(report),
        "hardware.json": asyncio.run(_hardware(loaded)),
        "status.json": _status(loaded),
        **_about_the_system(),
    }


def _about_the_system() -> dict[str, str]:
    outputs = {name: _output(command) for name, command in _SYSTEM.items()}
    return {"versions.json": json.dumps(version.facts(), indent=2), **outputs}


async def _hardware(loaded: LoadedConfig) -> str:
    service = HardwareService(loaded.config.hardware, ollama_url=loaded.config.ollama.url)
    try:
        inventory = await service.inventory()
    except AgentError as error:
        return error.message
    finally:
        await service.close()
    return as_json(inventory)


def _status(loaded: LoadedConfig) -> str:
    try:
        found = read_status(Path(loaded.config.agent.state_dir))
    except AgentError as error:
        return error.message
    if found.status:
        return as_json(found.status)
    return f"{found.holder}, which has written no status yet" if found.holder else "no agent runs"


def _output(command: tuple[str, ...]) -> str:
    """What a command of the system prints; why not, where it cannot be run."""
    try:
        outcome = System(timeout_s=_WITHIN_S).call(command)
    except ServiceError as error:
        return f"{error}\n"
    return outcome.out + outcome.err


def _secrets(loaded: LoadedConfig) -> list[str]:
    """Return every secret that this user can read, so that none is in the bundle, by whatever way."""
    found = []
    try:
        config, folder = loaded.config, Path(loaded.config.agent.state_dir)
        if file := token_file_seen(config.server.token_file, os.environ, folder):
            found.append(read_token(file).reveal())
    except AgentError:
        pass  # what cannot be read cannot get in
    # Also a credential that a rotation has made and that the server has not confirmed.
    for name in ("credential.json", "credential-candidate.json", "join.json"):
        try:
            kept = json.loads((Path(loaded.config.agent.state_dir) / name).read_text())
            found.append(str(kept["secret"]))
        except (OSError, ValueError, KeyError):
            continue
    return found
