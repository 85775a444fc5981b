"""``obt-agent version``: what to name in a bug report."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata
from typing import Final

from obt_agent import __version__
from obt_agent.argument_parser import JSON_OPTION, add_options
from obt_agent.cli import exit_codes
from obt_agent.text_output import print_json
from obt_agent.version import commit

# uvloop is optional; all others are there wherever the agent runs.
_LIBRARIES: Final = (
    "aiohttp",
    "msgspec",
    "nvidia-ml-py",
    "psutil",
    "pyyaml",
    "structlog",
    "websockets",
    "uvloop",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_options(parser, JSON_OPTION)


def run(args: argparse.Namespace) -> int:
    """Print what is installed."""
    found = facts()
    if args.json:
        print_json(found)
    else:
        for name, value in found.items():
            print(f"{name:<14}{value or 'not known' if name == 'commit' else value or 'not installed'}")
    return exit_codes.OK


def facts() -> dict[str, str | None]:
    """Versions by name; None for what is not installed, or not known."""
    return {
        "obt-agent": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "system": platform.platform(),
        **{name: _installed(name) for name in _LIBRARIES},
    }


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
