"""Folders and files that lie elsewhere on each system. Nothing is read or made here."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path


def lock_folder(environ: Mapping[str, str], platform: str = sys.platform) -> str | None:
    """Return where all users of a machine can make files that name a lock; None for Linux's own place.

    Linux has a folder for it that a reboot empties. Elsewhere a lock's file stays, which hurts nobody: only a
    process that runs holds the lock.
    """
    if platform == "linux":
        return None
    if platform == "win32":
        return str(Path(environ.get("ProgramData") or "C:/ProgramData") / "obt-agent" / "locks")
    # Not /tmp, which macOS clears of files that nobody has touched for three days, held or not.
    return "/var/tmp/obt-agent"  # noqa: S108 - the lock refuses links, and a file that is no plain one


def has_system_configuration(platform: str = sys.platform) -> bool:
    """Return whether ``/etc`` is root's alone, so that a configuration there is the administrator's.

    Windows lets every user make a folder of that name.
    """
    return platform != "win32"


def launch_agents(home: Path) -> Path:
    """Return where launchd finds what it starts for one user."""
    return home / "Library" / "LaunchAgents"
