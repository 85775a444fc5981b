"""Which Python the service runs on: one that its sandbox lets it see, and that fits what is installed."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from obt_agent.service.system import ServiceError, System

OLDEST: Final = (3, 11)
NEWEST_KNOWN: Final = 14
_WITHIN_S: Final = 20.0
HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - places that the unit hides
_ASK: Final = (
    "import json, platform, sys;"
    " print(json.dumps([list(sys.version_info[:2]), getattr(sys, '_base_executable', sys.executable),"
    " sys.implementation.name, platform.python_version()]))"
)


@dataclass(frozen=True)
class Interpreter:
    """A Python: its real path, major and minor version, and the full version's text."""

    path: Path
    version: tuple[int, int]
    full_version: str

    @property
    def short(self) -> str:
        """``3.11``."""
        return "{}.{}".format(*self.version)


def choose(
    requested: Path | None, *, same_as_ours: bool, hidden_places: Sequence[str] = HIDDEN
) -> Interpreter:
    """The Python to use.

    Args:
        requested: the one that the owner named, used or refused.
        same_as_ours: it must have our own major and minor version, since compiled modules are copied.
        hidden_places: folders that the unit hides.

    Raises:
        ServiceError: none will do; the message says why for each, and what to install.
    """
    ours = sys.version_info[:2]
    needed = ours if same_as_ours else None
    if requested:
        return fit(requested, needed, hidden_places)
    reasons = []
    for candidate in candidates(ours, same_as_ours=same_as_ours):
        try:
            return fit(candidate, needed, hidden_places)
        except ServiceError as error:
            reasons.append(f"  {error.message}")
    raise ServiceError(
        "No Python here will do for the service:\n"
        + "\n".join(reasons)
        + f"\nInstall python{ours[0]}.{ours[1]} for the whole system (Debian, Ubuntu: "
        f"apt-get install python{ours[0]}.{ours[1]}), or name one with --python."
    )


def candidates(ours: tuple[int, int], *, same_as_ours: bool) -> Iterable[Path]:
    """Where a Python may be: the one below ours first, then the system's, the newest first."""
    base = Path(getattr(sys, "_base_executable", sys.executable))
    others = [] if same_as_ours else [(3, minor) for minor in range(NEWEST_KNOWN, OLDEST[1] - 1, -1)]
    named = [
        Path(folder) / f"python{major}.{minor}"
        for major, minor in (ours, *others)
        for folder in ("/usr/bin", "/usr/local/bin")
    ]
    return dict.fromkeys([base, *(path for path in named if path.exists())])


def fit(path: Path, needed: tuple[int, int] | None, hidden_places: Sequence[str]) -> Interpreter:
    """One Python, if it will do.

    Raises:
        ServiceError: it will not; the message says why.
    """
    version, base, name, full = ask([str(path)])
    if name != "cpython" or version < OLDEST:
        raise ServiceError(
            f"{path} is {name} {full}, and obt-agent needs CPython {OLDEST[0]}.{OLDEST[1]} or later."
        )
    if needed and version != needed:
        raise ServiceError(
            f"{path} is Python {full}, but what is installed here is compiled for {needed[0]}.{needed[1]}; "
            "give --wheel or --find-links to install for another."
        )
    real = Path(base).resolve()
    if why := hidden(real, hidden_places):
        raise ServiceError(f"{real} {why}.")
    return Interpreter(real, version, full)


def ask(command: Sequence[str]) -> tuple[tuple[int, int], str, str, str]:
    """Ask a Python for its version, the interpreter below its venv, its kind and its full version.

    Raises:
        ServiceError: it is none, or does not answer.
    """
    try:
        version, base, name, full = json.loads(System(timeout_s=_WITHIN_S).run([*command, "-I", "-c", _ASK]))
        return (int(version[0]), int(version[1])), str(base), str(name), str(full)
    except (ServiceError, ValueError, TypeError, IndexError) as error:
        raise ServiceError(f"{command[0]} is no Python that runs here.") from error


def hidden(path: Path, paths: Sequence[str] = HIDDEN) -> str | None:
    """Why the service could not run the file; None where it can.

    ``ProtectHome=`` and ``PrivateTmp=`` hide whole trees, and the service's user passes only folders that all
    users pass.
    """
    if any(path.is_relative_to(place) for place in paths):
        return "lies in a folder that the service's sandbox hides"
    # The user obt-agent is in no group that could let it pass, so that only the rights of others count.
    for folder in path.parents:
        if not folder.stat().st_mode & stat.S_IXOTH:
            return f"lies below {folder}, which other users may not enter"
    return None if os.access(path, os.X_OK) else "may not be run"
