"""Write the bill of materials of a release, in CycloneDX 1.6 as JSON: ``python -m scripts.sbom FILE``.

It lists what ``requirements/server.txt`` locks (the agent, the server with PostgreSQL and NATS, uvloop), from
the metadata of the distributions in this environment. The same environment gives the same bytes, at the same
SOURCE_DATE_EPOCH.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement

ROOT: Final = Path(__file__).parents[1]
PROJECT: Final = "obt-agent"
EXTRAS: Final = frozenset({"server", "postgresql", "nats", "uvloop"})
_LICENCE_CLASSIFIER: Final = "License :: OSI Approved :: "
# A "License" field may hold the whole text: its name is short.
_LONGEST_NAME: Final = 60


def build_time() -> datetime:
    """SOURCE_DATE_EPOCH, else the time of the commit."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
        given = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout  # noqa: S603 - fixed words
    return datetime.fromtimestamp(int(given), UTC)


def in_folder(site: Path) -> list[Distribution]:
    """Every distribution that is installed in a folder."""
    return [Distribution.at(folder) for folder in site.glob("*.dist-info")]


def needed(project: str = PROJECT, extras: frozenset[str] = EXTRAS) -> list[Distribution]:
    """The project and what it requires, in this environment."""
    found: dict[tuple[str, frozenset[str]], Distribution] = {}
    waiting = [(canonical(project), extras)]
    while waiting:
        key = waiting.pop()
        if key not in found:
            found[key] = distribution(key[0])
            waiting += [
                (canonical(requirement.name), frozenset(requirement.extras))
                for requirement in _requirements(found[key], key[1])
            ]
    return list(found.values())


def _requirements(one: Distribution, extras: Iterable[str]) -> Iterator[Requirement]:
    """What a distribution requires here, with these extras of its own."""
    for text in one.requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def canonical(name: str) -> str:
    """A distribution's name as it is compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(one: Distribution) -> str:
    """The SPDX expression of its licence, or its name where it gives none."""
    stated = _field(one, "License-Expression") or _field(one, "License")
    if 0 < len(stated) <= _LONGEST_NAME and "\n" not in stated:
        return stated
    classifiers = one.metadata.get_all("Classifier") or ()
    names = [
        line.removeprefix(_LICENCE_CLASSIFIER) for line in classifiers if line.startswith(_LICENCE_CLASSIFIER)
    ]
    return ", ".join(names) or "not stated"


def _field(one: Distribution, name: str) -> str:
    """A field of the metadata; empty where it is missing."""
    values: list[str] = one.metadata.get_all(name) or [""]
    return values[0]


def bill(held: Iterable[Distribution], when: datetime, project: str = PROJECT) -> dict[str, Any]:
    """The bill of materials of these distributions, of which ``project`` is the one that it is about."""
    by_name = {canonical(one.name): one for one in held}
    components = {name: _component(by_name[name]) for name in sorted(by_name)}
    subject = components.pop(project) | {"type": "application"}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        # Of the content, so that equal bills have equal numbers.
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([subject, components]))}",
        "version": 1,
        "metadata": {"timestamp": when.strftime("%Y-%m-%dT%H:%M:%SZ"), "component": subject},
        "components": list(components.values()),
        "dependencies": [
            {"ref": _reference(by_name[name]), "dependsOn": _direct(by_name[name], by_name, project)}
            for name in sorted(by_name)
        ],
    }


def _direct(one: Distribution, by_name: dict[str, Distribution], project: str) -> list[str]:
    """References of those of the others that a distribution requires."""
    extras = _asked(one, by_name[project])
    names = {canonical(requirement.name) for requirement in _requirements(one, extras)}
    # An extra may name its own project.
    return sorted(_reference(by_name[name]) for name in names & set(by_name) - {canonical(one.name)})


def _asked(one: Distribution, project: Distribution) -> frozenset[str]:
    """The extras of a distribution that the project asks for."""
    name = canonical(one.name)
    if name == canonical(project.name):
        return EXTRAS
    asked = (found for found in _requirements(project, EXTRAS) if canonical(found.name) == name)
    return frozenset(extra for found in asked for extra in found.extras)


def _reference(one: Distribution) -> str:
    """The package URL, which names a release in every bill of materials."""
    return f"pkg:pypi/{canonical(one.name)}@{one.version}"


def _component(one: Distribution) -> dict[str, Any]:
    stated = licence(one)
    expression = _field(one, "License-Expression")
    licences = [{"expression": expression}] if expression else [{"license": {"name": stated}}]
    return {
        "type": "library",
        "bom-ref": _reference(one),
        "name": one.name,
        "version": one.version,
        "purl": _reference(one),
        "licenses": licences,
    }


def as_text(document: dict[str, Any]) -> str:
    """As it is written."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write the file."""
    (file,) = map(Path, arguments)
    try:
        text = as_text(bill(needed(), build_time()))
    except PackageNotFoundError as error:
        sys.stderr.write(f"sbom: {error.name} is not installed here: make venv\n")
        return 1
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
