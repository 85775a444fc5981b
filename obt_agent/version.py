"""The version of the program, and the commit that it was made from."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from obt_agent import __version__

_BAKED = Path(__file__).with_name("_commit.txt")
_GIT_WITHIN_S = 2.0


@cache
def commit() -> str | None:
    """The commit's short hash, ``-dirty`` where files were changed since; None where it is not known.

    A wheel carries it in a file; in a checkout git is asked.
    """
    try:
        return _BAKED.read_text(encoding="ascii").strip() or None
    except OSError:
        return _from_git(Path(__file__).parent.parent)


def full_version() -> str:
    """``0.1.0 (commit 1a2b3c4d5e6f)``, or the version alone."""
    known = commit()
    return f"{__version__} (commit {known})" if known else __version__


class VersionAction(argparse.Action):
    """``--version`` of a program's parser. Git is asked only where somebody wants to know."""

    def __init__(self, option_strings: Sequence[str], dest: str, **more: Any) -> None:
        # No option that was given or not: it ends the program.
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **more)

    def __call__(self, parser: argparse.ArgumentParser, *_args: Any, **_more: Any) -> None:
        """Print the program's name and its version, and exit."""
        sys.stdout.write(f"{parser.prog} {full_version()}\n")
        parser.exit()


def _from_git(checkout: Path) -> str | None:
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_WITHIN_S, check=True)  # noqa: S603 - fixed words and our own path
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
