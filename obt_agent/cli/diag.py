"""``obt-agent diag``: pack a bundle for a bug report, without secrets, prompts, answers or serial numbers."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from obt_agent.cli import COMMANDS, exit_codes
from obt_agent.cli.common import add_config_options, load_config, say

if TYPE_CHECKING:
    from obt_agent.cli import Subparsers
    from obt_agent.config.load import Loaded

_JOURNAL_LINES: Final = 500
_WITHIN_S: Final = 30.0
_SYSTEM: Final[Mapping[str, tuple[str, ...]]] = {
    "journal.txt": (
        "journalctl",
        "--unit",
        "obt-agent",
        "--lines",
        str(_JOURNAL_LINES),
        "--no-pager",
        "-o",
        "short-iso",
    ),
    "unit.txt": ("systemctl", "cat", "obt-agent.service"),
    "service.txt": ("systemctl", "show", "obt-agent.service"),
}


def register(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser("diag", help=COMMANDS["diag"], description=__doc__)
    parser.add_argument("--output", metavar="FILE", type=Path, help="else obt-agent-diag-DATE.tar.gz, here")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Collect, mask, pack."""
    from obt_agent.doctor import bundle  # noqa: PLC0415 - imported when the command runs

    loaded = load_config(args)
    path = args.output or Path(f"obt-agent-diag-{time.strftime('%Y%m%dT%H%M%S')}.tar.gz")
    texts = collect(loaded)
    try:
        bundle.write(path, texts, _secrets(loaded))
    except OSError as error:
        say(f"{path} cannot be written: {error.strerror or error}. Name another with --output.")
        return exit_codes.FAILED
    print(path)
    say(f"{', '.join(texts)} are in it. Look through it before you hand it on: tar -xzf {path}")
    return exit_codes.OK


def collect(loaded: Loaded) -> dict[str, str]:
    """Name and text of each file of the bundle, not masked yet."""
    import msgspec  # noqa: PLC0415 - imported when the command runs

    from obt_agent.cli import version  # noqa: PLC0415 - the same
    from obt_agent.doctor.examine import examine  # noqa: PLC0415 - the same
    from obt_agent.log_setup.setup import LogSettings, configure  # noqa: PLC0415 - the same

    configure(LogSettings(level="error", format="console"))
    report = asyncio.run(examine(loaded, os.environ))
    texts = {
        "check.json": msgspec.json.format(msgspec.json.encode(report)).decode(),
        "versions.json": json.dumps(version.facts(), indent=2),
        "hardware.json": asyncio.run(_hardware(loaded)),
        "status.json": _status(loaded),
    }
    return texts | {name: _said(command) for name, command in _SYSTEM.items()}


async def _hardware(loaded: Loaded) -> str:
    import msgspec  # noqa: PLC0415 - imported when the command runs

    from obt_agent.agent import settings  # noqa: PLC0415 - the same
    from obt_agent.errors import AgentError  # noqa: PLC0415 - the same
    from obt_agent.hardware.service import HardwareService  # noqa: PLC0415 - the same

    service = HardwareService(settings.hardware(loaded.config))
    try:
        inventory = await service.inventory()
    except AgentError as error:
        return error.message
    finally:
        await service.close()
    return msgspec.json.format(msgspec.json.encode(inventory)).decode()


def _status(loaded: Loaded) -> str:
    import msgspec  # noqa: PLC0415 - imported when the command runs

    from obt_agent.errors import AgentError  # noqa: PLC0415 - the same
    from obt_agent.status import look  # noqa: PLC0415 - the same

    try:
        found = look(Path(loaded.config.agent.state_dir))
    except AgentError as error:
        return error.message
    return (
        msgspec.json.format(msgspec.json.encode(found.status)).decode() if found.status else str(found.holder)
    )


def _said(command: tuple[str, ...]) -> str:
    """What a command of the system says; why not, where it says nothing."""
    program = shutil.which(command[0])
    if program is None:
        return f"there is no {command[0]} here\n"
    try:
        done = subprocess.run(  # noqa: S603 - words of ours
            [program, *command[1:]],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_WITHIN_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"{command[0]}: {error}\n"
    return done.stdout + done.stderr


def _secrets(loaded: Loaded) -> list[str]:
    """Every secret that this user can read, so that none of them is in the bundle by any road."""
    from obt_agent.errors import AgentError  # noqa: PLC0415 - imported when the command runs
    from obt_agent.identity.provisioned import read_token, token_file_seen  # noqa: PLC0415 - the same

    found = []
    try:
        config, folder = loaded.config, Path(loaded.config.agent.state_dir)
        if file := token_file_seen(config.server.token_file, os.environ, folder):
            found.append(read_token(file).reveal())
    except AgentError:
        pass  # what cannot be read cannot get in
    for name in ("credential.json", "credential-candidate.json", "join.json"):
        try:
            kept = json.loads((Path(loaded.config.agent.state_dir) / name).read_text())
            found.append(str(kept["secret"]))
        except (OSError, ValueError, KeyError):
            continue
    return found
