"""The service's own environment: a folder with nothing from anybody's home.

Made by copying the very files that run now (no network, no second resolution: what was tried is what runs),
or from wheels that the owner names. It is made beside the old one and takes its place when it is whole; the
old one is kept until the new one is known to start.
"""

from __future__ import annotations

import csv
import filecmp
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.metadata import Distribution
from pathlib import Path, PurePosixPath
from typing import Final

from obt_agent.service.interpreter import Interpreter
from obt_agent.service.system import ServiceError, System

MARK: Final = ".obt-agent-environment"
_REQUIREMENT: Final = re.compile(r"\s*([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?")
_EXTRA: Final = re.compile(r"extra\s*==\s*[\"']([^\"']+)[\"']")


@dataclass(frozen=True)
class Wheels:
    """Where to install from: a wheel of obt-agent, a folder of wheels, or both. No index is asked."""

    wheel: Path | None = None
    folder: Path | None = None


def make(prefix: Path, python: Interpreter, wheels: Wheels | None, system: System) -> bool:
    """Make the environment, or make it anew; the one before stays until it is discarded or restored.

    Return whether it differs from the one that was there, which stays as it is if not.

    Raises:
        ServiceError: it cannot be made; an environment that was there is untouched.
    """
    fresh = _fresh(prefix)
    # Of an installation that was killed.
    _discard(fresh)
    try:
        fresh.mkdir(parents=True, mode=0o755)
        # First of all, so that what is left of a killed installation may be removed.
        (fresh / MARK).write_text("made by obt-agent service install; replaced and removed as a whole\n")
        site = _skeleton(fresh, prefix, python)
        if wheels:
            _from_wheels(fresh, wheels, system)
        else:
            for distribution in required_distributions("obt-agent"):
                copy(distribution, site)
        _launcher(fresh, prefix)
        # Now, for the service may not write into its own environment.
        system.run([str(fresh / "bin" / "python"), "-I", "-m", "compileall", "-q", str(site)])
        # A missing library shows before anything that works is replaced.
        system.run([str(fresh / "bin" / "python"), "-I", "-c", "import obt_agent.cli"])
        # The times of its files tell whether what runs is older.
        if changed := not _same(fresh, prefix):
            _swap(fresh, prefix)
    except OSError as error:
        raise ServiceError(
            f"{prefix} cannot be made: {error.strerror or error} ({error.filename2 or error.filename}). "
            "What was there before is untouched."
        ) from error
    finally:
        _discard(fresh)
    return changed


def _same(one: Path, other: Path) -> bool:
    """Whether two environments hold the same files, compiled ones aside."""
    names = _files(one)
    return names == _files(other) and all(
        filecmp.cmp(one / name, other / name, shallow=False) for name in names
    )


