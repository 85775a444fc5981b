"""requirements/: what pyproject.toml asks for, in releases that it allows, each file known by its hash."""

import re
import tomllib
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.lock import ALL, ON_TOP, SETS, pins
from tests.project.paths import ROOT

pytestmark = pytest.mark.lint

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {ALL: ("dev",), **{name: extras for name, (extras, _) in SETS.items()}}


def asked_for(extra: str) -> Iterator[Requirement]:
    """What an extra asks for; one that names other extras of the project asks for what they do."""
    for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
        if requirement.name == PROJECT["name"]:
            for one in requirement.extras:
                yield from asked_for(one)
        else:
            yield requirement


def locked(name: str) -> dict[str, Requirement]:
    text = (ROOT / f"requirements/{name}.txt").read_text()
    found = {package: Requirement(lines.split("\\")[0]) for package, lines in pins(text)}
    without = [package for package, lines in pins(text) if "--hash=sha256:" not in lines]
    assert without == [], "each release has the hashes of its files"
    return found


@pytest.mark.parametrize("name", EXTRAS)
def test_each_file_locks_what_the_project_asks_for(name: str) -> None:
    there = (locked(ALL) if name in ON_TOP else {}) | locked(name)
    needed = [*map(Requirement, PROJECT["dependencies"])]
    needed += [one for extra in EXTRAS[name] for one in asked_for(extra)]
    missing = []
    for requirement in needed:
        pin = there.get(canonicalize_name(requirement.name))
        (release,) = pin.specifier if pin else [None]
        if release is None or not requirement.specifier.contains(release.version):
            missing.append(str(requirement))
    assert missing == [], "run make lock"


def test_no_file_names_an_index() -> None:
    """Whoever installs has an index of their own choice: the hashes are those of the files as published."""
    lines = {
        line
        for file in (ROOT / "requirements").iterdir()
        for line in file.read_text().splitlines()
        if not re.match(r"#|[a-z0-9-]+==[^ ]+ |    --hash=sha256:[0-9a-f]{64}", line) or "://" in line
    }
    assert lines == set()


def test_a_package_has_one_release_in_all_files() -> None:
    everything = {package: pin.specifier for package, pin in locked(ALL).items()}
    others = {
        f"{name}: {package}": (pin.specifier, everything[package])
        for name in ("build", *SETS)
        for package, pin in locked(name).items()
        if package in everything
    }
    assert {name for name, (one, other) in others.items() if one != other} == set(), "run make lock"
