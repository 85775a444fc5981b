"""Debian packages for the tests: built, changed into those of other releases, and held to Debian's rules."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.systemd.payload import ROOT


def build(name: str, folder: Path, *, umask: int = -1, **environment: str) -> Path:
    """One package of the project as it is now, into a folder."""
    made = subprocess.run(
        [ROOT / "scripts" / "make-deb", name],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        cwd=ROOT,
        umask=umask,
        env={**os.environ, "TO": str(folder), **environment},
    )
    assert made.returncode == 0, made.stderr
    return Path(made.stdout.strip())


def changed(package: Path, file: Path, version: str, change: Callable[[Path], None]) -> Path:
    """The same package with another version and whatever ``change`` does to its tree."""
    tree = file.with_suffix("")
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True, timeout=120)
    control = tree / "DEBIAN" / "control"
    lines = control.read_text().splitlines()
    control.write_text("".join(f"{_version(line, version)}\n" for line in lines))
    change(tree)
    # Stored, not compressed: it is thrown away.
    command: list[str | Path] = ["dpkg-deb", "--build", "--root-owner-group", "-Znone", tree, file]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    return file


def _version(line: str, version: str) -> str:
    return f"Version: {version}" if line.startswith("Version:") else line


def lint(package: Path) -> str:
    """What lintian finds, errors and warnings; overrides carry their reasons in the packages."""
    # As root it warns of that, which says nothing about the package.
    command: list[str | Path] = ["lintian", "--allow-root", "--fail-on", "error,warning", package]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    return done.stdout + (done.stderr if done.returncode else "")