def _files(folder: Path) -> set[Path]:
    return {
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def discard_previous(prefix: Path) -> None:
    """The new environment works: the one before is not needed any more."""
    _discard(_before(prefix))


def restore(prefix: Path) -> bool:
    """The new environment does not work: put the one before in its place. Says whether there was one."""
    before = _before(prefix)
    if not (before / MARK).is_file():
        return False
    _discard(prefix)
    before.rename(prefix)
    return True


def remove(prefix: Path) -> bool:
    """Remove an environment that ``make`` made; anything else is left. Says whether there was one."""
    for left in (_fresh(prefix), _before(prefix)):  # of an installation that was killed
        _discard(left)
    return _discard(prefix)


def _fresh(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".new")


def _before(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".old")


def _discard(folder: Path) -> bool:
    if not (folder / MARK).is_file() and any(folder.glob("*")):
        raise ServiceError(f"{folder} was not made by obt-agent; move it away.")
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ServiceError(f"{folder} cannot be removed: {error.strerror} ({error.filename}).") from error
    return True


def _skeleton(fresh: Path, prefix: Path, python: Interpreter) -> Path:
    """What makes a folder a virtual environment (PEP 405)."""
    site = fresh / "lib" / f"python{python.short}" / "site-packages"
    site.mkdir(parents=True)
    (fresh / "bin").mkdir()
    (fresh / "bin" / "python").symlink_to(python.path)
    (fresh / "pyvenv.cfg").write_text(
        f"home = {python.path.parent}\ninclude-system-site-packages = false\n"
        f"version = {python.full_version}\n"
        f"command = obt-agent service install (for {prefix})\n"
    )
    return site


def _launcher(fresh: Path, prefix: Path) -> None:
    """``-I``: nothing in the caller's environment or working directory can be imported."""
    for script in (fresh / "bin").iterdir():
        if script.name != "python":
            script.unlink()
    launcher = fresh / "bin" / "obt-agent"
    launcher.write_text(
        f"#!{prefix}/bin/python -I\nimport sys\n\nfrom obt_agent.cli import main\n\nsys.exit(main())\n"
    )
    launcher.chmod(0o755)


def _swap(fresh: Path, prefix: Path) -> None:
    if prefix.exists():
        if not (prefix / MARK).is_file():
            raise ServiceError(f"{prefix} was not made by obt-agent; move it away.")
        _discard(_before(prefix))
        prefix.rename(_before(prefix))
    # Scripts and pyvenv.cfg were written for the final path.
    fresh.rename(prefix)


def _from_wheels(fresh: Path, wheels: Wheels, system: System) -> None:
    if importlib.util.find_spec("pip") is None:
        raise ServiceError(
            f"{sys.executable} has no pip, which installs wheels. Run obt-agent from an environment that has "
            "it (python3 -m venv DIR), or leave out --wheel and --find-links: then what runs now is copied."
        )
    folder = wheels.folder or (wheels.wheel.parent if wheels.wheel else None)
    command = [sys.executable, "-I", "-m", "pip", "--python", str(fresh / "bin" / "python")]
    command += ["--disable-pip-version-check", "--quiet", "install", "--no-index", "--no-compile"]
    command += ["--find-links", str(folder), str(wheels.wheel) if wheels.wheel else "obt-agent"]
    system.run(command)


def required_distributions(root: str) -> tuple[Distribution, ...]:
    """The installed distributions that one needs, itself first. Extras that are not installed are left out.

    Raises:
        ServiceError: it runs from a checkout, so that there are no files to copy.
    """
    found: dict[str, Distribution] = {}
    # uvloop is an extra, and taken along where it is installed.
    waiting: list[tuple[str, frozenset[str]]] = [(root, frozenset({"uvloop"}))]
    while waiting:
        name, extras = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        distribution = _installed(name)
        if key in found or distribution is None:
            continue
        if editable(distribution):
            raise ServiceError(
                f"{name} runs from a checkout, which the service cannot. Build a wheel and give it with "
                "--wheel, or install the agent with pip or pipx first."
            )
        found[key] = distribution
        waiting += needs(distribution, extras)
    return tuple(found.values())


def _installed(name: str) -> Distribution | None:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def editable(distribution: Distribution) -> bool:
    """Whether it runs from a checkout (PEP 610)."""
    origin = distribution.read_text("direct_url.json")
    return bool(origin and json.loads(origin).get("dir_info", {}).get("editable"))


def needs(distribution: Distribution, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """Names and extras that a distribution requires with these extras of its own.

    Other markers are not read: what they left out is not installed.
    """
    for requirement in distribution.requires or ():
        specifier, _, marker = requirement.partition(";")
        asked_by = _EXTRA.search(marker)
        if asked_by and asked_by.group(1) not in extras:
            continue
        if matched := _REQUIREMENT.match(specifier):
            wanted = (extra.strip() for extra in (matched.group(2) or "").split(","))
            yield matched.group(1), frozenset(filter(None, wanted))


def copy(distribution: Distribution, site: Path) -> None:
    """Copy a distribution's files into another ``site-packages``; scripts and compiled files stay behind.

    Raises:
        ServiceError: a file that it lists is not there.
    """
    # Not distribution.files: since Python 3.12 it leaves out what is missing, and a part would be copied.
    record = distribution.read_text("RECORD")
    if record is None:
        raise ServiceError(f"{distribution.name} lists no files, so that it cannot be copied; give --wheel.")
    for name, *_ in csv.reader(record.splitlines()):
        file = PurePosixPath(name)
        if ".." in file.parts or "__pycache__" in file.parts or file.is_absolute():
            continue
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(Path(str(distribution.locate_file(name))), target)
        except FileNotFoundError as error:
            raise ServiceError(
                f"{error.filename} is missing: install obt-agent anew, then try again."
            ) from error
