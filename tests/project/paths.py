"""Where the project's tests find the project."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str | Path, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, output captured; `path` is a folder that is searched for programs first.

    What a surrounding make or coverage put into the environment is taken out: it starts as for a user.
    """
    inherited = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VIRTUAL_ENV", "PYTHONPATH", "COV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(inherited)}
    if path is not None:
        environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=570,
        check=False,
    )
