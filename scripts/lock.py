"""Lock releases with the hashes of all their files in requirements/: ``python scripts/lock.py [--upgrade]``.

Each file holds for every Python and system that the project supports, and pip alone installs it (``pip
install --require-hashes -r``). Releases that are locked stay as they are as long as pyproject.toml allows
them; ``--upgrade`` takes the newest of everything.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "requirements"
UV: Final = Path(sysconfig.get_path("scripts")) / "uv"
WITHIN_S: Final = 600
# The file of all checks, which is resolved first: what stands in others too has the same release there.
ALL: Final = "dev"
# The extras of each other file, and what it is for.
SETS: Final = {
    "agent": ((), "The agent alone."),
    "server": (
        ("server", "postgresql", "nats", "uvloop"),
        "The server with all that it may run on, the agent and uvloop; the demonstration runs with it, too.",
    ),
    "docs": (("docs",), f"What make site needs beside {ALL}.txt."),
    "clients": (("server", "uvloop", "clients"), f"What make test-clients needs beside {ALL}.txt."),
}
# Packages that a file consists of, with what they need; no extra names them alone.
BUILD: Final = ("hatchling", "editables")
# Of these only what ALL does not have is listed: they are installed on top of it.
ON_TOP: Final = frozenset({"docs", "clients"})
# The oldest C library of these (2.28) is that of Debian 10 and RHEL 8.
PLATFORMS: Final = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28")
PIN: Final = re.compile(r"^([a-z0-9-]+)==", flags=re.MULTILINE)


def pins(text: str) -> Iterator[tuple[str, str]]:
    """Yield the name of each package of a requirements file with its lines: release, marker, hashes."""
    # A pin begins its line; comments do too, and its hashes are indented.
    for block in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE):
        if named := PIN.match(block):
            yield named.group(1), block


def lock(
    name: str,
    extras: tuple[str, ...] = (),
    *,
    packages: tuple[str, ...] = (),
    upgrade: bool = False,
    constraints: Path | None = None,
) -> str:
    """Return the lines of one file: what the project needs with extras, or packages and what those need."""
    with tempfile.TemporaryDirectory() as folder:
        # Resolved beside the old file: uv prefers the releases that it finds in its output.
        output = Path(folder) / f"{name}.txt"
        old = FOLDER / output.name
        output.write_text(old.read_text() if old.exists() and not upgrade else "")
        asked = Path(folder) / "asked.in"
        asked.write_text("\n".join(packages))
        # One release for every Python: what passes on one must be what runs on the others.
        options = ["--universal", "--python-version", _pythons()[0], "--fork-strategy", "fewest"]
        options += ["--generate-hashes", "--no-annotate", "--no-header", "--output-file", str(output)]
        options += [] if constraints is None else ["--constraint", str(constraints)]
        options += [word for extra in extras for word in ("--extra", extra)]
        _uv("compile", *options, str(asked) if packages else "pyproject.toml")
        return output.read_text()


def check_wheels(*paths: Path) -> None:
    """Refuse a release without a wheel for each Python and system: what builds it would have no hash.

    Refuse a gap, too, for what these files hold is installed without a look at what it needs.
    """
    for python in _pythons():
        for platform in PLATFORMS:
            with tempfile.TemporaryDirectory() as folder:
                options = ["--python-version", python, "--python-platform", platform, "--dry-run"]
                options += ["--target", folder, "--only-binary", ":all:", "--require-hashes"]
                _uv("install", *options, *(word for path in paths for word in ("-r", str(path))))


def _pythons() -> list[str]:
    text = (ROOT / "pyproject.toml").read_text()
    return re.findall(r"Programming Language :: Python :: (3\.\d+)", text)


def _uv(command: str, *options: str) -> None:
    words = [str(UV), "pip", command, "--quiet", *options]
    subprocess.run(words, cwd=ROOT, timeout=WITHIN_S, check=True)  # noqa: S603 - the uv of .venv, with options of ours


def _write(name: str, about: str, text: str) -> Path:
    path = FOLDER / f"{name}.txt"
    path.write_text(f"# {about}\n# To renew: make lock\n{text}")
    return path


def main(arguments: list[str]) -> int:
    """Resolve and write all files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--upgrade", action="store_true", help="take the newest release of everything")
    upgrade = parser.parse_args(arguments).upgrade
    FOLDER.mkdir(exist_ok=True)
    everything = lock(ALL, ("dev",), upgrade=upgrade)
    written = _write(ALL, "Everything that the checks run with.", everything)
    check_wheels(written)
    check_wheels(
        _write("build", "What builds the project.", lock("build", packages=BUILD, constraints=written))
    )
    # What has a marker there may be needed elsewhere without it: the first line says release and marker.
    there = {lines.splitlines()[0] for _, lines in pins(everything)}
    for name, (extras, about) in SETS.items():
        text = lock(name, extras, upgrade=upgrade, constraints=written)
        if name in ON_TOP:
            text = "".join(lines for _, lines in pins(text) if lines.splitlines()[0] not in there)
        path = _write(name, about, text)
        check_wheels(*((written, path) if name in ON_TOP else (path,)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
