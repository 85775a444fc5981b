"""Puts the commit into what is built, as ``obt_agent/_commit.txt``, for ``obt-agent --version``.

A hook of hatchling. Built from anything but a checkout (a source distribution carries the file already) it
adds nothing.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_WITHIN_S = 10.0
_DESCRIBE = ("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


class BakeCommit(BuildHookInterface[Any]):
    """Adds the file to wheels and source distributions, not to editable installs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the file somewhere temporary and have it included."""
        commit = _commit(Path(self.root))
        if version == "editable" or commit is None:
            return
        folder = tempfile.mkdtemp(prefix="obt-commit-")
        file = Path(folder) / "_commit.txt"
        file.write_text(commit + "\n", encoding="ascii")
        build_data["force_include"][str(file)] = "obt_agent/_commit.txt"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary file."""
        del version, artifact_path
        for source, target in build_data["force_include"].items():
            if target == "obt_agent/_commit.txt":
                Path(source).unlink()
                Path(source).parent.rmdir()


def _commit(root: Path) -> str | None:
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), *_DESCRIBE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_WITHIN_S, check=True)  # noqa: S603 - fixed words and the project's own folder
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
